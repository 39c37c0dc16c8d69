"""Scripted policies without a model: their expected figures are known in advance."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cot_builder.inspection.episode import GeneratedTurn
from cot_builder.inspection.rendering import render_verdict
from cot_builder.storage.samples import DamagedImageError
from eval.policies import EvalContext, PolicyAnswer, failed_answer, start_episode, to_answer
from schemas.geometry import SCALE, Box, from_pixels
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Verdict

WHOLE_IMAGE: Box = (0, 0, SCALE, SCALE)
DEFAULT_TYPE = "scratch"
"""Type that policies name if they cannot tell types apart."""
WORKING_SIDE = 448
"""Longest side of the image that the heuristic works on, pixels."""
BLUR_SIGMA, MEAN_SIDE = 2.0, 9
"""Sigma of the blur that the residual is taken against, and side of the window that averages it; pixels."""
EVEN_ODDS_DEVIATIONS = 13.5
"""Deviations of the largest residual at which the margin is 0: the median of the normal photographs of the training
set (hazelnut of Real-IAD)."""


class Opinion(NamedTuple):
    """Verdict and margin of a scripted policy."""

    verdict: Verdict
    margin: float | None = None


def ask_scripted(
    context: EvalContext, samples: Sequence[Sample], truth: Mapping[str, Supervision]
) -> Iterator[tuple[Sample, PolicyAnswer]]:
    """Run the scripted policy that ``evaluate.policy`` names.

    Args:
        context: Context of the evaluation.
        samples: Samples to evaluate.
        truth: Ground truth by sample id; only the oracle uses it.
    """
    name = context.params.evaluate.policy
    for sample in samples:
        started = time.perf_counter()
        try:
            episode = start_episode(context, sample)
            if name == "oracle":
                opinion = oracle(truth[sample.sample_id])
            elif name == "residual":
                opinion = residual(context.images.pixels(sample))
            else:
                opinion = blind(name, f"{context.params.run.seed}/{sample.sample_id}")
        except DamagedImageError as error:
            yield sample, failed_answer(str(error))
            continue
        episode.add_turn(
            GeneratedTurn(f"<think>I am the scripted policy {name}.</think>{render_verdict(opinion.verdict)}")
        )
        yield sample, to_answer(context, episode, seconds=time.perf_counter() - started, margin=opinion.margin)


def oracle(truth: Supervision) -> Opinion:
    """The ground truth; the box is the whole image if no mask is published."""
    if truth.label == "normal":
        return Opinion(Verdict(answer="No"), -1.0)
    assert truth.defect_type is not None
    return Opinion(Verdict(answer="Yes", boxes=truth.boxes or [WHOLE_IMAGE], defect_type=truth.defect_type), 1.0)


def blind(name: str, key: str) -> Opinion:
    """Answers of always-yes, always-no and coin, which ignore the image."""
    yes = name == "always-yes" or (name == "coin" and hashlib.sha256(key.encode()).digest()[0] % 2 == 1)
    return Opinion(
        Verdict(answer="Yes", boxes=[WHOLE_IMAGE], defect_type=DEFAULT_TYPE) if yes else Verdict(answer="No")
    )


def residual(pixels: np.ndarray) -> Opinion:
    """Find where fine detail stands out most, and by how much relative to the rest of the image.

    Args:
        pixels: uint8 (height, width, 3) BGR.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(np.float32)
    strength = cv2.blur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), BLUR_SIGMA)), (MEAN_SIDE, MEAN_SIDE))
    middle = float(np.median(strength))
    deviation = 1.4826 * float(np.median(np.abs(strength - middle))) + 0.1
    _, peak, _, (x, y) = cv2.minMaxLoc(strength)
    margin = math.log(max((peak - middle) / deviation, 1e-3) / EVEN_ODDS_DEVIATIONS)
    if margin <= 0:
        return Opinion(Verdict(answer="No"), margin)
    marked = (strength >= (peak + middle) / 2).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    left, top, wide, tall = stats[labels[y, x], :4].tolist()
    box = from_pixels((left, top, left + wide, top + tall), *size)
    return Opinion(Verdict(answer="Yes", boxes=[box], defect_type=DEFAULT_TYPE), margin)

"""Policies that are no model: what the figures must be for them is known beforehand."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cot_builder.inspection.episode import Written
from cot_builder.inspection.rendering import verdict_text
from cot_builder.storage.samples import DamagedImageError
from eval.policies import Exam, Said, begin, failed, told
from schemas.geometry import SCALE, Box, from_pixels
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Verdict

EVERYWHERE: Box = (0, 0, SCALE, SCALE)
SOME_TYPE = "scratch"
"""Named by policies that know of none."""
WORKING_SIDE = 448
"""Pixels of the longest side that the heuristic looks at."""
FINE, AREA = 2.0, 9
"""Deviation of the blur that a residual is taken against, and side of what it is averaged over, pixels."""
STRIKING = 13.5
"""By how many deviations the largest residual stands out for an even chance of a defect: what half of the normal
photographs of the training set (hazelnut of Real-IAD) stay below."""


class Opinion(NamedTuple):
    """What a scripted policy says."""

    verdict: Verdict
    margin: float | None = None


def scripted(exam: Exam, samples: Sequence[Sample], truth: Mapping[str, Supervision]) -> Iterator[tuple[Sample, Said]]:
    """Ask a scripted policy.

    Args:
        exam: Names it.
        samples: What to ask about.
        truth: By sample; the oracle alone is given it.
    """
    name = exam.params.evaluate.policy
    for sample in samples:
        started = time.perf_counter()
        try:
            episode = begin(exam, sample)
            if name == "oracle":
                opinion = oracle(truth[sample.sample_id])
            elif name == "residual":
                opinion = residual(exam.images.pixels(sample))
            else:
                opinion = blind(name, f"{exam.params.run.seed}/{sample.sample_id}")
        except DamagedImageError as error:
            yield sample, failed(str(error))
            continue
        episode.take(Written(f"<think>I am the scripted policy {name}.</think>{verdict_text(opinion.verdict)}"))
        yield sample, told(exam, episode, seconds=time.perf_counter() - started, margin=opinion.margin)


def oracle(truth: Supervision) -> Opinion:
    """The truth; where no mask is published, the whole image is the place."""
    if truth.label == "normal":
        return Opinion(Verdict(answer="No"), -1.0)
    assert truth.defect_type is not None
    return Opinion(Verdict(answer="Yes", boxes=truth.boxes or [EVERYWHERE], defect_type=truth.defect_type), 1.0)


def blind(name: str, key: str) -> Opinion:
    """What always-yes, always-no and coin say, without a look."""
    yes = name == "always-yes" or (name == "coin" and hashlib.sha256(key.encode()).digest()[0] % 2 == 1)
    return Opinion(Verdict(answer="Yes", boxes=[EVERYWHERE], defect_type=SOME_TYPE) if yes else Verdict(answer="No"))


def residual(pixels: np.ndarray) -> Opinion:
    """Where fine detail stands out most, and by how much against the rest of the image.

    Args:
        pixels: uint8 (height, width, 3) BGR.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(np.float32)
    strength = cv2.blur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), FINE)), (AREA, AREA))
    middle = float(np.median(strength))
    deviation = 1.4826 * float(np.median(np.abs(strength - middle))) + 0.1
    _, peak, _, (x, y) = cv2.minMaxLoc(strength)
    margin = math.log(max((peak - middle) / deviation, 1e-3) / STRIKING)
    if margin <= 0:
        return Opinion(Verdict(answer="No"), margin)
    marked = (strength >= (peak + middle) / 2).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    left, top, wide, tall = stats[labels[y, x], :4].tolist()
    box = from_pixels((left, top, left + wide, top + tall), *size)
    return Opinion(Verdict(answer="Yes", boxes=[box], defect_type=SOME_TYPE), margin)

"""The offline teacher: a deterministic inspector that calls the real tools and describes its measurements in words.

Supervision determines the verdict and, on a defective part, where to look; whether a place is harmless or a defect
comes from supervision too. Tone, colour, shape, border and grain are measured, and numbers come from observations.
Until the first observation, sound and defective parts are described and examined by the same rules and measurements,
so that the beginning of an inspection does not reveal its verdict.
"""

import hashlib
from collections.abc import Mapping
from random import Random

import numpy as np

from cot_builder.inspection.appearance import MeasuredImage
from cot_builder.inspection.names import category_name
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.teacher.offline.defective import inspect_defective
from cot_builder.teacher.offline.inspection import Inspection
from cot_builder.teacher.offline.sound import inspect_sound
from schemas.geometry import SCALE, Box, area, expand, hull, iou, union_iou
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Trajectory

TEACHER = "offline"
PROMPT_VERSION = "offline-2"
MAX_BOXES = 6


def draft_offline(
    image: np.ndarray,
    sample: Sample,
    supervision: Supervision,
    priors: Mapping[tuple[str, str], str],
    *,
    seed: int,
    candidate: int,
    max_calls: int,
) -> tuple[Trajectory, dict[str, bytes]]:
    """Draft one trajectory.

    Args:
        image: uint8 (height, width, 3) BGR.
        sample: The sample.
        supervision: Its ground truth, used for the verdict and the place only.
        priors: Normalcy texts by (category, view).
        seed: Seed of the run; with the sample id and ``candidate`` it determines every random choice.
        candidate: Number of the draft of this sample.
        max_calls: Maximum number of tool calls.

    Returns:
        The trajectory, and the PNG bytes of its observation images by sha256.
    """
    key = hashlib.sha256(f"{seed}/{sample.sample_id}/{candidate}".encode()).digest()
    look = MeasuredImage(image)
    case = Inspection(
        look,
        Toolbox(image, priors),
        Random(int.from_bytes(key[:8], "big")),
        category_name(sample.category),
        sample,
        bool(priors),
        max_calls,
    )
    if supervision.label == "anomalous":
        boxes = verdict_boxes(supervision.boxes) or [(0, 0, SCALE, SCALE)]
        trajectory = inspect_defective(case, boxes, supervision.defect_type or "unspecified")
    else:
        trajectory = inspect_sound(case)
    return trajectory, case.images


def verdict_boxes(boxes: list[Box]) -> list[Box]:
    """Return the boxes to name in a verdict: at most six; near boxes are joined while they still fit the true boxes."""
    named = list(boxes)
    while len(named) > 1:
        pairs = [(i, j) for i in range(len(named)) for j in range(i + 1, len(named))] if len(named) <= 40 else []
        if not pairs:
            named = sorted(named, key=area, reverse=True)[:40]
            continue
        i, j = min(
            pairs,
            key=lambda pair: area(hull([named[pair[0]], named[pair[1]]])) - area(named[pair[0]]) - area(named[pair[1]]),
        )
        joined = [box for k, box in enumerate(named) if k not in (i, j)] + [hull([named[i], named[j]])]
        close = iou(expand(named[i], 1.3, 30), expand(named[j], 1.3, 30)) > 0
        if len(named) <= MAX_BOXES and not (close and union_iou(joined, boxes) >= 0.7):
            break
        if len(named) > MAX_BOXES and union_iou(joined, boxes) < 0.6:
            named = sorted(boxes, key=area, reverse=True)[:MAX_BOXES]
            break
        named = joined
    return sorted(named, key=area, reverse=True)

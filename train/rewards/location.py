"""R_loc: whether the boxes are where the defect is."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from schemas.geometry import Box, union_iou
from train.rewards.term import Completion, reward_term


@reward_term(weight="alpha", default=0.8, title="Location", note="R_acc · R_loc, IoU of the boxes", limits=(0.0, 1.0))
def location_reward(completions: Sequence[Completion], boxes: Sequence[Sequence[Box]], **_: Any) -> list[float]:
    """R_acc R_loc, in [0, 1].

    IoU of the regions that the boxes cover together: a box named twice, or split in two, changes nothing, and boxes
    scattered to hit something pay with their area. A right No agrees with a truth without boxes and has 1, as much as
    a perfect Yes: whoever is unsure gains nothing by preferring one of them. A location on a normal image is a wrong
    Yes and has 0, and so has one written beside a No, which is malformed. A Yes on a defect whose place was never
    published has 0 wherever it points: nothing is paid that cannot be checked.
    """
    return [
        union_iou(reading.verdict.boxes, true) if reading.verdict else 0.0
        for reading, true in zip(map(parse_completion, completions), boxes, strict=True)
    ]

"""R_loc: whether the boxes are where the defect is."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from schemas.geometry import Box, union_iou
from train.rewards.term import Completion, reward_term


@reward_term(weight="alpha", default=0.8, title="Location", note="R_acc · R_loc, IoU of the boxes", limits=(0.0, 1.0))
def location_reward(completions: Sequence[Completion], boxes: Sequence[Sequence[Box]], **_: Any) -> list[float]:
    """R_acc R_loc, in [0, 1].

    It is the IoU of the regions that all predicted and all true boxes cover. So naming a box twice or splitting it
    changes nothing, and boxes scattered to hit something cost area. A right No has no boxes, like the truth, and scores
    1, as much as a perfect Yes: an unsure policy gains nothing by preferring one of the answers. A location on a normal
    image is a wrong Yes and scores 0. A location next to a No is malformed and scores 0 too. A Yes on a defect whose
    place was never published scores 0 for any location, because it cannot be checked.
    """
    return [
        union_iou(reading.verdict.boxes, true) if reading.verdict else 0.0
        for reading, true in zip(map(parse_completion, completions), boxes, strict=True)
    ]

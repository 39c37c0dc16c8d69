"""R_type: whether the defect is given the right name."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from schemas.taxonomy import similarity
from train.rewards.term import Completion, reward_term


@reward_term(
    weight="beta", default=0.6, title="Type", note="R_acc · R_type, likeness in the taxonomy", limits=(0.0, 1.0)
)
def type_reward(completions: Sequence[Completion], defect_type: Sequence[str | None], **_: Any) -> list[float]:
    """R_acc R_type, in [0, 1]: likeness of the types in the taxonomy; 1 for a right No, as for the location.

    Naming ``unspecified`` to be safe earns less than naming the right family.
    """
    return [
        _likeness(reading.verdict.defect_type, true) if reading.verdict else 0.0
        for reading, true in zip(map(parse_completion, completions), defect_type, strict=True)
    ]


def _likeness(named: str | None, true: str | None) -> float:
    if named is None or true is None:
        return float(named == true)
    return similarity(named, true)

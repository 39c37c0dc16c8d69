"""R_type: whether the defect type is right."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from schemas.taxonomy import similarity
from train.rewards.term import Completion, reward_term


@reward_term(
    weight="beta", default=0.6, title="Type", note="R_acc · R_type, similarity in the taxonomy", limits=(0.0, 1.0)
)
def type_reward(completions: Sequence[Completion], defect_type: Sequence[str | None], **_: Any) -> list[float]:
    """R_acc R_type, in [0, 1]: similarity of the types in the taxonomy; a right No scores 1, as for the location.

    Answering ``unspecified`` to be safe earns less than a type of the right family.
    """
    return [
        _type_likeness(reading.verdict.defect_type, true) if reading.verdict else 0.0
        for reading, true in zip(map(parse_completion, completions), defect_type, strict=True)
    ]


def _type_likeness(named: str | None, true: str | None) -> float:
    if named is None or true is None:
        return float(named == true)
    return similarity(named, true)

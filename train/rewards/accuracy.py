"""R_acc, the gate."""

from collections.abc import Sequence
from typing import Any

from train.rewards.term import Completion, is_right, reward_term


@reward_term(
    weight=None,
    default=1.0,
    title="Right verdicts",
    note="R_acc, the gate of the terms behind it",
    gated=False,
    limits=(0.0, 1.0),
)
def accuracy_reward(completions: Sequence[Completion], answer: Sequence[str], **_: Any) -> list[float]:
    """R_acc, the gate: 1 if the only verdict is right, otherwise 0."""
    return [float(is_right(written, truth)) for written, truth in zip(completions, answer, strict=True)]

"""R_format: a penalty for malformed output."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from train.rewards.term import Completion, reward_term


@reward_term(
    weight="format_penalty",
    default=0.5,
    title="Format",
    note="R_format, a penalty before its weight",
    gated=False,
)
def format_reward(completions: Sequence[Completion], **_: Any) -> list[float]:
    """R_format before its weight, outside the gate: -1 if anything is malformed, otherwise 0.

    Malformed are: a last turn that is not one thought and one verdict; a turn with a call that is not one thought and
    one call; and a call of an unknown tool or with wrong arguments. The penalty does not depend on the number of
    faults.
    """
    return [-1.0 if parse_completion(written).faults else 0.0 for written in completions]

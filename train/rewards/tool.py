"""R_tool: a bonus if tool calls helped, minus a cost per call."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from train.rewards.term import Completion, reward_term


@reward_term(
    weight="gamma", default=0.5, title="Use of tools", note="R_acc · R_tool: bonus if confidence rose, minus call costs"
)
def tool_reward(
    completions: Sequence[Completion],
    dconf: Sequence[float],
    lambda_: float = 0.3,
    eta: float = 0.1,
    **_: Any,
) -> list[float]:
    """R_acc R_tool = R_acc (lambda 1[dconf > 0] - eta |C|), at most lambda - eta, without a lower bound.

    |C| counts every call in valid syntax, also one that the tool refused (``error: …``); otherwise failing would be
    free. A call in invalid syntax costs in :func:`~train.rewards.format.format_reward`. The bonus is paid at most once
    per completion, and only if an observation is no error. An undefined dconf (NaN) earns no bonus.

    Args:
        dconf: Rise of the margin of the true answer over the other answer through calls and observations,
            ``m(y | image, question, calls, observations) - m(y | image, question)``.
        lambda_: Bonus for calls that helped.
        eta: Cost of a call.
    """
    return [
        lambda_ * (gain > 0 and reading.observed > 0) - eta * reading.calls
        for reading, gain in zip(map(parse_completion, completions), dconf, strict=True)
    ]

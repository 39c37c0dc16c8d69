"""R_tool: whether looking closer helped, less the cost of every look."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from train.rewards.term import Completion, reward_term


@reward_term(
    weight="gamma", default=0.5, title="Use of tools", note="R_acc · R_tool: confidence that rose, less each call"
)
def tool_reward(
    completions: Sequence[Completion],
    dconf: Sequence[float],
    lambda_: float = 0.3,
    eta: float = 0.1,
    **_: Any,
) -> list[float]:
    """R_acc R_tool = R_acc (lambda 1[dconf > 0] - eta |C|), at most lambda - eta, without a lower bound.

    |C| counts every call in the right syntax, so that a call costs whatever it returns: one that the tool refused
    (``error: …``) counts too, else failing would be free. One in the wrong syntax costs in
    :func:`~train.rewards.format.format_reward`. The bonus needs an observation that is no error, is paid once however
    many calls there are, and an undefined dconf (NaN) earns none.

    Args:
        dconf: By how much the calls and observations raised the margin of the true answer over the other,
            ``m(y | image, question, calls, observations) - m(y | image, question)``.
        lambda_: Bonus for calls that helped.
        eta: Cost of a call.
    """
    return [
        lambda_ * (gain > 0 and reading.observed > 0) - eta * reading.calls
        for reading, gain in zip(map(parse_completion, completions), dconf, strict=True)
    ]

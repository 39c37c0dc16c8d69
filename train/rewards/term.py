"""What a term of the reward is: one decorated function that declares its weight, its parameters and its chart."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from cot_builder.inspection.parsing import parse_completion
from cot_builder.inspection.rendering import Message

Completion = Sequence[Message]
RewardFunction = Callable[..., list[float]]


@dataclass(frozen=True)
class Term:
    """A term of the reward."""

    function: RewardFunction
    """Its scores, a completion each; behind the gate if it is to be."""
    weight: str | None
    """The parameter of ``grpo.reward`` that weighs it; None: nobody may change the weight."""
    default: float
    """The weight where no parameter says another."""
    parameters: Mapping[str, float]
    """Further parameters of ``grpo.reward`` with their defaults: arguments of the function that have one."""
    gated: bool
    title: str
    note: str
    limits: tuple[float, float] | None
    asks_confidence: bool
    """Whether the function takes ``dconf``, which costs two passes of the policy."""

    @property
    def name(self) -> str:
        """Name for people: that of the function without ``_reward``."""
        return self.function.__name__.removesuffix("_reward")

    @property
    def column(self) -> str:
        """Its mean, as TRL logs it."""
        return f"rewards/{self.function.__name__}/mean"


DECLARED: dict[str, Term] = {}
"""By name; :mod:`train.rewards` fills it."""


def reward_term(
    *,
    weight: str | None,
    default: float,
    title: str,
    note: str,
    gated: bool = True,
    limits: tuple[float, float] | None = None,
) -> Callable[[RewardFunction], RewardFunction]:
    """Declare a function a term of the reward.

    The function is named ``NAME_reward``. It takes ``completions``, whichever it needs of the truth
    (:mod:`train.truth`: ``answer``, ``boxes``, ``defect_type``; a value a completion), and ``**_`` for the rest, and
    returns a score a completion. An argument ``dconf`` asks for the gains in confidence. An argument with a default is
    a parameter of ``grpo.reward``.

    Args:
        weight: The parameter of ``grpo.reward`` that weighs it, 0 or more; None: nobody may change the weight.
        default: The weight where no parameter says another.
        title: Of its chart.
        note: What is drawn.
        gated: Whether only a completion with the right verdict has a score; all others have 0.
        limits: Least and largest score; None where there are none.
    """

    def declare(function: RewardFunction) -> RewardFunction:
        scored = _behind_gate(function) if gated else function
        arguments = inspect.signature(function).parameters
        own = {name: item.default for name, item in arguments.items() if item.default is not item.empty}
        term = Term(scored, weight, default, own, gated, title, note, limits, "dconf" in arguments)
        taken = {name for other in DECLARED.values() for name in (other.weight, *other.parameters)} - {None}
        assert term.name not in DECLARED, f"two terms of the reward are named {term.name}"
        assert not taken & {weight, *own}, f"the term {term.name} shares a parameter with another"
        DECLARED[term.name] = term
        return scored

    return declare


def is_right(completion: Completion, truth: str) -> bool:
    """Whether the one verdict of ``completion`` is the true one."""
    verdict = parse_completion(completion).verdict
    return verdict is not None and verdict.answer == truth


def _behind_gate(function: RewardFunction) -> RewardFunction:
    @wraps(function)
    def gated(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float]:
        scores = function(completions=completions, answer=answer, **columns)
        rows = zip(completions, answer, scores, strict=True)
        return [score if is_right(written, truth) else 0.0 for written, truth, score in rows]

    return gated

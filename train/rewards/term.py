"""Defines a term of the reward: one decorated function that declares its weight, its parameters and its chart."""

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
    """Returns one score per completion; a gated term returns 0 for wrong verdicts."""
    weight: str | None
    """Name of the parameter of ``grpo.reward`` that sets its weight; None if the weight is fixed."""
    default: float
    """Default weight."""
    parameters: Mapping[str, float]
    """Further parameters of ``grpo.reward`` with their defaults: the function's arguments that have a default."""
    gated: bool
    title: str
    note: str
    limits: tuple[float, float] | None
    asks_confidence: bool
    """Whether the function takes ``dconf``, which costs two forward passes of the policy."""

    @property
    def name(self) -> str:
        """Display name: the name of the function without ``_reward``."""
        return self.function.__name__.removesuffix("_reward")

    @property
    def column(self) -> str:
        """Key under which TRL logs its mean."""
        return f"rewards/{self.function.__name__}/mean"


DECLARED_TERMS: dict[str, Term] = {}
"""Declared terms by name; importing :mod:`train.rewards` fills it."""


def reward_term(
    *,
    weight: str | None,
    default: float,
    title: str,
    note: str,
    gated: bool = True,
    limits: tuple[float, float] | None = None,
) -> Callable[[RewardFunction], RewardFunction]:
    """Declare a function as a term of the reward.

    The function is named ``NAME_reward``. It takes ``completions``, the columns of the truth that it needs
    (:mod:`train.truth`: ``answer``, ``boxes``, ``defect_type``; one value per completion), and ``**_`` for the others,
    and returns one score per completion. An argument ``dconf`` requests the gains in confidence. An argument with a
    default becomes a parameter of ``grpo.reward``.

    Args:
        weight: Name of the parameter of ``grpo.reward`` that sets its weight, 0 or more; None fixes the weight.
        default: Default weight.
        title: Title of its chart.
        note: Description of its chart.
        gated: Whether completions with a wrong verdict score 0.
        limits: Smallest and largest score; None if unbounded.
    """

    def declare(function: RewardFunction) -> RewardFunction:
        scored = _behind_gate(function) if gated else function
        arguments = inspect.signature(function).parameters
        own = {name: item.default for name, item in arguments.items() if item.default is not item.empty}
        term = Term(scored, weight, default, own, gated, title, note, limits, "dconf" in arguments)
        taken = {name for other in DECLARED_TERMS.values() for name in (other.weight, *other.parameters)} - {None}
        assert term.name not in DECLARED_TERMS, f"two terms of the reward are named {term.name}"
        assert not taken & {weight, *own}, f"the term {term.name} shares a parameter with another term"
        DECLARED_TERMS[term.name] = term
        return scored

    return declare


def is_right(completion: Completion, truth: str) -> bool:
    """Whether ``completion`` has exactly one verdict, with the right answer."""
    verdict = parse_completion(completion).verdict
    return verdict is not None and verdict.answer == truth


def _behind_gate(function: RewardFunction) -> RewardFunction:
    @wraps(function)
    def gated(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float]:
        scores = function(completions=completions, answer=answer, **columns)
        rows = zip(completions, answer, scores, strict=True)
        return [score if is_right(written, truth) else 0.0 for written, truth, score in rows]

    return gated

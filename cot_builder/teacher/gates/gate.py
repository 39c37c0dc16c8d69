"""The gate decorator, the case that a gate judges, and the registry of all gates."""

from collections.abc import Callable
from dataclasses import dataclass

from cot_builder.params import Draft as DraftParams
from cot_builder.teacher.leaks import replace_category_name
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Trajectory, Violation


@dataclass(frozen=True)
class Case:
    """One draft, with the sample, supervision and parameters that it is checked against."""

    trajectory: Trajectory
    sample: Sample
    supervision: Supervision
    params: DraftParams

    def own_words(self, text: str) -> str:
        """Return ``text`` without the category's name: the name is given, so gates on wording must not judge it."""
        return replace_category_name(text, self.sample.category)


AUDIT, JUDGE, UNFINISHED = "audit", "judge", "unfinished"
"""Gate names of violations from an endpoint teacher's audit, its judge, and drafts whose later answers failed."""
Gate = Callable[[Case], list[str]]
GATES: dict[str, Gate] = {}
"""All gates by name, in the order in which drafts record them."""


def gate(function: Gate) -> Gate:
    """Register a function as a gate under its own name.

    The function returns one sentence per violation, and an empty list if the draft passes. The report shows the first
    sentence of its docstring as the rule.

    Raises:
        TypeError: another gate has that name, or the function has no docstring.
    """
    name = function.__name__
    if name in GATES:
        raise TypeError(f"gate {name}: the name is already used in {GATES[name].__module__}; rename one of them")
    if not function.__doc__:
        raise TypeError(f"gate {name}: add a docstring that states the rule; the report shows its first sentence")
    GATES[name] = function
    return function


def run_gates(case: Case) -> list[Violation]:
    """Run all gates on one draft, and return the violations."""
    return [Violation(gate=name, reason=reason) for name, gate in GATES.items() for reason in gate(case)]

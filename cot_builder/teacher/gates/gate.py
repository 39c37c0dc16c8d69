"""A gate, the case it judges, and the table of all gates."""

from collections.abc import Callable
from dataclasses import dataclass

from cot_builder.params import Draft as DraftParams
from cot_builder.teacher.leaks import without_name
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.trajectory import Trajectory, Violation


@dataclass(frozen=True)
class Case:
    """One draft with what it is held against."""

    trajectory: Trajectory
    sample: Sample
    supervision: Supervision
    params: DraftParams

    def own_words(self, text: str) -> str:
        """``text`` without the category's name, which is not the drafter's word."""
        return without_name(text, self.sample.category)


Gate = Callable[[Case], list[str]]
GATES: dict[str, Gate] = {}
"""Every gate by its name, in the order in which drafts record them."""


def gate(function: Gate) -> Gate:
    """Make a function a gate, under its own name.

    The function returns what it found wrong, a sentence each, and an empty list where the draft passes; the first
    sentence of its docstring says in the report what it asks.

    Raises:
        TypeError: another gate has that name, or it has no docstring.
    """
    name = function.__name__
    if name in GATES:
        raise TypeError(f"gate {name}: {GATES[name].__module__} has one of that name already")
    if not function.__doc__:
        raise TypeError(f"gate {name}: its docstring has to say what it asks")
    GATES[name] = function
    return function


def run_gates(case: Case) -> list[Violation]:
    """Every gate on one draft."""
    return [Violation(gate=name, reason=reason) for name, gate in GATES.items() for reason in gate(case)]

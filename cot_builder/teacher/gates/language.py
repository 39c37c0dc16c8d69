"""Gates on the words of the thoughts: polarity, leak, emptiness, length."""

import re

from cot_builder.teacher.gates.gate import Case, gate
from cot_builder.teacher.leaks import find_leaks

_DENIED = r"(?:no|not|nothing|none|without|never|free of|rather than|instead of)\b[^.;:]{0,60}$"
_FAULT = r"\b(?:defect|defective|anomal\w+|flaw|fault|damage|damaged)\b"
_CLEAN = (
    r"\b(?:defect-free|flawless|no (?:sign of a )?(?:defect|flaw|damage|anomaly)|nothing (?:is )?wrong|sound|intact)\b"
)


@gate
def polarity(case: Case) -> list[str]:
    """The conclusion of the last thought agrees with the verdict."""
    thought = case.own_words(case.trajectory.turns[-1].thought)
    conclusion = re.split(r"(?<=[.!?])\s+", thought.strip())[-1]
    fault = [m for m in re.finditer(_FAULT, conclusion, re.I) if not re.search(_DENIED, conclusion[: m.start()], re.I)]
    fault = [m for m in fault if not conclusion[m.end() :].startswith("-free")]
    clean = re.search(_CLEAN, conclusion, re.I)
    if case.trajectory.verdict.answer == "Yes":
        return [f"concludes {clean.group()!r} before a Yes"] if clean and not fault else []
    return [f"concludes {fault[0].group()!r} before a No"] if fault else []


@gate
def leak(case: Case) -> list[str]:
    """No thought mentions labels, annotation, masks, overlays or supervision."""
    return [
        f"thought {number} says {phrase!r}"
        for number, turn in enumerate(case.trajectory.turns, 1)
        for phrase in find_leaks(case.own_words(turn.thought))
    ]


@gate
def emptiness(case: Case) -> list[str]:
    """Every thought has at least ``draft.min_words`` words."""
    least = case.params.min_words
    return [
        f"thought {number} has {len(turn.thought.split())} words, at least {least} are asked"
        for number, turn in enumerate(case.trajectory.turns, 1)
        if len(turn.thought.split()) < least
    ]


@gate
def length(case: Case) -> list[str]:
    """All thoughts together have at most ``draft.max_words`` words, and there are at most ``draft.max_calls`` calls."""
    words = sum(len(turn.thought.split()) for turn in case.trajectory.turns)
    calls = len(case.trajectory.calls)
    problems = [f"{words} words, at most {case.params.max_words} are allowed"] if words > case.params.max_words else []
    if calls > case.params.max_calls:
        problems.append(f"{calls} calls, at most {case.params.max_calls} are allowed")
    return problems

"""Gates a draft must pass: small functions, each returning what it found wrong.

A gate sees the trajectory and the supervision; what it returns is kept with the draft and never shown to
a student.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cot_builder.inspection.rendering import ANSWER_GRAMMAR, final_answer, messages
from cot_builder.inspection.toolbox import sayable
from cot_builder.params import Draft as DraftParams
from cot_builder.teacher.leaks import leaks, without_name
from schemas.geometry import SCALE, union_iou
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.taxonomy import leaves
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


def grammar(case: Case) -> list[str]:
    """Thoughts hold no tags or control characters and end like a sentence, calls no control token, the end parses."""
    found = []
    for number, turn in enumerate(case.trajectory.turns, 1):
        if re.search(r"[<>]", turn.thought):
            found.append(f"thought {number} holds a tag")
        if re.search(r"[\x00-\x1f]", turn.thought):
            found.append(f"thought {number} holds a control character")
        if not turn.thought.rstrip().endswith((".", "!", "?")):
            found.append(f"thought {number} does not end as a sentence")
        if turn.call and (said := turn.call.model_dump_json()) != sayable(said):
            found.append(f"call {number} holds a control token")
    if not ANSWER_GRAMMAR.fullmatch(final_answer(case.trajectory)):
        found.append("the last turn is not <think>, then location and type with Yes, then <answer>")
    return found


def verdict(case: Case) -> list[str]:
    """The answer is the right one."""
    right = "Yes" if case.supervision.label == "anomalous" else "No"
    given = case.trajectory.verdict.answer
    return [] if given == right else [f"answers {given}, right is {right}"]


def location(case: Case) -> list[str]:
    """The boxes of a Yes cover the truth: IoU of the covered regions at least ``draft.min_iou``."""
    if case.trajectory.verdict.answer == "No" or not case.supervision.boxes:
        return []
    overlap = union_iou(case.trajectory.verdict.boxes, case.supervision.boxes)
    least = case.params.min_iou
    return [] if overlap >= least else [f"IoU with the truth is {overlap:.2f}, at least {least} is asked"]


def defect_type(case: Case) -> list[str]:
    """The type of a Yes is a leaf of the taxonomy, and the right one."""
    given = case.trajectory.verdict.defect_type
    if given is None:
        return []
    if given not in leaves():
        return [f"type {given!r} is not in the taxonomy"]
    right = case.supervision.defect_type
    return [] if right in (None, given) else [f"type is {given}, right is {right}"]


def coordinates(case: Case) -> list[str]:
    """Boxes and points named in a thought are integers 0-1000, boxes in order."""
    found = []
    for number, turn in enumerate(case.trajectory.turns, 1):
        for group in re.findall(r"[\[(]([\d\s,.-]+)[\])]", turn.thought):
            parts = [part.strip() for part in group.split(",")]
            if len(parts) not in (2, 4):
                continue
            if not all(part.isdigit() and int(part) <= SCALE for part in parts):
                found.append(f"thought {number} names ({group}), not integers 0-1000")
            elif len(parts) == 4 and not (int(parts[0]) < int(parts[2]) and int(parts[1]) < int(parts[3])):
                found.append(f"thought {number} names ({group}), not x1 < x2 and y1 < y2")
    return found


_MENTIONS = {
    "crop": r"\bcrop|\benlarg|\bclose-up|\bmagnif|\bzoom",
    "enhance": r"\bequalis|\bclahe\b|\bcanny\b|\bedge map|\bresidual\b|\benhanc",
    "measure": r"\bmeasur|\b\d[\d.]* ?(?:px|mm|deg)\b|\bgrey levels?\b",
    "prior": r"\bprior\b|\bnormalcy\b",
}


_CLAIMED = r"(?<!should )(?<!would )(?<!will )(?<!may )(?:shows?|reveals?|confirms?|resolves?|draws?|peaks?|is strongest|stays|says|describes)"
_RESULTS = {
    "crop": rf"\b(?:crop|close-up|enlarged (?:view|region|area)|enlargement)\b[^.;]{{0,40}}\b{_CLAIMED}\b|\benlarged,|\bseen close",
    "enhance": rf"\b(?:edge map|residual|equalisation|map)\b[^.;]{{0,30}}\b{_CLAIMED}\b|\bequalised,|\bafter equalisation",
    "measure": r"\bthe measured\b|\bit extends over\b|\bmeasures \d",
    "prior": rf"\bprior\b[^.;]{{0,20}}\b{_CLAIMED}\b|\baccording to the (?:normalcy )?prior\b",
}
"""Words that report a result, which a thought may not do before the call has been made."""


def evidence(case: Case) -> list[str]:
    """What a thought says of a tool happened: the tool was called by then, succeeded, and returned those numbers."""
    found = []
    called: set[str] = set()
    known: set[str] = set()
    read = ""
    for number, turn in enumerate(case.trajectory.turns, 1):
        planned = called | ({turn.call.tool} if turn.call else set())
        for quote in re.findall(r'"([^"]+)"', turn.thought):
            if quote not in read:
                found.append(f"thought {number} quotes {quote!r}, which no observation said")
        own_words = case.own_words(re.sub(r'"[^"]*"', " ", turn.thought))
        for tool, pattern in _MENTIONS.items():
            if tool not in planned and (match := re.search(pattern, own_words, re.IGNORECASE)):
                found.append(f"thought {number} speaks of {match.group()!r}, but {tool} was not called")
        for tool, pattern in _RESULTS.items():
            if tool not in called and (match := re.search(pattern, own_words, re.IGNORECASE)):
                found.append(f"thought {number} reports {match.group()!r} before {tool} returned anything")
        stated = _numbers(_without_coordinates(own_words))
        if invented := sorted(stated - known):
            found.append(f"thought {number} states {', '.join(invented)}, which no observation returned")
        if turn.call and turn.observation:
            called.add(turn.call.tool)
            known |= _numbers(turn.observation.text)
            read += turn.observation.text
            if turn.observation.text.startswith("error:"):
                found.append(f"call {number} failed: {turn.observation.text}")
    return found


_DENIED = r"(?:no|not|nothing|none|without|never|free of|rather than|instead of)\b[^.;:]{0,60}$"
_FAULT = r"\b(?:defect|defective|anomal\w+|flaw|fault|damage|damaged)\b"
_CLEAN = (
    r"\b(?:defect-free|flawless|no (?:sign of a )?(?:defect|flaw|damage|anomaly)|nothing (?:is )?wrong|sound|intact)\b"
)


def polarity(case: Case) -> list[str]:
    """The last thought concludes what the verdict says."""
    thought = case.own_words(case.trajectory.turns[-1].thought)
    conclusion = re.split(r"(?<=[.!?])\s+", thought.strip())[-1]
    fault = [m for m in re.finditer(_FAULT, conclusion, re.I) if not re.search(_DENIED, conclusion[: m.start()], re.I)]
    fault = [m for m in fault if not conclusion[m.end() :].startswith("-free")]
    clean = re.search(_CLEAN, conclusion, re.I)
    if case.trajectory.verdict.answer == "Yes":
        return [f"concludes {clean.group()!r} before a Yes"] if clean and not fault else []
    return [f"concludes {fault[0].group()!r} before a No"] if fault else []


def leak(case: Case) -> list[str]:
    """No thought speaks of labels, annotation, masks, overlays or supervision."""
    return [
        f"thought {number} says {phrase!r}"
        for number, turn in enumerate(case.trajectory.turns, 1)
        for phrase in leaks(case.own_words(turn.thought))
    ]


def emptiness(case: Case) -> list[str]:
    """Every thought says something: at least ``draft.min_words`` words."""
    least = case.params.min_words
    return [
        f"thought {number} has {len(turn.thought.split())} words, at least {least} are asked"
        for number, turn in enumerate(case.trajectory.turns, 1)
        if len(turn.thought.split()) < least
    ]


def length(case: Case) -> list[str]:
    """Thoughts together stay within ``draft.max_words``, calls within ``draft.max_calls``."""
    words = sum(len(turn.thought.split()) for turn in case.trajectory.turns)
    calls = len(case.trajectory.calls)
    found = [f"{words} words, at most {case.params.max_words} are allowed"] if words > case.params.max_words else []
    if calls > case.params.max_calls:
        found.append(f"{calls} calls, at most {case.params.max_calls} are allowed")
    return found


def image_count(case: Case) -> list[str]:
    """The rendered chat shows the query image and every observation image once; crop and enhance return one."""
    chat = messages(case.trajectory, case.sample.category, case.sample.view)
    shown = sum(part["type"] == "image" for message in chat for part in message["content"])
    turns = case.trajectory.turns[:-1]
    stored = sum(turn.observation is not None and turn.observation.image_sha256 is not None for turn in turns)
    due = sum(turn.call is not None and turn.call.tool in ("crop", "enhance") for turn in turns)
    found = [f"the chat shows {shown} images for 1 + {stored} stored"] if shown != 1 + stored else []
    return [*found, f"{due} calls return an image, {stored} are stored"] if due != stored else found


def repetition(case: Case) -> list[str]:
    """No thought is said twice, and no call is made twice."""
    thoughts = [turn.thought for turn in case.trajectory.turns]
    calls = [call.model_dump_json() for call in case.trajectory.calls]
    found = ["a thought is repeated"] if len(set(thoughts)) < len(thoughts) else []
    return [*found, "a call is repeated"] if len(set(calls)) < len(calls) else found


Gate = Callable[[Case], list[str]]
GATES: dict[str, Gate] = {
    gate.__name__: gate
    for gate in (
        grammar, verdict, location, defect_type, coordinates, evidence,
        polarity, leak, emptiness, length, image_count, repetition,
    )
}  # fmt: skip
CORPUS_GATES = ("duplicates",)
"""Gates that need the other drafts too."""


def run_gates(case: Case) -> list[Violation]:
    """Every gate on one draft."""
    return [Violation(gate=name, reason=reason) for name, gate in GATES.items() for reason in gate(case)]


def duplicates(texts: Sequence[str]) -> list[str | None]:
    """For each draft's thoughts, why they repeat an earlier draft's word for word, or None.

    Case, punctuation and numbers do not tell two texts apart.
    """
    first: dict[str, int] = {}
    found: list[str | None] = []
    for index, text in enumerate(texts):
        key = " ".join(re.findall(r"[a-z]+", text.lower()))
        found.append(f"says what draft {first[key]} says" if key in first else None)
        first.setdefault(key, index)
    return found


def _without_coordinates(text: str) -> str:
    return re.sub(r"[\[(]\s*\d+(?:\s*,\s*\d+)+\s*[\])]", " ", text)


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text))

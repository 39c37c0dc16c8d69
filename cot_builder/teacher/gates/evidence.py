"""Gates on statements about places and tools in thoughts: coordinates, evidence."""

import re

from cot_builder.inspection.tools import TOOLS
from cot_builder.teacher.gates.gate import Case, gate
from schemas.geometry import SCALE


@gate
def coordinates(case: Case) -> list[str]:
    """Boxes and points in a thought are integers 0-1000, and the corners of a box are in order."""
    problems = []
    for number, turn in enumerate(case.trajectory.turns, 1):
        for group in re.findall(r"[\[(]([\d\s,.-]+)[\])]", turn.thought):
            parts = [part.strip() for part in group.split(",")]
            if len(parts) not in (2, 4):
                continue
            if not all(part.isdigit() and int(part) <= SCALE for part in parts):
                problems.append(f"thought {number} names ({group}), not integers 0-1000")
            elif len(parts) == 4 and not (int(parts[0]) < int(parts[2]) and int(parts[1]) < int(parts[3])):
                problems.append(f"thought {number} names ({group}), not x1 < x2 and y1 < y2")
    return problems


@gate
def evidence(case: Case) -> list[str]:
    """Statements about a tool are true: it was called before, it succeeded, and it returned the stated numbers."""
    problems = []
    called: set[str] = set()
    known: set[str] = set()
    read = ""
    for number, turn in enumerate(case.trajectory.turns, 1):
        planned = called | ({turn.call.tool} if turn.call else set())
        for quote in re.findall(r'"([^"]+)"', turn.thought):
            if quote not in read:
                problems.append(f"thought {number} quotes {quote!r}, which no observation said")
        own_words = case.own_words(re.sub(r'"[^"]*"', " ", turn.thought))
        for tool in TOOLS.values():
            if tool.name not in planned and (match := re.search(tool.mentions, own_words, re.IGNORECASE)):
                problems.append(f"thought {number} speaks of {match.group()!r}, but {tool.name} was not called")
        for tool in TOOLS.values():
            if tool.name not in called and (match := re.search(tool.results, own_words, re.IGNORECASE)):
                problems.append(f"thought {number} reports {match.group()!r} before {tool.name} returned anything")
        stated = _numbers(_without_coordinates(own_words))
        if invented := sorted(stated - known):
            problems.append(f"thought {number} states {', '.join(invented)}, which no observation returned")
        if turn.call and turn.observation:
            called.add(turn.call.tool)
            known |= _numbers(turn.observation.text)
            read += turn.observation.text
            if turn.observation.text.startswith("error:"):
                problems.append(f"call {number} failed: {turn.observation.text}")
    return problems


def _without_coordinates(text: str) -> str:
    return re.sub(r"[\[(]\s*\d+(?:\s*,\s*\d+)+\s*[\])]", " ", text)


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text))

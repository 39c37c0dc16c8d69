"""Whether two categories are the same object by name."""

import re
from collections.abc import Iterable
from itertools import product

SHORTEST_SHARED_WORD = 3


def split_words(category: str) -> list[set[str]]:
    """A category's name as words, lower case, singular, without digits and separators: each in all its readings.

    ``pcb1`` and ``PCB`` are both ``[{'pcb'}]``. A plural does not tell what its singular ends in: ``boxes`` is
    ``[{'box', 'boxe'}]``, ``ties`` ``[{'ty', 'tie'}]``, and ``lens`` ``[{'lens', 'len'}]`` since it may be none.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category)
    found = re.findall(r"[^\W\d_]+", spaced)
    return [_singulars(word.casefold()) for word in found] or [{category.casefold()}]


def _joined(category: str) -> set[str]:
    return {"".join(reading) for reading in product(*split_words(category))}


def match_category(training: str, evaluation: str) -> str | None:
    """The rule by which two names mean one category: ``exact``, ``normalised``, or None where none does.

    Normalised names are compared as one run of letters, so that compounds agree however they are written:
    ``chewing_gum`` and ``chewinggum``. A word more makes another object: ``bottle_cap`` is no ``bottle``.
    """
    if training == evaluation:
        return "exact"
    return "normalised" if _joined(training) & _joined(evaluation) else None


def share_a_word(training: str, evaluation: str) -> bool:
    """True where a person should look: one word stands in both names, or one name begins or ends with the other."""
    shared = set().union(*split_words(training)) & set().union(*split_words(evaluation))
    if any(len(word) >= SHORTEST_SHARED_WORD for word in shared):
        return True
    pairs = [sorted(pair, key=len) for pair in product(_joined(training), _joined(evaluation))]
    return any(len(short) >= SHORTEST_SHARED_WORD and _at_an_end(short, long) for short, long in pairs)


def _at_an_end(short: str, long: str) -> bool:
    return long.startswith(short) or long.endswith(short)


def find_overlaps(training: Iterable[str], evaluation: Iterable[str]) -> list[tuple[str, str, str]]:
    """(training category, evaluation category, rule) of every pair that is one category by name, sorted."""
    others = sorted(set(evaluation))
    return [
        (category, other, rule)
        for category in sorted(set(training))
        for other in others
        if (rule := match_category(category, other))
    ]


def _singulars(word: str) -> set[str]:
    """What a word may be the plural of; a reading too many costs nothing but a match with another such word."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return {word}
    found = {word[:-1]}
    if word.endswith("ies"):  # batteries, ties
        found.add(f"{word[:-3]}y")
    elif word.endswith("ves"):  # shelves, knives, valves
        found |= {f"{word[:-3]}f", f"{word[:-3]}fe"}
    elif word.endswith("ices"):  # matrices, vertices, devices
        found |= {f"{word[:-4]}ix", f"{word[:-4]}ex"}
    elif word.endswith("sses"):
        found = {word[:-2]}
    elif word.endswith(("ses", "xes", "ches", "shes", "zes", "oes")):  # lenses, boxes, potatoes
        found.add(word[:-2])
    elif not word.endswith("es"):  # lens is no plural, nuts is one
        found.add(word)
    return found

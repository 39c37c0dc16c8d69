"""Compares the names of categories to find those that mean the same object."""

import re
from collections.abc import Iterable
from itertools import product

SHORTEST_SHARED_WORD = 3


def split_words(category: str) -> list[set[str]]:
    """Split the name of a category into words in lower case, without digits and separators.

    Each word is the set of its possible singulars. ``pcb1`` and ``PCB`` are both ``[{'pcb'}]``. The singular of a
    plural can be ambiguous: ``boxes`` is ``[{'box', 'boxe'}]``, ``ties`` is ``[{'ty', 'tie'}]``. ``lens`` is
    ``[{'lens', 'len'}]``, because it may be a singular.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category)
    found = re.findall(r"[^\W\d_]+", spaced)
    return [_list_singulars(word.casefold()) for word in found] or [{category.casefold()}]


def _join_words(category: str) -> set[str]:
    return {"".join(reading) for reading in product(*split_words(category))}


def match_category(training: str, evaluation: str) -> str | None:
    """Return how two names match: ``exact``, ``normalised``, or None if they do not.

    Normalised names are compared without separators, so that different spellings of compounds match:
    ``chewing_gum`` and ``chewinggum``. An additional word means another object: ``bottle_cap`` does not match
    ``bottle``.
    """
    if training == evaluation:
        return "exact"
    return "normalised" if _join_words(training) & _join_words(evaluation) else None


def share_a_word(training: str, evaluation: str) -> bool:
    """Return whether two names share a word, or one begins or ends with the other, so that a person should look."""
    shared = set().union(*split_words(training)) & set().union(*split_words(evaluation))
    if any(len(word) >= SHORTEST_SHARED_WORD for word in shared):
        return True
    pairs = [sorted(pair, key=len) for pair in product(_join_words(training), _join_words(evaluation))]
    return any(len(short) >= SHORTEST_SHARED_WORD and _is_prefix_or_suffix(short, long) for short, long in pairs)


def _is_prefix_or_suffix(short: str, long: str) -> bool:
    return long.startswith(short) or long.endswith(short)


def find_overlaps(training: Iterable[str], evaluation: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (training category, evaluation category, rule) of all pairs that match by name, sorted."""
    others = sorted(set(evaluation))
    return [
        (category, other, rule)
        for category in sorted(set(training))
        for other in others
        if (rule := match_category(category, other))
    ]


def _list_singulars(word: str) -> set[str]:
    """Return the possible singulars of a word. A wrong one only matches other words with the same wrong singular."""
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
    elif not word.endswith("es"):  # the word may be singular, such as lens
        found.add(word)
    return found

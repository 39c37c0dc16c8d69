"""Whether two categories are the same object by name."""

import re
from collections.abc import Iterable

SHORTEST_SHARED_WORD = 3


def words(category: str) -> list[str]:
    """A category's name as words: lower case, singular, without digits and separators.

    ``pcb1`` and ``PCB`` are both ``['pcb']``; ``MetalNuts`` is ``['metal', 'nut']``. To compare by, not to show:
    ``size`` and ``sizes`` are both ``['siz']``.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category)
    found = re.findall(r"[^\W\d_]+", spaced)
    return [_singular(word.casefold()) for word in found] or [category.casefold()]


def same_category(training: str, evaluation: str) -> str | None:
    """The rule by which two names mean one category: ``exact``, ``normalised``, or None where none does.

    Normalised names are compared as one run of letters, so that compounds agree however they are written:
    ``chewing_gum`` and ``chewinggum``. A word more makes another object: ``bottle_cap`` is no ``bottle``.
    """
    if training == evaluation:
        return "exact"
    return "normalised" if "".join(words(training)) == "".join(words(evaluation)) else None


def share_a_word(training: str, evaluation: str) -> bool:
    """True where a person should look: one word stands in both names, or one name begins or ends with the other."""
    first, second = words(training), words(evaluation)
    if any(len(word) >= SHORTEST_SHARED_WORD for word in set(first) & set(second)):
        return True
    short, long = sorted(("".join(first), "".join(second)), key=len)
    return len(short) >= SHORTEST_SHARED_WORD and (long.startswith(short) or long.endswith(short))


def overlaps(training: Iterable[str], evaluation: Iterable[str]) -> list[tuple[str, str, str]]:
    """(training category, evaluation category, rule) of every pair that is one category by name, sorted."""
    others = sorted(set(evaluation))
    return [
        (category, other, rule)
        for category in sorted(set(training))
        for other in others
        if (rule := same_category(category, other))
    ]


def _singular(word: str) -> str:
    if len(word) <= 3 or word.endswith(("ss", "us", "is")):
        return _without_e(word)
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith("sses"):
        return word[:-2]
    return _without_e(word.removesuffix("s"))


def _without_e(word: str) -> str:
    # A plural on -ches, -shes, -xes, -zes does not tell whether its singular has the e (cache, size) or not (patch,
    # box), so neither keeps it.
    return word.removesuffix("e") if word.endswith(("che", "she", "xe", "ze")) else word

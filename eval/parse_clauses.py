"""Claims of one clause: answers and statements, with negation and hedges (rules 6 to 11 of :mod:`eval.parse`)."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from eval.parse_words import OPPOSITE, Answer, Language, load_words


class Word(NamedTuple):
    """Words that state something, before negation is applied; fields as in :class:`Claim`."""

    start: int
    end: int
    rank: int
    says: Answer


class Claim(NamedTuple):
    """Statement about the part, with negation applied."""

    rank: int
    """2 for a labelled conclusion, 1 for a stated one, 0 for a kind of defect, -1 for a statement about the rest."""
    says: Answer | None
    """None if the text says that no conclusion is possible."""


def read_clause(clause: str) -> list[Claim]:
    """List the claims of a clause in their order (rules 6 to 11)."""
    words = load_words()
    answers = {(start, end): says for start, end, says in find_answers(clause)}
    stated: dict[tuple[int, int], tuple[int, Answer, bool]] = {span: (1, says, False) for span, says in answers.items()}
    for language in words.languages:
        for word, negated in _find_statements(clause, language, answers):
            already = stated.get((word.start, word.end), (word.rank, word.says, False))
            stated[word.start, word.end] = (word.rank, word.says, negated or already[2])
    hedges = find_hedges(clause)
    of_the_rest = words.rest.search(clause) is not None
    found = []
    for (start, end), (rank, says, negated) in sorted(stated.items()):
        answer: Answer = OPPOSITE[says] if negated else says
        value = _read_keyed_value(clause, start, end)
        if value == "unsaid" or (value is None and is_hedged(clause, start, end, (start, end) in answers, hedges)):
            continue
        if value:
            found.append(Claim(2, answer if value == "Yes" else OPPOSITE[answer]))
        elif of_the_rest and answer == "No":
            found.append(Claim(-1, answer))
        else:
            found.append(Claim(rank, answer))
    if words.refusals.search(clause) and (stated or not words.of_another.fullmatch(clause)):
        return [claim for claim in found if claim.rank == 2] or [Claim(1, None)]
    return found


def _find_statements(
    clause: str, language: Language, answers: Collection[tuple[int, int]]
) -> Iterator[tuple[Word, bool]]:
    """Yield the statements of a clause in one language, each with a flag for negation."""
    cut = language.given.sub(lambda match: "\0" * len(match[0]), clause)
    sound = [Word(*match.span(), 1, "No") for match in language.sound.finditer(cut)]
    hidden = cut
    for match in (match for other in load_words().languages for match in other.sound.finditer(cut)):
        hidden = hidden[: match.start()] + "\0" * len(match[0]) + hidden[match.end() :]
    defects = [Word(*match.span(), 1, "Yes") for match in language.defective.finditer(hidden)]
    defects += [Word(*match.span(), 0, "Yes") for match in language.kinds.finditer(hidden)]
    words, ends = sound + defects, load_words().ends
    negations = [
        (match.start(), match.end(), pattern is language.without)
        for pattern in (language.before, language.without)
        for match in pattern.finditer(clause)
        # A No that stands as an answer negates nothing.
        if not any(start <= match.start() < end for start, end in answers)
    ]
    negations.sort(reverse=True)
    for word in words:
        behind = language.after.match(clause, word.end)
        negated = (behind is not None and not ends.search(behind[0])) or any(
            _negation_reaches(clause, *negation, word, words, language)
            for negation in negations
            if negation[1] <= word.start
        )
        if negated or word.says == "No" or not language.unsaid.search(clause[: word.start]):
            yield word, negated


OPENING = " ([-–|→:"


def find_answers(clause: str) -> Iterator[tuple[int, int, Answer]]:
    """Find each Yes or No that stands as an answer: alone, before a pause at the start, after a copula at the end."""
    for says, pattern, pause in load_words().answers:
        for match in pattern.finditer(clause):
            before, after = clause[: match.start()], clause[match.end() :]
            at_the_end = re.fullmatch(r"[^\w?]*", after) is not None
            if (not before.strip(OPENING) and (at_the_end or pause.match(after))) or (
                at_the_end
                and re.search(
                    r"(?:(?<!\w)(?:is|say|be|lautet|ist|est|es|è|é|with|a|towards?|answer|likely|probably|clearly|definitely)|[:=–—是はは,-]|^\W*\w[.)])\s*$",
                    before,
                )
            ):
                yield *match.span(), says


def _read_keyed_value(clause: str, start: int, end: int) -> str | None:
    """Value after a key such as ``Defect:``: Yes, No, ``unsaid`` if it is a hedge or refusal, None if there is none."""
    words = load_words()
    match = re.compile(r"(?:\s*\w+(?!\w)){0,2}?\s*([:=|→–])\s*(.*)", re.DOTALL).match(clause, end)
    if not match or not match[2]:
        return None
    # After a dash or a statement ("It is damaged: no coating is left") only a lone value counts; else it is a sentence.
    alone = match[1] in "→–" or any(
        not words.subjects.fullmatch(verb[0]) for verb in words.verbs.finditer(clause, 0, start)
    )
    for says, pattern in words.values:
        value = pattern.match(match[2])
        if value and (not alone or re.match(r"\W*$|\s*[,.;!)]", match[2][value.end() :])):
            return says
    return "unsaid" if not alone and (words.hedges.search(match[2]) or words.refusals.search(match[2])) else None


def find_hedges(clause: str) -> list[tuple[int, int]]:
    """Find the positions of hedges."""
    return [match.span() for match in load_words().hedges.finditer(clause)]


def is_hedged(clause: str, start: int, end: int, is_answer: bool, hedges: Sequence[tuple[int, int]]) -> bool:
    """Whether a hedge applies to the words at a position (rule 7)."""
    words = load_words()
    if words.hedged.match(clause, end):
        return True
    for first, last in hedges:
        if first > start and is_answer:
            return False
        between = clause[last:start] if first < start else clause[end:first]
        if not _HEDGES_END.search(between) and not words.ends.search(between):
            return True
    return False


_HEDGES_END = re.compile(r"[()\[\]|→–]")


def _negation_reaches(
    clause: str, start: int, end: int, only_things: bool, word: Word, others: Sequence[Word], language: Language
) -> bool:
    """Whether a later word is in the scope of the negation at a position (rule 6)."""
    between = clause[end : word.start]
    if not language.spaced and len(between) > (1 if only_things else 12):
        return False
    if language.spaced and only_things and word.says == "No":
        return not between.strip()
    # Skip brackets within the phrase: "no (visible) defects".
    between = re.sub(r"\([^()]*\)", lambda match: " " * len(match[0]), between)
    for cut in language.cuts.finditer(between):
        # Statements that the negation has inverted already; it can be the start of one ("no problems").
        turned = {
            other.says if other.start >= end else OPPOSITE[other.says]
            for other in others
            if start <= other.start and other.end <= end + cut.start()
        }
        if cut.lastgroup == "always" or OPPOSITE[word.says] in turned:
            return False
        if cut.lastgroup == "clause" and not language.spaced:
            return False
        if cut.lastgroup == "naming" and word.says not in turned:
            return False
        if language.verbs.search(between[cut.end() :] + clause[word.start : word.end]):
            return False
    return True

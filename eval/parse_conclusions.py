"""Conclusion of a text, sentence by sentence (rules 4, 5 and 8 to 11 of :mod:`eval.parse`)."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from eval.parse_clauses import OPENING, Claim, find_answers, find_hedges, is_hedged, read_clause
from eval.parse_text import NO_CONCLUSION, Conclusion
from eval.parse_words import Answer, load_words

MAX_SENTENCE = 500
"""Maximum characters of a sentence. Longer ones are split, because the patterns take quadratic time."""
_SENTENCE = re.compile(rf".{{0,{MAX_SENTENCE}}}?(?:[。!?;\n]+|\.(?=[\s)\]]|$)|\Z)|.{{{MAX_SENTENCE}}}", re.DOTALL)


def conclude(text: str, options: Mapping[str, Answer]) -> Conclusion:
    """Find the conclusion of a plain text."""
    words = load_words()
    claims: list[Claim] = []
    for match in _SENTENCE.finditer(text):
        sentence = words.certainly.sub(" ", match[0]).strip()
        if words.corrections.search(sentence):
            claims = [claim._replace(rank=min(claim.rank, 1)) for claim in claims]
        for letter in _find_option_letters(sentence, options):
            claims.append(Claim(2, letter))
        if sentence.rstrip().endswith("?"):
            continue
        parts = words.labels.split(sentence, maxsplit=1)
        if len(parts) == 2:
            claims += _read_claims(parts[0], claims)
            labelled = _read_labelled(parts[1])
            behind = _read_claims(parts[1])
            if labelled == NO_CONCLUSION or words.corrections.search(sentence):
                claims += [claim._replace(rank=2) if claim.rank == 1 else claim for claim in behind]
            else:
                claims += [*behind, Claim(2, labelled)]
        else:
            claims += _read_claims(sentence, claims)
    for rank in (2, 1):
        if ranked := [claim.says for claim in claims if claim.rank == rank]:
            return ranked[-1]
    kinds = {claim.says for claim in claims if claim.rank == 0}
    if kinds:
        return "Yes" if "Yes" in kinds else "No"
    rest = [claim.says for claim in claims if claim.rank < 0]
    return rest[-1] if rest else NO_CONCLUSION


def _find_option_letters(sentence: str, options: Mapping[str, Answer]) -> list[Answer]:
    """Options that a sentence names as the answer. A bare letter does not count: "a" is also an article."""
    known = {letter.casefold(): says for letter, says in options.items()}
    found = re.findall(
        r"^\W*(?:option\s+|answer\s*(?:is|:)\s*|choice\s+)?\(?([a-z])(?=[.):,]|\s*$)"
        r"|(?:option|choice|answer(?:\s+is)?\s*:?)\s+\(?([a-z])(?=[.):,]|\s*$)",
        sentence,
    )
    return [known[letter] for pair in found for letter in pair if letter in known]


def _read_claims(sentence: str, before: Sequence[Claim] = ()) -> list[Claim]:
    """Claims of a sentence, given the claims before it."""
    words = load_words()
    found: list[Claim] = []
    for number, part in enumerate(words.but.split(sentence)):
        clause = _remove_choices(words.asked.sub(" ", part or "").strip())
        new = read_clause(clause) if clause else []
        concluded = [claim.says for claim in (*before, *found) if claim.rank == 1]
        if number and concluded[-1:] == ["No"] and {(claim.rank, claim.says) for claim in new} == {(0, "Yes")}:
            new = [claim._replace(rank=1) for claim in new]
        found += new
    return found


def _read_labelled(labelled: str) -> Conclusion:
    """The answer directly after a label."""
    words = load_words()
    clause = _remove_choices(words.but.split(labelled, maxsplit=1)[0]).strip()
    if words.nothing.fullmatch(clause):
        return "No"
    for start, end, says in find_answers(clause):
        if not clause[:start].strip(OPENING) and not is_hedged(clause, start, end, True, find_hedges(clause)):
            return says
    return NO_CONCLUSION


def _remove_choices(clause: str) -> str:
    """Remove pairs that list both answers: ``Yes or No``, ``normal/defective``."""
    words = load_words()
    yes = "|".join((words.yes.pattern, *(language.defective.pattern for language in words.languages)))
    no = "|".join((words.no.pattern, *(language.sound.pattern for language in words.languages)))
    for first, second in ((yes, no), (no, yes)):
        clause = _choice_pattern(first, second).sub(lambda match: match[0] if " " in match[1] else " ", clause)
    return clause


@cache
def _choice_pattern(first: str, second: str) -> re.Pattern[str]:
    return re.compile(rf"({first})\s*(?:/|or|oder|ou|o|或|または|또는|или)\s*(?:{second})")

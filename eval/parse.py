"""What a policy's words say: strictly for the agent, by one set of rules for models that do not follow its format.

The agent's completions go through the grammar alone (:func:`parse_strict`). The answers of other models are free
text, read by these rules (:func:`parse_by_rules`); the words are those of ``parse.yaml``, in English, German, French,
Spanish, Italian, Portuguese, Russian, Chinese, Japanese and Korean, whichever comes.

1.  A text that follows the agent's grammar is read by it.
2.  What stands in ``<think>…</think>`` is not part of the answer; neither is a thought that was cut off. Markdown,
    LaTeX, quotation marks and the difference of cases are taken away.
3.  A machine-readable answer comes first: ``<answer>…</answer>``, ``\\boxed{…}`` or JSON; of several the last. In JSON
    the keys answer, verdict, conclusion and their like count before keys that name a defect ("is_defective": true,
    "defects": []).
4.  A labelled conclusion comes next: behind "Answer:", "Verdict:", "Therefore", as "Defect: none", or an option's
    letter where the prompt offered options. The last one counts; one that is taken back ("wait", "on closer
    inspection") counts as any other sentence.
5.  Without either, the last stated conclusion wins. Conclusions are Yes and No where they stand as an answer, and
    statements that something is defective, anomalous, abnormal, damaged, or normal, intact, free of defects.
6.  A negation turns the conclusion that it reaches: "no defect", "not defective", "not normal", "a defect is not
    visible". It reaches through an enumeration, and ends where the next part of the sentence begins. "No doubt" and
    its like are none.
7.  What is hedged ("possibly", "may", "might", "would") is not concluded. What leans ("likely", "appears to be") is.
8.  Questions and conditions ("whether there is a defect", "if it were damaged"), what is looked for ("inspected for
    defects") and choices that are only named ("Yes or No", "defective or normal") conclude nothing.
9.  "Cannot be determined", "unclear" and their like take back what was concluded before, but for rules 3 and 4; a
    conclusion that follows counts. So does no answer at all: the text is unparsed.
10. "Otherwise normal", "no other defects", "the rest is intact" speak of the rest. They make a No only where nothing
    else was concluded.
11. Where nothing is concluded, a kind of defect that is stated ("there is a scratch") makes a Yes, and kinds that are
    all negated ("no scratches or dents") make a No. Behind a "but" or "however" that follows a No, a kind of defect
    that is stated is a conclusion ("no anomalies at the cap, but there is a scratch on the body").
12. Boxes and a type are taken with a Yes: from ``<location>``, JSON or ``[x1, y1, x2, y2]`` in the text, as integers
    0-1000 or fractions of the image; others are dropped, since pixels of an unknown size mean nothing. A type must be
    one of the taxonomy or a benchmark's label for it, and stand in ``<type>``, JSON or behind "Type:".
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

from cot_builder.inspection.parsing import GrammarError, read, read_verdict
from cot_builder.inspection.rendering import Message
from schemas.errors import IndusCotError
from schemas.geometry import SCALE, Box, check_box
from schemas.taxonomy import FOLDER, leaf, leaves

Answer = Literal["Yes", "No"]
LONGEST = 40_000
"""Characters that are read, from the end: an answer stands there, and 10,000 tokens are no more."""
MOST_JSON = 200
OPPOSITE: dict[Answer, Answer] = {"Yes": "No", "No": "Yes"}


class Parsed(NamedTuple):
    """What was read."""

    answer: Answer | None
    boxes: list[Box]
    """Boxes in 0-1000; empty but for Yes."""
    defect_type: str | None
    """Leaf of the taxonomy; None but for Yes."""
    parse: Literal["strict", "rules", "unparsed"]
    fault: str
    """What does not follow the grammar, or why there is no answer; empty where all is well."""


def parse_strict(completion: Sequence[Message]) -> Parsed:
    """The verdict of the agent's messages after the prompt, by the grammar to the last character.

    Raises:
        IndusCotError: thoughts were moved out of the text (:func:`cot_builder.inspection.parsing.read`).
    """
    reading = read(completion)
    fault = "; ".join(reading.faults)
    if reading.verdict is None:
        return Parsed(None, [], None, "unparsed", fault)
    verdict = reading.verdict
    return Parsed(verdict.answer, list(verdict.boxes), verdict.defect_type, "strict", fault)


def parse_by_rules(text: str, options: Mapping[str, Answer] | None = None) -> Parsed:
    """The verdict of free text by the rules above; never raises.

    Args:
        text: All that the model wrote.
        options: What each letter meant, where the prompt offered options: ``{"A": "Yes", "B": "No"}``.
    """
    try:
        verdict = read_verdict(text.strip())
        return Parsed(verdict.answer, list(verdict.boxes), verdict.defect_type, "strict", "")
    except GrammarError as error:
        fault = str(error)
    said = _without_thoughts(text[-LONGEST:])
    answer = _marked(said, options or {})
    if answer is _NOTHING:
        answer = _concluded(_plain(said), options or {})
    if answer not in ("Yes", "No"):
        return Parsed(None, [], None, "unparsed", "no conclusion was stated" if said.strip() else "nothing was written")
    if answer == "No":
        return Parsed("No", [], None, "rules", fault)
    return Parsed("Yes", _boxes(said), _type(said), "rules", fault)


_NOTHING: Literal["nothing"] = "nothing"
"""No conclusion of this kind stands in the text; None: one was refused."""
Said = Literal["Yes", "No", "nothing"] | None


def _without_thoughts(text: str) -> str:
    text = re.sub(r"<think(?:ing)?>.*?</think(?:ing)?>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    # Servers that open the thought in the prompt leave its end alone.
    text = re.sub(r"^.*</think(?:ing)?>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(r"<think(?:ing)?>.*$", " ", text, flags=re.DOTALL | re.IGNORECASE)


def _plain(text: str) -> str:
    """Lower case, without markup; a label at the end of a line is joined to what it labels."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    text = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|boxed)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(
        r"</?[a-z_]+/?>|```\w*|[*`#$\"“”„«»「」『』]|^\s*[>•]|__|(?<!\w)'|'(?!\w)", " ", text, flags=re.MULTILINE
    )
    return re.sub(r"[:=][ \t]*\n\s*", ": ", text)


# Machine-readable answers.


def _marked(text: str, options: Mapping[str, Answer]) -> Said:
    found: list[tuple[int, Said]] = [
        (match.end(), _value(match[1] or match[2] or "", options))
        for match in re.finditer(r"<answer>(.*?)(?:</answer>|$)|\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", text, re.DOTALL)
    ]
    found += [(end, answer) for end, value in _json(text) if (answer := _of_json(value, options)) != _NOTHING]
    return max(found, key=lambda item: item[0])[1] if found else _NOTHING


def _value(text: str, options: Mapping[str, Answer]) -> Said:
    """A short answer that was marked as one: what it says, or None."""
    said = _concluded("answer: " + _plain(text), options)
    return None if said == _NOTHING else said


def _json(text: str) -> Iterator[tuple[int, Any]]:
    """Objects in a text, outermost ones, with where they end; what is broken is left out."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(MOST_JSON):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            value, place = decoder.raw_decode(text, place)
            yield place, value
        except (ValueError, RecursionError):
            place += 1


_ANSWER_KEY = re.compile(
    r"(?:final|the)?_?(?:answer|verdict|conclusion|decision|judge?ment|result|prediction|label|status|classification|class)"
    r"|antwort|urteil|ergebnis|réponse|respuesta|veredicto|risposta|resposta|ответ|答案|结论|判断|结果|回答|結論|判定|답변|결론|판정"
)
_DEFECT_KEY = re.compile(
    r"(?:is|has|any)?_?(?:defect(?:s|ive)?|anomal(?:y|ies|ous)|abnormal|damaged?|faulty)_?(?:detected|present|found|exists?)?"
    r"|defekt|fehler|défaut|defecto|difetto|defeito|дефект|缺陷|异常|異常|欠陥|결함|불량"
)
_NORMAL_KEY = re.compile(r"(?:is_?)?(?:normal|ok|defect_?free|good)|正常|정상")


def _of_json(value: Any, options: Mapping[str, Answer]) -> Said:
    found = list(_entries(value))
    for key, meaning in ((_ANSWER_KEY, "Yes"), (_DEFECT_KEY, "Yes"), (_NORMAL_KEY, "No")):
        for name, entry in found:
            if key.fullmatch(name.strip().casefold().replace(" ", "_").replace("-", "_")):
                said = _of_entry(entry, key is _ANSWER_KEY, options)
                if said != _NOTHING:
                    return OPPOSITE[said] if meaning == "No" and said is not None else said
    return _NOTHING


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value, outer ones first; an object can be as deep as the decoder reads."""
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                yield from item.items()
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, dict | list)]


def _of_entry(entry: Any, is_answer: bool, options: Mapping[str, Answer]) -> Said:
    if isinstance(entry, bool) or (isinstance(entry, int) and entry in (0, 1)):
        return "Yes" if entry else "No"
    if isinstance(entry, list) and not is_answer:
        return "Yes" if entry else "No"
    if not isinstance(entry, str):
        return _NOTHING
    said = _value(entry, options)
    if said is None and not is_answer:
        words = _plain(entry).strip(" .")
        if words in ("", "none", "null", "n/a", "nothing"):
            return "No"
        # {"defect": "scratch"}
        return "Yes" if _leaf(entry) else None
    return said


# Sentences.


class _Language(NamedTuple):
    """Compiled words of one language; fields as in ``parse.yaml``."""

    spaced: bool
    defective: re.Pattern[str]
    sound: re.Pattern[str]
    kinds: re.Pattern[str]
    before: re.Pattern[str]
    after: re.Pattern[str]
    verbs: re.Pattern[str]
    unsaid: re.Pattern[str]
    given: re.Pattern[str]


class _Words(NamedTuple):
    """What holds in every language at once."""

    languages: list[_Language]
    yes: re.Pattern[str]
    no: re.Pattern[str]
    hedges: re.Pattern[str]
    refusals: re.Pattern[str]
    asked: re.Pattern[str]
    rest: re.Pattern[str]
    certainly: re.Pattern[str]
    but: re.Pattern[str]
    labels: re.Pattern[str]
    corrections: re.Pattern[str]


class _Claim(NamedTuple):
    rank: int
    """2 labelled, 1 stated, 0 a kind of defect, -1 of the rest."""
    says: Answer | None
    """None: nothing can be said."""


_NEVER = r"(?!)"


@cache
def _words() -> _Words:
    tables: dict[str, dict[str, Any]] = yaml.safe_load(
        resources.files("eval").joinpath("parse.yaml").read_text("utf-8")
    )

    def one(table: Mapping[str, Any], name: str) -> str:
        listed = "|".join(table.get(name) or [_NEVER])
        return rf"(?<!\w)(?:{listed})(?!\w)" if table["spaced"] else f"(?:{listed})"

    def every(name: str) -> re.Pattern[str]:
        return re.compile("|".join(one(table, name) for table in tables.values()))

    languages = [
        _Language(
            spaced=table["spaced"],
            defective=re.compile(one(table, "defective")),
            sound=re.compile(one(table, "sound")),
            kinds=re.compile(one(table, "kinds")),
            before=re.compile(one(table, "before")),
            after=re.compile("|".join(table["after"]) if table["after"] else _NEVER),
            verbs=re.compile(one(table, "verbs")),
            unsaid=re.compile(rf"{one(table, 'unsaid')}\s+(?:[\w-]+\s+){{0,2}}$" if table["spaced"] else _NEVER),
            given=re.compile(rf"{one(table, 'given')}[^,:]*"),
        )
        for table in tables.values()
    ]
    # A label that ends in a word ends where the word does; one that ends in a colon needs no space behind it.
    labels = "|".join(
        rf"(?<!\w)(?:{label})(?:(?<!\w)|(?!\w))" if table["spaced"] else label
        for table in tables.values()
        for label in table["labels"]
    )
    return _Words(
        languages=languages,
        yes=every("yes"),
        no=every("no"),
        hedges=every("hedges"),
        refusals=every("refusals"),
        asked=every("asked"),
        rest=every("rest"),
        certainly=every("certainly"),
        but=every("but"),
        labels=re.compile(labels),
        corrections=every("corrections"),
    )


LONGEST_SENTENCE = 500
"""Characters; a longer one is none, and is read in pieces: what looks back and forth in it takes the square of them."""
_SENTENCE = re.compile(
    rf".{{0,{LONGEST_SENTENCE}}}?(?:[。!?;\n]+|\.(?=[\s)\]]|$)|\Z)|.{{{LONGEST_SENTENCE}}}", re.DOTALL
)


def _concluded(text: str, options: Mapping[str, Answer]) -> Said:
    """What a plain text concludes."""
    words = _words()
    claims: list[_Claim] = []
    for match in _SENTENCE.finditer(text):
        sentence = words.certainly.sub(" ", match[0]).strip()
        if words.corrections.search(sentence):
            claims = [claim._replace(rank=min(claim.rank, 1)) for claim in claims]
        for letter in _letters(sentence, options):
            claims.append(_Claim(2, letter))
        if sentence.rstrip().endswith("?"):
            continue
        parts = words.labels.split(sentence, maxsplit=1)
        if len(parts) == 2:
            claims += _claims(parts[0], claims)
            claims += [claim._replace(rank=2) if claim.rank == 1 else claim for claim in _claims(parts[1])]
        else:
            claims += _claims(sentence, claims)
    for rank in (2, 1):
        if ranked := [claim.says for claim in claims if claim.rank == rank]:
            return ranked[-1]
    kinds = {claim.says for claim in claims if claim.rank == 0}
    if kinds:
        return "Yes" if "Yes" in kinds else "No"
    rest = [claim.says for claim in claims if claim.rank < 0]
    return rest[-1] if rest else _NOTHING


def _letters(sentence: str, options: Mapping[str, Answer]) -> list[Answer]:
    """The options that a sentence names as the answer: a letter is as well an article."""
    known = {letter.casefold(): says for letter, says in options.items()}
    found = re.findall(
        r"^\W*(?:option\s+|answer\s*(?:is|:)\s*|choice\s+)?\(?([a-z])(?=[.):,]|\s*$)"
        r"|(?:option|choice|answer(?:\s+is)?\s*:?)\s+\(?([a-z])(?=[.):,]|\s*$)",
        sentence,
    )
    return [known[letter] for pair in found for letter in pair if letter in known]


def _claims(sentence: str, before: Sequence[_Claim] = ()) -> list[_Claim]:
    """What a sentence claims, after what went before it."""
    words = _words()
    found: list[_Claim] = []
    for number, part in enumerate(words.but.split(sentence)):
        clause = _without_choices(words.asked.sub(" ", part or "").strip())
        new = _of_clause(clause) if clause else []
        concluded = [claim.says for claim in (*before, *found) if claim.rank == 1]
        if number and concluded[-1:] == ["No"] and {(claim.rank, claim.says) for claim in new} == {(0, "Yes")}:
            new = [claim._replace(rank=1) for claim in new]
        found += new
    return found


def _without_choices(clause: str) -> str:
    """Without pairs that name both answers: ``Yes or No``, ``normal/defective``."""
    words = _words()
    yes = "|".join((words.yes.pattern, *(language.defective.pattern for language in words.languages)))
    no = "|".join((words.no.pattern, *(language.sound.pattern for language in words.languages)))
    for first, second in ((yes, no), (no, yes)):
        clause = _pair(first, second).sub(lambda match: match[0] if " " in match[1] else " ", clause)
    return clause


@cache
def _pair(first: str, second: str) -> re.Pattern[str]:
    return re.compile(rf"({first})\s*(?:/|or|oder|ou|o|或|または|또는|или)\s*(?:{second})")


def _of_clause(clause: str) -> list[_Claim]:
    words = _words()
    spans: dict[tuple[int, int], tuple[int, Answer, bool]] = {}
    for says, pattern in (("Yes", words.yes), ("No", words.no)):
        for start, end in _answers(clause, pattern):
            spans[start, end] = (1, says, False)  # type: ignore[assignment]
    for language in words.languages:
        cut = language.given.sub(lambda match: "\0" * len(match[0]), clause)
        sound = [(match.span(), 1, "No") for match in language.sound.finditer(cut)]
        hidden = cut
        for match in (match for other in words.languages for match in other.sound.finditer(cut)):
            hidden = hidden[: match.start()] + "\0" * len(match[0]) + hidden[match.end() :]
        stated = [(match.span(), 1, "Yes") for match in language.defective.finditer(hidden)]
        stated += [(match.span(), 0, "Yes") for match in language.kinds.finditer(hidden)]
        for (start, end), rank, says in sound + stated:
            negated = _is_negated(clause, start, end, language)
            if says == "Yes" and not negated and language.unsaid.search(clause[:start]):
                continue
            already = spans.get((start, end), (rank, says, False))
            spans[start, end] = (rank, says, negated or already[2])  # type: ignore[assignment]
    # Commas end the reach of a hedge no more than of anything else in a clause.
    hedged = words.hedges.search(clause) is not None
    refused = words.refusals.search(clause) is not None
    of_the_rest = words.rest.search(clause) is not None
    found = []
    for (_, end), (rank, says, negated) in sorted(spans.items()):
        answer: Answer = OPPOSITE[says] if negated else says
        value = _keyed(clause[end:])
        if value == "unsaid" or (hedged and value is None):
            continue
        if value:
            found.append(_Claim(2, answer if value == "Yes" else OPPOSITE[answer]))
        elif of_the_rest and answer == "No":
            found.append(_Claim(-1, answer))
        else:
            found.append(_Claim(rank, answer))
    if refused:
        stated_answers = [claim for claim in found if claim.rank == 2]
        return stated_answers or [_Claim(1, None)]
    return found


def _answers(clause: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where a word stands as an answer: alone, before a pause at the beginning, or behind a copula at the end."""
    for match in pattern.finditer(clause):
        before, after = clause[: match.start()].strip(" ([-–—"), clause[match.end() :]
        at_the_end = re.fullmatch(r"[\s.!。)\],;}-]*", after) is not None
        if (not before and (at_the_end or re.match(r"\s*[,.:;!、)–—]|\s+-", after))) or (
            at_the_end
            and re.search(
                r"(?:(?<!\w)(?:is|say|be|lautet|ist|est|es|è|é|with|a|likely|probably|clearly|definitely)|[:=–—是はは,-]|^\W*\w[.)])\s*$",
                before,
            )
        ):
            yield match.span()


def _keyed(after: str) -> str | None:
    """What stands behind ``Defect:``: Yes, No, ``unsaid`` if nothing can be said, None if nothing stands there."""
    words = _words()
    match = re.match(r"(?:\s*\w+){0,2}?\s*[:=|]\s*(.*)", after, re.DOTALL)
    if not match or not match[1]:
        return None
    value = match[1]
    for says, pattern, more in (
        ("No", words.no, r"none|0|absent|not|nicht|kein\w*|aucune?|ningun\w*|nessun\w*|nenhum\w*"),
        ("Yes", words.yes, r"1|present|detected|found|visible"),
    ):
        if re.match(rf"\W*(?:{pattern.pattern}|(?:{more})(?!\w))", value):
            return says
    return "unsaid" if words.hedges.search(value) or words.refusals.search(value) else None


def _is_negated(clause: str, start: int, end: int, language: _Language) -> bool:
    if language.after.match(clause, end):
        return True
    reach = ""
    for piece in reversed(clause[:start].split(",")):
        if reach and (not language.spaced or language.verbs.search(reach)):
            break
        reach = f"{piece},{reach}" if reach else piece
        # An answer before the comma is one of its own: "No, defects are there".
        if language.before.search(piece) and not (reach != piece and _is_answer(piece)):
            return True
        if not reach.strip():
            reach = " "
    return False


def _is_answer(piece: str) -> bool:
    return _words().no.fullmatch(piece.strip()) is not None


# Boxes and type.


def _boxes(text: str) -> list[Box]:
    found = []
    number = r"\s*(\d{1,4}(?:\.\d+)?|\.\d+)\s*"
    for match in re.finditer(rf"[\[(]{number},{number},{number},{number}[\])]", text):
        values = [float(value) for value in match.groups()]
        if max(values) <= 1 and any(not value.is_integer() for value in values):
            values = [value * SCALE for value in values]
        x1, y1, x2, y2 = (round(value) for value in values)
        try:
            box = check_box((x1, y1, x2, y2))
        except ValueError:
            continue
        if box not in found:
            found.append(box)
    return found


def _type(text: str) -> str | None:
    stated = re.findall(r"<type>([^<>]{1,80})</type>", text)
    for _, value in _json(text):
        stated += [
            entry
            for name, entry in _entries(value)
            if isinstance(entry, str)
            and re.fullmatch(r"(?:defect|anomaly)?_?(?:type|category|kind)|defect|anomaly", name.casefold())
        ]
    stated += re.findall(r"^\W*(?:defect |anomaly )?type\W*:\W*([\w -]{1,60})", text, re.IGNORECASE | re.MULTILINE)
    return next((name for words in reversed(stated) if (name := _leaf(words))), None)


def _leaf(words: str) -> str | None:
    name = words.strip(" .*`_").casefold()
    if name.replace(" ", "_") in leaves():
        return name.replace(" ", "_")
    try:
        return leaf(FOLDER, name)
    except IndusCotError:
        return None

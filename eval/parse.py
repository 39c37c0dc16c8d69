"""What a policy's words say: strictly for the agent, by one set of rules for models that do not follow its format.

The agent's completions go through the grammar alone (:func:`parse_strict`). The answers of other models are free
text, read by these rules (:func:`parse_by_rules`); the words are those of ``parse.yaml``, in English, German, French,
Spanish, Italian, Portuguese, Russian, Chinese, Japanese and Korean, whichever comes.

1.  A text that follows the agent's grammar is read by it.
2.  What stands in ``<think>…</think>`` is not part of the answer; neither is a thought that was cut off. Markdown,
    LaTeX, quotation marks, a model's own tokens (``<|im_end|>``), pictographs and the difference of cases are taken
    away; dashes are all one, so are arrows; ✅ and ❌ alone behind a name ("Defect: ❌") are Yes and No.
3.  A machine-readable answer comes first: ``<answer>…</answer>``, ``\\boxed{…}`` or JSON; of several the last. In JSON
    the keys answer, verdict, conclusion and their like count before keys that name a defect ("is_defective": true,
    "defects": []).
4.  A labelled conclusion comes next: behind "Answer:", "Verdict:", "Therefore", as "Defect: none", or an option's
    letter where the prompt offered options. A Yes, No or "none" directly behind the label is the conclusion, and what
    follows it in the sentence explains it. The last label counts; one that is taken back ("wait", "on closer
    inspection") counts as any other sentence.
5.  Without either, the last stated conclusion wins. Conclusions are Yes and No where they stand as an answer, and
    statements that something is defective, anomalous, abnormal, damaged, or normal, intact, free of defects.
6.  A negation turns the conclusion that it reaches: "no defect", "not defective", "not normal", "a defect is not
    visible". It reaches through an enumeration ("no scratches, dents or other defects"), in brackets or between dashes
    too where these name what was negated ("no damage (scratches, other defects)"). It ends at any other bracket, dash
    or colon, at "|", an arrow, "because" and "except", and at a comma, slash or "and" where the next part of the
    sentence begins: a verb follows, or it would turn a defect before and a word of soundness behind, or the reverse.
    A No that stands as an answer negates nothing. "No", "without" and their like negate things: a word of soundness
    only where it stands directly behind ("no scratch on the intact rim" is No). "No doubt" and its like are none.
7.  What is hedged ("possibly", "may", "might", "would") is not concluded. What leans ("likely", "appears to be") is,
    and "unlikely", "I doubt" and "little evidence" negate. A hedge reaches over commas, but no further than to a
    bracket, dash or "because", unless it stands there alone ("defective (possibly)"); and a Yes or No that stands as
    an answer is hedged by what goes before, and by nothing behind but a hedge alone.
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
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

from cot_builder.benchmarks.labels import FOLDER, map_label
from cot_builder.inspection.parsing import GrammarError, read, read_verdict
from cot_builder.inspection.rendering import Message
from schemas.errors import IndusCotError
from schemas.geometry import SCALE, Box, check_box
from schemas.taxonomy import leaves

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


_MARKS = str.maketrans(
    dict.fromkeys("✅✔☑", " ✓ ") | dict.fromkeys("❌❎✘✖☒🚫", " ✗ ") | {"‐": "-", "‑": "-", "’": "'", "‘": "'"}
)


def _plain(text: str) -> str:
    """Lower case, without markup, dashes and arrows alike; a label at the end of a line is joined to what it labels."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_MARKS)
    text = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|boxed)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"<\|[^<>|\s]{1,40}\|>", " ", text)
    text = re.sub(r"[-–—=]>|[→⇒⟶⟹➔➜➡]", " → ", text)
    text = re.sub(
        r"[\u2600-\u2712\u2714-\u2716\u2718-\u27bf\u2b00-\u2bff\ufe0e\ufe0f\u200b\u200d\U0001f000-\U0001faff]",
        " ",
        text,
    )
    text = re.sub(r"</?[a-z_]+/?>|```\w*|[*`#$\"“”„«»「」『』]|__|(?<!\w)'|'(?!\w)", " ", text, flags=re.MULTILINE)
    # "defect–free", "Kratz- und Rissspuren" keep a hyphen.
    text = re.sub(r"(?<=\w)[–‒−](?=(?:free|less|frei)\b)", "-", text)
    text = re.sub(r"[–—―‒−⸺]+|--+|(?<=\s)-(?=\s)|(?<=\w)-(?= (?!und|oder|and|or)\w)|(?<=\w )-(?=[^\W\d])", " – ", text)
    text = re.sub(r"^(?:[ \t]*[>•–+-])+", " ", text, flags=re.MULTILINE)
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
    without: re.Pattern[str]
    after: re.Pattern[str]
    cuts: re.Pattern[str]
    """Where a negation can end. Groups: it ends always; unless what it negated is named; where a clause begins."""
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
    ends: re.Pattern[str]
    answers: list[tuple[Answer, re.Pattern[str], re.Pattern[str]]]
    """In each language: what is said, by which words, and what follows them where they stand as an answer."""
    nothing: re.Pattern[str]
    """All that stands behind a label where there is none."""
    verbs: re.Pattern[str]
    subjects: re.Pattern[str]
    values: list[tuple[Answer, re.Pattern[str]]]
    """Yes and No behind a key."""
    hedged: re.Pattern[str]
    """A hedge alone, behind what it hedges."""
    of_another: re.Pattern[str]
    """``Type: n/a`` says nothing of the verdict."""
    labels: re.Pattern[str]
    corrections: re.Pattern[str]


class _Word(NamedTuple):
    """Words in a clause that state something, before any negation; fields as in :class:`_Claim`."""

    start: int
    end: int
    rank: int
    says: Answer


class _Claim(NamedTuple):
    rank: int
    """2 labelled, 1 stated, 0 a kind of defect, -1 of the rest."""
    says: Answer | None
    """None: nothing can be said."""


_NEVER = r"(?!)"
_ANSWER_KEYS: tuple[tuple[Answer, str], ...] = (("Yes", "yes"), ("No", "no"))


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
            without=re.compile(one(table, "without")),
            after=re.compile("|".join(table["after"]) if table["after"] else _NEVER),
            # What is "following" is what a colon names.
            cuts=re.compile(
                rf"(?P<always>[|→]|{one(table, 'ends')})"
                r"|(?P<naming>[()\[\]{}–]|(?<!following)(?<!folgenden)(?<!suivants)(?<!siguientes)(?<!seguenti)(?<!seguintes):)"
                rf"|(?P<clause>,(?!\s*{one(table, 'onward')})|/|{one(table, 'and')})"
            ),
            verbs=re.compile(one(table, "verbs")),
            unsaid=re.compile(rf"{one(table, 'unsaid')}\s+(?:[\w-]+\s+){{0,2}}$" if table["spaced"] else _NEVER),
            given=re.compile(rf"{one(table, 'given')}[^,:()|–→]*"),
        )
        for table in tables.values()
    ]
    pause = rf"\s*(?:[,.:;!、)|→–✓✗]|/\s|[(\[]+\s*\d|[(\[][^()\[\]]*[)\]]?\W*$|{every('ends').pattern})"
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
        ends=every("ends"),
        answers=[
            (says, re.compile(one(table, key)), re.compile(rf"{pause}|\s*{one(table, 'subjects')}"))
            for table in tables.values()
            for says, key in _ANSWER_KEYS
        ],
        nothing=re.compile(rf"\W*(?:{every('nothing').pattern})\W*"),
        verbs=every("verbs"),
        subjects=every("subjects"),
        values=[
            ("No", re.compile(rf"\W*(?:{every('no').pattern}|{every('nothing').pattern}|0(?!\w)|✗(?=\W*$))")),
            ("Yes", re.compile(rf"\W*(?:{every('yes').pattern}|(?:1|present|detected|found|visible)(?!\w)|✓(?=\W*$))")),
        ],
        hedged=re.compile(rf"\W*(?:{every('hedges').pattern})\s*(?:[^\w\s]|$)"),
        of_another=re.compile(rf"\W*\w+(?:[ _-]\w+){{0,2}}\s*[:=|→–]\W*(?:{every('refusals').pattern})\W*"),
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
            labelled = _directly(parts[1])
            behind = _claims(parts[1])
            if labelled == _NOTHING or words.corrections.search(sentence):
                claims += [claim._replace(rank=2) if claim.rank == 1 else claim for claim in behind]
            else:
                claims += [*behind, _Claim(2, labelled)]
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


def _directly(labelled: str) -> Said:
    """The answer that stands directly behind a label."""
    words = _words()
    clause = _without_choices(words.but.split(labelled, maxsplit=1)[0]).strip()
    if words.nothing.fullmatch(clause):
        return "No"
    for start, end, says in _answers(clause):
        if not clause[:start].strip(_OPENING) and not _is_hedged(clause, start, end, True, _hedges(clause)):
            return says
    return _NOTHING


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
    answers = {(start, end): says for start, end, says in _answers(clause)}
    stated: dict[tuple[int, int], tuple[int, Answer, bool]] = {span: (1, says, False) for span, says in answers.items()}
    for language in words.languages:
        for word, negated in _stated(clause, language, answers):
            already = stated.get((word.start, word.end), (word.rank, word.says, False))
            stated[word.start, word.end] = (word.rank, word.says, negated or already[2])
    hedges = _hedges(clause)
    of_the_rest = words.rest.search(clause) is not None
    found = []
    for (start, end), (rank, says, negated) in sorted(stated.items()):
        answer: Answer = OPPOSITE[says] if negated else says
        value = _keyed(clause, start, end)
        if value == "unsaid" or (value is None and _is_hedged(clause, start, end, (start, end) in answers, hedges)):
            continue
        if value:
            found.append(_Claim(2, answer if value == "Yes" else OPPOSITE[answer]))
        elif of_the_rest and answer == "No":
            found.append(_Claim(-1, answer))
        else:
            found.append(_Claim(rank, answer))
    if words.refusals.search(clause) and (stated or not words.of_another.fullmatch(clause)):
        return [claim for claim in found if claim.rank == 2] or [_Claim(1, None)]
    return found


def _stated(clause: str, language: _Language, answers: Collection[tuple[int, int]]) -> Iterator[tuple[_Word, bool]]:
    """What a clause states in one language, each with whether it is negated."""
    cut = language.given.sub(lambda match: "\0" * len(match[0]), clause)
    sound = [_Word(*match.span(), 1, "No") for match in language.sound.finditer(cut)]
    hidden = cut
    for match in (match for other in _words().languages for match in other.sound.finditer(cut)):
        hidden = hidden[: match.start()] + "\0" * len(match[0]) + hidden[match.end() :]
    defects = [_Word(*match.span(), 1, "Yes") for match in language.defective.finditer(hidden)]
    defects += [_Word(*match.span(), 0, "Yes") for match in language.kinds.finditer(hidden)]
    words, ends = sound + defects, _words().ends
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
            _reaches(clause, *negation, word, words, language) for negation in negations if negation[1] <= word.start
        )
        if negated or word.says == "No" or not language.unsaid.search(clause[: word.start]):
            yield word, negated


_OPENING = " ([-–|→:"


def _answers(clause: str) -> Iterator[tuple[int, int, Answer]]:
    """Where a Yes or No stands as an answer: alone, before a pause at the beginning, or behind a copula at the end."""
    for says, pattern, pause in _words().answers:
        for match in pattern.finditer(clause):
            before, after = clause[: match.start()], clause[match.end() :]
            at_the_end = re.fullmatch(r"[^\w?]*", after) is not None
            if (not before.strip(_OPENING) and (at_the_end or pause.match(after))) or (
                at_the_end
                and re.search(
                    r"(?:(?<!\w)(?:is|say|be|lautet|ist|est|es|è|é|with|a|towards?|answer|likely|probably|clearly|definitely)|[:=–—是はは,-]|^\W*\w[.)])\s*$",
                    before,
                )
            ):
                yield *match.span(), says


def _keyed(clause: str, start: int, end: int) -> str | None:
    """What stands behind ``Defect:``: Yes, No, ``unsaid`` if nothing can be said, None if nothing stands there."""
    words = _words()
    match = re.compile(r"(?:\s*\w+(?!\w)){0,2}?\s*([:=|→–])\s*(.*)", re.DOTALL).match(clause, end)
    if not match or not match[2]:
        return None
    # Behind a dash or a statement ("It is damaged: no coating is left") stands a value alone, or the sentence goes on.
    alone = match[1] in "→–" or any(
        not words.subjects.fullmatch(verb[0]) for verb in words.verbs.finditer(clause, 0, start)
    )
    for says, pattern in words.values:
        value = pattern.match(match[2])
        if value and (not alone or re.match(r"\W*$|\s*[,.;!)]", match[2][value.end() :])):
            return says
    return "unsaid" if not alone and (words.hedges.search(match[2]) or words.refusals.search(match[2])) else None


def _hedges(clause: str) -> list[tuple[int, int]]:
    return [match.span() for match in _words().hedges.finditer(clause)]


def _is_hedged(clause: str, start: int, end: int, is_answer: bool, hedges: Sequence[tuple[int, int]]) -> bool:
    """Whether a hedge reaches what stands at a place (rule 7)."""
    words = _words()
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


def _reaches(
    clause: str, start: int, end: int, only_things: bool, word: _Word, others: Sequence[_Word], language: _Language
) -> bool:
    """Whether the negation at a place reaches a word behind it (rule 6)."""
    between = clause[end : word.start]
    if not language.spaced and len(between) > (1 if only_things else 12):
        return False
    if language.spaced and only_things and word.says == "No":
        return not between.strip()
    # What stands in brackets by the way is passed over: "no (visible) defects".
    between = re.sub(r"\([^()]*\)", lambda match: " " * len(match[0]), between)
    for cut in language.cuts.finditer(between):
        # What the negation has turned already; it can be the beginning of a word of soundness ("no problems").
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
        return map_label(FOLDER, name)
    except IndusCotError:
        return None

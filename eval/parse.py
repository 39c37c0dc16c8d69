"""Parse a policy's text into a verdict: by the agent's grammar, by rules for other models.

The agent's completions are parsed by the grammar only (:func:`parse_agent`). The answers of other models are free
text, parsed by the rules below (:func:`parse_by_rules`). Their words are in ``parse.yaml``, for English, German,
French, Spanish, Italian, Portuguese, Russian, Chinese, Japanese and Korean; the language need not be known.

1.  A text that follows the agent's grammar is parsed by the grammar.
2.  Text in ``<think>…</think>`` and a truncated thought are ignored. Markdown, LaTeX, quotation marks, special tokens
    (``<|im_end|>``), pictographs and case are removed; all dashes are equal, and so are all arrows. ✅ and ❌ alone
    after a name ("Defect: ❌") mean Yes and No.
3.  A machine-readable answer has priority: ``<answer>…</answer>``, ``\\boxed{…}`` or JSON; the last one counts. In
    JSON, keys such as answer, verdict, conclusion have priority over keys that name a defect ("is_defective": true,
    "defects": []).
4.  A labelled conclusion is next: after "Answer:", "Verdict:", "Therefore", as "Defect: none", or as the letter of an
    option that the prompt offered. A Yes, No or "none" directly after the label is the conclusion; the rest of the
    sentence explains it. The last label counts. A label that is withdrawn ("wait", "on closer inspection") counts as an
    ordinary sentence.
5.  Otherwise the last stated conclusion counts: a Yes or No that stands as an answer, or a statement that something is
    defective, anomalous, abnormal, damaged, or normal, intact, free of defects.
6.  A negation inverts the conclusions in its scope: "no defect", "not defective", "not normal", "a defect is not
    visible". The scope includes an enumeration ("no scratches, dents or other defects"), also in brackets or between
    dashes that list what was negated ("no damage (scratches, other defects)"). It ends at any other bracket, dash or
    colon, at "|", an arrow, "because" and "except". It ends at a comma, slash or "and" if the next part of the sentence
    begins there: a verb follows, or the negation would invert both a defect before and a word of soundness after, or
    the reverse. A No that stands as an answer negates nothing. Words such as "no" and "without" negate a word of
    soundness only directly before it ("no scratch on the intact rim" is No). "No doubt" is not a negation.
7.  A hedged statement ("possibly", "may", "might", "would") is not a conclusion. A leaning one ("likely", "appears to
    be") is; "unlikely", "I doubt" and "little evidence" negate. A hedge reaches across commas, but not beyond a
    bracket, dash or "because" unless it stands there alone ("defective (possibly)"). A Yes or No that stands as an
    answer is hedged only by the words before it, or by a lone hedge after it.
8.  Questions and conditions ("whether there is a defect", "if it were damaged"), the purpose of a search ("inspected
    for defects") and choices that are only listed ("Yes or No", "defective or normal") are not conclusions.
9.  "Cannot be determined", "unclear" and similar words withdraw earlier conclusions, except those of rules 3 and 4; a
    later conclusion counts. A text without a conclusion is unparsed.
10. "Otherwise normal", "no other defects", "the rest is intact" describe the rest of the part. They mean No only if
    there is no other conclusion.
11. If there is no conclusion, a stated kind of defect ("there is a scratch") means Yes, and kinds that are all negated
    ("no scratches or dents") mean No. After a "but" or "however" that follows a No, a stated kind of defect is a
    conclusion ("no anomalies at the cap, but there is a scratch on the body").
12. Boxes and a type are read only with a Yes: from ``<location>``, JSON or ``[x1, y1, x2, y2]`` in the text, as
    integers 0-1000 or fractions of the image. Others are dropped, because pixels of an unknown image size are
    meaningless. A type must be in the taxonomy or be a benchmark's label for a type, and stand in ``<type>``, JSON or
    after "Type:".
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from cot_builder.inspection.parsing import GrammarError, parse_completion, read_verdict
from cot_builder.inspection.rendering import Message
from eval.parse_conclusions import conclude
from eval.parse_marked import find_marked
from eval.parse_places import find_boxes, find_type
from eval.parse_text import NO_CONCLUSION, remove_thoughts, to_plain
from eval.parse_words import Answer
from schemas.geometry import Box

MAX_CHARACTERS = 40_000
"""Only so many characters at the end are parsed: the answer stands there, and 10,000 tokens are not more."""


class ParsedAnswer(NamedTuple):
    """A parsed answer."""

    answer: Answer | None
    boxes: list[Box]
    """Boxes in 0-1000; empty unless the answer is Yes."""
    defect_type: str | None
    """Leaf of the taxonomy; None unless the answer is Yes."""
    parse: Literal["strict", "tolerant", "rules", "unparsed"]
    fault: str
    """Violation of the grammar, or reason why there is no answer; empty if there is none."""


def parse_agent(completion: Sequence[Message], exact: bool = False) -> ParsedAnswer:
    """Parse the agent's messages after the prompt by the grammar (:mod:`cot_builder.inspection.parsing`).

    Args:
        completion: The messages.
        exact: Accept only the exact form of the last turn; otherwise any text with one possible meaning.

    Raises:
        IndusCotError: a server has moved thoughts out of the text
            (:func:`cot_builder.inspection.parsing.parse_completion`).
    """
    reading = parse_completion(completion)
    fault = "; ".join(reading.faults)
    if reading.verdict is None or (exact and not reading.exact_verdict):
        return ParsedAnswer(None, [], None, "unparsed", fault)
    verdict = reading.verdict
    how: Literal["strict", "tolerant"] = "tolerant" if reading.faults else "strict"
    return ParsedAnswer(verdict.answer, list(verdict.boxes), verdict.defect_type, how, fault)


def parse_by_rules(text: str, options: Mapping[str, Answer] | None = None) -> ParsedAnswer:
    """Parse free text by the rules above; never raises.

    Args:
        text: The model's whole text.
        options: Meaning of each letter if the prompt offered options: ``{"A": "Yes", "B": "No"}``.
    """
    try:
        verdict, fault = read_verdict(text.strip())
        how: Literal["strict", "tolerant"] = "tolerant" if fault else "strict"
        return ParsedAnswer(verdict.answer, list(verdict.boxes), verdict.defect_type, how, fault)
    except GrammarError as error:
        fault = str(error)
    said = remove_thoughts(text[-MAX_CHARACTERS:])
    answer = find_marked(said, options or {})
    if answer is NO_CONCLUSION:
        answer = conclude(to_plain(said), options or {})
    if answer not in ("Yes", "No"):
        return ParsedAnswer(
            None, [], None, "unparsed", "no conclusion was stated" if said.strip() else "nothing was written"
        )
    if answer == "No":
        return ParsedAnswer("No", [], None, "rules", fault)
    return ParsedAnswer("Yes", find_boxes(said), find_type(said), "rules", fault)

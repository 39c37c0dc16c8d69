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

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from cot_builder.inspection.parsing import GrammarError, read, read_verdict
from cot_builder.inspection.rendering import Message
from eval.parse_conclusions import conclude
from eval.parse_marked import find_marked
from eval.parse_places import find_boxes, find_type
from eval.parse_text import NOTHING, remove_thoughts, to_plain
from eval.parse_words import Answer
from schemas.geometry import Box

LONGEST = 40_000
"""Characters that are read, from the end: an answer stands there, and 10,000 tokens are no more."""


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
    said = remove_thoughts(text[-LONGEST:])
    answer = find_marked(said, options or {})
    if answer is NOTHING:
        answer = conclude(to_plain(said), options or {})
    if answer not in ("Yes", "No"):
        return Parsed(None, [], None, "unparsed", "no conclusion was stated" if said.strip() else "nothing was written")
    if answer == "No":
        return Parsed("No", [], None, "rules", fault)
    return Parsed("Yes", find_boxes(said), find_type(said), "rules", fault)

"""Free text without thoughts and markup, as the rules of :mod:`eval.parse` read it (rule 2)."""

import re
import unicodedata
from typing import Literal

NOTHING: Literal["nothing"] = "nothing"
"""No conclusion of this kind stands in the text; None: one was refused."""
Said = Literal["Yes", "No", "nothing"] | None


def remove_thoughts(text: str) -> str:
    """Take away what stands in ``<think>``, thoughts without a beginning or an end too."""
    text = re.sub(r"<think(?:ing)?>.*?</think(?:ing)?>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    # Servers that open the thought in the prompt leave its end alone.
    text = re.sub(r"^.*</think(?:ing)?>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(r"<think(?:ing)?>.*$", " ", text, flags=re.DOTALL | re.IGNORECASE)


_MARKS = str.maketrans(
    dict.fromkeys("✅✔☑", " ✓ ") | dict.fromkeys("❌❎✘✖☒🚫", " ✗ ") | {"‐": "-", "‑": "-", "’": "'", "‘": "'"}
)


def to_plain(text: str) -> str:
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

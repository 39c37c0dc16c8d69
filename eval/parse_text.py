"""Strip thoughts and markup from free text (rule 2 of :mod:`eval.parse`)."""

import re
import unicodedata
from typing import Literal

NO_CONCLUSION: Literal["nothing"] = "nothing"
"""The text has no conclusion of this kind. None, in contrast, means that the text refuses one."""
Conclusion = Literal["Yes", "No", "nothing"] | None


def remove_thoughts(text: str) -> str:
    """Remove ``<think>`` blocks, also those without an opening or closing tag."""
    text = re.sub(r"<think(?:ing)?>.*?</think(?:ing)?>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    # Some chat templates open the thought in the prompt, so that the text has only the closing tag.
    text = re.sub(r"^.*</think(?:ing)?>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return re.sub(r"<think(?:ing)?>.*$", " ", text, flags=re.DOTALL | re.IGNORECASE)


_MARKS = str.maketrans(
    dict.fromkeys("✅✔☑", " ✓ ") | dict.fromkeys("❌❎✘✖☒🚫", " ✗ ") | {"‐": "-", "‑": "-", "’": "'", "‘": "'"}
)


def to_plain(text: str) -> str:
    """Lower-case text without markup and with uniform dashes and arrows; a label at a line end joins the next line."""
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

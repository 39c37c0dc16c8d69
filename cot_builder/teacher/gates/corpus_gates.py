"""Gates that compare a draft with other drafts: duplicates."""

import re
from collections.abc import Sequence

CORPUS_GATES = ("duplicates",)
"""Gates that need all drafts."""


def duplicates(texts: Sequence[str]) -> list[str | None]:
    """Return for each text why it repeats an earlier text word for word, or None.

    Case, punctuation and numbers are ignored.
    """
    first: dict[str, int] = {}
    found: list[str | None] = []
    for index, text in enumerate(texts):
        key = " ".join(re.findall(r"[a-z]+", text.lower()))
        found.append(f"says what draft {first[key]} says" if key in first else None)
        first.setdefault(key, index)
    return found

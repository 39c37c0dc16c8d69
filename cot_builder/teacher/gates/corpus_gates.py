"""Gates that compare a draft with the other drafts: duplicates."""

import re
from collections.abc import Sequence

CORPUS_GATES = ("duplicates",)
"""Gates that need the other drafts too."""


def duplicates(texts: Sequence[str]) -> list[str | None]:
    """For each draft's thoughts, why they repeat an earlier draft's word for word, or None.

    Case, punctuation and numbers do not tell two texts apart.
    """
    first: dict[str, int] = {}
    found: list[str | None] = []
    for index, text in enumerate(texts):
        key = " ".join(re.findall(r"[a-z]+", text.lower()))
        found.append(f"says what draft {first[key]} says" if key in first else None)
        first.setdefault(key, index)
    return found

"""Texts that must not leave: secrets, paths of this machine, names of reviewers."""

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from schemas.errors import IndusCotError

_BEGIN = r"(?:\b|\\[nrtfb])"
"""Where a word begins; texts are looked through as JSON too, in which a newline before it is a letter."""
KINDS = {
    "a secret": rf"{_BEGIN}(?:hf_[A-Za-z0-9]{{16,}}|sk-[A-Za-z0-9_-]{{20,}}|AKIA[0-9A-Z]{{16}}\b"
    rf"|gh[pousr]_[A-Za-z0-9]{{20,}}|Bearer [A-Za-z0-9._-]{{16,}})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s:@]+@",
    "a local path": rf"{_BEGIN}file://|(?:^|[\s\"'(=:\[`<>|,;]|\\[nrtfb])/(?:home|Users|root|tmp|mnt|media|opt|srv|var|private|work|data)/[\w.]"
    r"|\b[A-Za-z]:\\+(?:Users|Documents|data)\b|(?:^|[\s\"'(=`]|\\[nrtfb])~/\w",
    "an e-mail address": r"\b[\w.+-]+@[\w-]+\.[A-Za-z]{2,}\b",
}
"""What it is to the expression that finds it, for Python's `re` and RE2 alike."""
VARIABLES = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY", re.IGNORECASE)
SHORTEST = 8
"""Characters of a value of the environment that is looked for: a shorter one is found in any text."""


def pattern(names: Iterable[str] = (), root: Path = Path()) -> str:
    """One expression for everything that must not leave, these names and this machine's own values among it."""
    own = {
        str(root.resolve()),
        str(Path.home()),
        *(value for name, value in os.environ.items() if VARIABLES.search(name) and len(value) >= SHORTEST),
        *_saved_token(),
        *names,
    }
    known = [re.escape(value) for value in sorted(own) if len(value) > 3]
    return "|".join([*KINDS.values(), *known])


def check(text: str, where: str, expression: str) -> None:
    """Refuse a text that holds any of it.

    Raises:
        IndusCotError: saying where and what kind of thing, never the thing itself.
    """
    if found := _compiled(expression).search(text):
        hit = found.group()
        kind = next((name for name, one in KINDS.items() if _compiled(one).search(hit)), "a value of this machine")
        at = text.count("\n", 0, found.start()) + 1
        raise IndusCotError(
            f"{where}, line {at}, character {found.start()}: holds {kind}; nothing was published. Remove it where it "
            "was written (a draft: reject it in review), then run again"
        )


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def _saved_token() -> list[str]:
    from huggingface_hub import get_token

    token = get_token()
    return [token] if token else []

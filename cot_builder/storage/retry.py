"""Retry with growing pauses, and how long a server asks to wait: the one place for both."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TypeVar

from cot_builder.progress import console

T = TypeVar("T")

BACKOFF_S = 0.5
"""Pause after the first failed attempt; each further one is twice as long."""


class TransientError(Exception):
    """An attempt failed, and the next one may succeed."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """Describe the failure.

        Args:
            reason: For messages.
            wait: Seconds that the server asks to wait, where it does.
        """
        super().__init__(reason)
        self.wait = wait


def print_retry(name: str, error: TransientError, wait: float, attempt: int) -> None:  # noqa: ARG001
    """Say that ``name`` failed and is tried again."""
    console.print(f"{name}: {error}; trying again in {round(wait, 1):g} s", highlight=False, markup=False)


def with_retries(
    action: Callable[[], T],
    name: str,
    attempts: int,
    longest_wait_s: float,
    tell: Callable[[str, TransientError, float, int], None] = print_retry,
) -> T:
    """The result of ``action``, which is repeated for as long as it raises :class:`TransientError`.

    Args:
        action: One attempt.
        name: What is asked, for messages.
        attempts: How often ``action`` is called at most, at least 1.
        longest_wait_s: Seconds; a server that asks to wait longer is not asked again.
        tell: Called before each pause with the name, the failure, the seconds to wait and the attempt, from 0.

    Raises:
        TransientError: of the last attempt, or one that asks for a longer wait.
    """
    for attempt in range(attempts):
        try:
            return action()
        except TransientError as error:
            wait = backoff(attempt) if error.wait is None else error.wait
            if attempt + 1 == attempts or wait > longest_wait_s:
                raise
            tell(name, error, wait, attempt)
        time.sleep(wait)
    raise ValueError(f"{name}: at least one attempt is needed")


def backoff(attempt: int, first: float | None = None, longest: float = float("inf")) -> float:
    """Seconds between ``attempt``, from 0, and the next: ``first`` (:data:`BACKOFF_S`), doubled with each attempt."""
    return min(longest, (BACKOFF_S if first is None else first) * 2 ** min(attempt, 16))


def parse_wait(text: str) -> float | None:
    """Seconds of a Retry-After (RFC 9110: a number or a date) or rate-reset header (``6m0s``, ``250ms``), or None."""
    text = text.strip()
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)

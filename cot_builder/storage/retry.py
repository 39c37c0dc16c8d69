"""Retry with exponential backoff, and parse the wait that a server asks for."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TypeVar

from cot_builder.progress import console

T = TypeVar("T")

BACKOFF_S = 0.5
"""Pause in seconds after the first failed attempt; each further pause is twice as long."""


class TransientError(Exception):
    """A temporary failure: the next attempt may succeed."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """Create the error.

        Args:
            reason: Reason of the failure, for messages.
            wait: Seconds that the server asks to wait, if it does.
        """
        super().__init__(reason)
        self.wait = wait


def print_retry(name: str, error: TransientError, wait: float, attempt: int) -> None:  # noqa: ARG001
    """Print that ``name`` failed and will be retried."""
    console.print(f"{name}: {error}; retrying in {round(wait, 1):g} s", highlight=False, markup=False)


def with_retries(
    action: Callable[[], T],
    name: str,
    attempts: int,
    longest_wait_s: float,
    on_retry: Callable[[str, TransientError, float, int], None] = print_retry,
) -> T:
    """Call ``action`` until it does not raise :class:`TransientError`, and return its result.

    Args:
        action: Function that makes one attempt.
        name: Name of the request, for messages.
        attempts: Maximum number of attempts, at least 1.
        longest_wait_s: Maximum pause in seconds; if a server asks to wait longer, the error is raised.
        on_retry: Called before each pause with the name, the error, the pause in seconds, and the attempt, from 0.

    Raises:
        TransientError: the last attempt failed, or the server asks for a longer wait.
    """
    for attempt in range(attempts):
        try:
            return action()
        except TransientError as error:
            wait = backoff(attempt) if error.wait is None else error.wait
            if attempt + 1 == attempts or wait > longest_wait_s:
                raise
            on_retry(name, error, wait, attempt)
        time.sleep(wait)
    raise ValueError(f"{name}: attempts must be at least 1")


def backoff(attempt: int, first: float | None = None, longest: float = float("inf")) -> float:
    """Return the pause in seconds after ``attempt``, from 0: ``first``, or :data:`BACKOFF_S`, doubled each time."""
    return min(longest, (BACKOFF_S if first is None else first) * 2 ** min(attempt, 16))


def parse_wait(text: str) -> float | None:
    """Parse a wait to seconds; None if it cannot be parsed.

    Args:
        text: A Retry-After header (RFC 9110: a number or a date) or a rate-reset header (``6m0s``, ``250ms``).
    """
    text = text.strip()
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)

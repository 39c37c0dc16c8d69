"""Requests to the Hub with retries, and its refusals as messages that say what to do."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cot_builder.storage.retry import T, TransientError, parse_wait, with_retries
from schemas.errors import IndusCotError

ATTEMPTS = 5
LONGEST_WAIT_S = 900.0
"""Longest wait that is accepted: three of the Hub's rate-limit windows."""


class UnreachableError(IndusCotError):
    """No login or no connection, so the Hub could not be asked."""


def call_hub(action: Callable[[], T], repo: str, committed: str = "", unknown: str = "") -> T:
    """Call the Hub with retries on 429 (after the stated wait), 5xx and broken connections.

    Args:
        action: The request; attempted at most ``ATTEMPTS`` times.
        repo: Name for messages.
        committed: What is committed already, for every message; empty if nothing is.
        unknown: Message if it is unknown whether the action succeeded; a refusal leaves no doubt.

    Raises:
        IndusCotError: the Hub refuses, is down or asks to wait too long, or the disk is full. The message never holds a
            header.
        UnreachableError: the connection breaks in every attempt.
        HfHubHTTPError: 404 and 412, which the caller handles.
    """
    outcome = (
        unknown or committed or "nothing was committed. Uploaded files are kept: run the same command again to continue"
    )

    def attempt() -> T:
        try:
            return action()
        except Exception as error:
            failure = _classify_failure(error, repo, committed, outcome)
            if failure is error:
                raise
            raise failure from None

    try:
        return with_retries(attempt, repo, ATTEMPTS, LONGEST_WAIT_S)
    except _BrokenConnectionError as error:
        raise UnreachableError(f"{repo}: {error}, after {ATTEMPTS} attempts; {outcome}") from None
    except TransientError as error:
        if error.wait is not None and error.wait > LONGEST_WAIT_S:
            minutes = f"{error.wait / 60:.0f} minutes"
            raise IndusCotError(f"{repo}: {error}, and asks to wait {minutes}; {outcome}") from None
        raise IndusCotError(f"{repo}: {error}, after {ATTEMPTS} attempts; {outcome}") from None


class _BrokenConnectionError(TransientError):
    """The connection broke."""


def _classify_failure(raised: Exception, repo: str, committed: str, outcome: str) -> BaseException:
    """Error to raise for a failed attempt: a :class:`TransientError` if another attempt can help."""
    from huggingface_hub.errors import HfHubHTTPError

    error = _find_cause(raised)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (404, 412):
            return error
        if status != 429 and status < 500:
            return _make_refusal(status, repo, error, committed)
        return TransientError(f"the Hub answers {status}", _read_wait(error.response.headers))
    if isinstance(error, connection_error_types()):
        return _BrokenConnectionError(f"the connection broke ({type(error).__name__})")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _make_disk_full_error(repo, outcome)
    return raised


def _read_wait(headers: Mapping[str, str]) -> float | None:
    """Wait that an answer asks for, seconds; None if it states none."""
    from huggingface_hub.utils import parse_ratelimit_headers

    wait = parse_wait(headers.get("Retry-After", ""))
    if wait is not None:
        return wait
    # The Hub may send rate-limit headers instead.
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None


def _make_disk_full_error(repo: str, outcome: str) -> IndusCotError:
    from huggingface_hub.constants import HF_HOME

    return IndusCotError(
        f"{repo}: the disk is full. Free some space, or set HF_HOME, the folder of downloads (now {HF_HOME}), to "
        f"another disk; {outcome}"
    )


def connection_error_types() -> tuple[type[Exception], ...]:
    """Exceptions of a broken connection."""
    import httpx
    import httpx2

    return (httpx2.TransportError, httpx.TransportError, ConnectionError)


def _find_cause(error: BaseException) -> BaseException:
    """The error of the Hub or the network that `huggingface_hub` has wrapped."""
    from huggingface_hub.errors import HfHubHTTPError

    known: tuple[type[BaseException], ...] = (HfHubHTTPError, *connection_error_types())
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, known):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def _make_refusal(status: int, repo: str, error: Any, committed: str) -> IndusCotError:
    from huggingface_hub import get_token

    told = (error.server_message or "").splitlines()
    said = f"{repo}: the Hub refuses ({status}){': ' + told[0] if told else ''}"
    if status == 401 and not get_token():
        said = (
            f"{repo} does not exist, or is private or gated, and you are not logged in (401). Check the name, and run "
            "`hf auth login` or set HF_TOKEN"
        )
    elif status == 401:
        said = "the Hub rejects the token (401): it is wrong or revoked. Run `hf auth login`, or set HF_TOKEN"
    elif status == 403:
        said = (
            f"{repo}: the token may not write or read there (403). Use a token with write access "
            "(huggingface.co/settings/tokens), or publish under your own name with --repo"
        )
    return IndusCotError(f"{said}; {committed}" if committed else said)


@contextmanager
def hide_hub_progress() -> Iterator[None]:
    """Hide the progress bars of `huggingface_hub`, because this project shows its own progress."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()

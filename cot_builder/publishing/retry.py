"""Requests to the Hub, retried where that can help, and refusals in words that say what to do."""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cot_builder.storage.retry import T, TransientError, parse_wait, with_retries
from schemas.errors import IndusCotError

ATTEMPTS = 5
LONGEST_WAIT_S = 900.0
"""Three of the Hub's windows; who is told to wait longer does something else meanwhile."""


class UnreachableError(IndusCotError):
    """Nobody is logged in, or there is no connection: the Hub was not asked."""


def call_hub(action: Callable[[], T], repo: str, stands: str = "", unsure: str = "") -> T:
    """Do something on the Hub, again where that can help: 429 (as long as it says), 5xx, broken connections.

    Args:
        action: Done until it ends well, or ``ATTEMPTS`` times.
        repo: For messages.
        stands: What was done before and holds whatever becomes of this, for every message; nothing where it is empty.
        unsure: What to say where nobody knows whether this was done, which a refusal leaves no doubt about.

    Raises:
        IndusCotError: it refuses, is down or says to wait too long, or the disk is full. Its text never has a header
            in it.
        UnreachableError: the connection breaks every time.
        HfHubHTTPError: 404 and 412, which mean something to the caller.
    """
    left = unsure or stands or "nothing was committed. What arrived is kept: run the same command again to go on"

    def attempt() -> T:
        try:
            return action()
        except Exception as error:
            failure = _classify_failure(error, repo, stands, left)
            if failure is error:
                raise
            raise failure from None

    try:
        return with_retries(attempt, repo, ATTEMPTS, LONGEST_WAIT_S)
    except _BrokenConnectionError as error:
        raise UnreachableError(f"{repo}: {error}, after {ATTEMPTS} attempts; {left}") from None
    except TransientError as error:
        if error.wait is not None and error.wait > LONGEST_WAIT_S:
            minutes = f"{error.wait / 60:.0f} minutes"
            raise IndusCotError(f"{repo}: {error}, and says to come back in {minutes}; {left}") from None
        raise IndusCotError(f"{repo}: {error}, after {ATTEMPTS} attempts; {left}") from None


class _BrokenConnectionError(TransientError):
    """The connection broke."""


def _classify_failure(raised: Exception, repo: str, stands: str, left: str) -> BaseException:
    """What to raise for the failure of one attempt: a :class:`TransientError` where another one can help."""
    from huggingface_hub.errors import HfHubHTTPError

    error = _find_cause(raised)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (404, 412):
            return error
        if status != 429 and status < 500:
            return _make_refusal(status, repo, error, stands)
        return TransientError(f"the Hub answers {status}", _read_wait(error.response.headers))
    if isinstance(error, connection_error_types()):
        return _BrokenConnectionError(f"the connection broke ({type(error).__name__})")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _make_disk_full_error(repo, left)
    return raised


def _read_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer says to wait; None where it says nothing that can be read."""
    from huggingface_hub.utils import parse_ratelimit_headers

    wait = parse_wait(headers.get("Retry-After", ""))
    if wait is not None:
        return wait
    # What the Hub says in place of it.
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None


def _make_disk_full_error(repo: str, left: str) -> IndusCotError:
    from huggingface_hub.constants import HF_HOME

    return IndusCotError(
        f"{repo}: the disk is full. Free some space, or set HF_HOME, where downloads are kept (now {HF_HOME}), to a "
        f"disk that has some; {left}"
    )


def connection_error_types() -> tuple[type[Exception], ...]:
    """What a connection that breaks raises."""
    import httpx
    import httpx2

    return (httpx2.TransportError, httpx.TransportError, ConnectionError)


def _find_cause(error: BaseException) -> BaseException:
    """What the Hub or the network said, where `huggingface_hub` wraps it: a failed upload, a file that is not there."""
    from huggingface_hub.errors import HfHubHTTPError

    known: tuple[type[BaseException], ...] = (HfHubHTTPError, *connection_error_types())
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, known):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def _make_refusal(status: int, repo: str, error: Any, stands: str) -> IndusCotError:
    from huggingface_hub import get_token

    told = (error.server_message or "").splitlines()
    said = f"{repo}: the Hub refuses ({status}){': ' + told[0] if told else ''}"
    if status == 401 and not get_token():
        said = (
            f"{repo}: is not there, or is private or gated, and nobody is logged in (401). Run `hf auth login`, or set "
            "HF_TOKEN, and look at the name"
        )
    elif status == 401:
        said = (
            "the Hub does not know the token (401): it is wrong, or was revoked. Run `hf auth login`, or set HF_TOKEN"
        )
    elif status == 403:
        said = (
            f"{repo}: the token has no right to write there (403), or to read it. Use a token with write access to it "
            "(huggingface.co/settings/tokens), or publish under your own name with --repo"
        )
    return IndusCotError(f"{said}; {stands}" if stands else said)


@contextmanager
def hide_hub_progress() -> Iterator[None]:
    """Without the bars of `huggingface_hub`: progress is told here."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()

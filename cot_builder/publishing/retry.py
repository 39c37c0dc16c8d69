"""Requests to the Hub, retried where that can help, and refusals in words that say what to do."""

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from cot_builder.progress import console
from schemas.errors import IndusCotError

T = TypeVar("T")


ATTEMPTS = 5


BACKOFF_S = 0.5


LONGEST_WAIT_S = 900.0
"""Three of the Hub's windows; who is told to wait longer does something else meanwhile."""


class UnreachableError(IndusCotError):
    """Nobody is logged in, or there is no connection: the Hub was not asked."""


def again(action: Callable[[], T], repo: str, stands: str = "", unsure: str = "") -> T:
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
    from huggingface_hub.errors import HfHubHTTPError

    left = unsure or stands or "nothing was committed. What arrived is kept: run the same command again to go on"
    reason, refusal = "", IndusCotError
    for attempt in range(ATTEMPTS):
        wait = BACKOFF_S * 2**attempt
        try:
            return action()
        except Exception as raised:
            error = _cause(raised)
            if isinstance(error, HfHubHTTPError):
                status = error.response.status_code
                if status in (404, 412):
                    raise error from None
                if status != 429 and status < 500:
                    raise _refusal(status, repo, error, stands) from None
                reason, refusal = f"the Hub answers {status}", IndusCotError
                said = _retry_after(error.response.headers)
                wait = wait if said is None else said
            elif isinstance(error, broken()):
                reason, refusal = f"the connection broke ({type(error).__name__})", UnreachableError
            elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(repo, left) from None
            else:
                raise
        if wait > LONGEST_WAIT_S:
            raise IndusCotError(f"{repo}: {reason}, and says to come back in {wait / 60:.0f} minutes; {left}")
        if attempt + 1 < ATTEMPTS:
            console.print(f"{repo}: {reason}; trying again in {wait:.0f} s", highlight=False, markup=False)
            time.sleep(wait)
    raise refusal(f"{repo}: {reason}, after {ATTEMPTS} attempts; {left}")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer says to wait: a number, or a date; None where it says nothing that can be read."""
    from huggingface_hub.utils import parse_ratelimit_headers

    said = headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        pass
    # What the Hub says in place of it.
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None


def _full(repo: str, left: str) -> IndusCotError:
    from huggingface_hub.constants import HF_HOME

    return IndusCotError(
        f"{repo}: the disk is full. Free some space, or set HF_HOME, where downloads are kept (now {HF_HOME}), to a "
        f"disk that has some; {left}"
    )


def broken() -> tuple[type[Exception], ...]:
    """What a connection that breaks raises."""
    import httpx
    import httpx2

    return (httpx2.TransportError, httpx.TransportError, ConnectionError)


def _cause(error: BaseException) -> BaseException:
    """What the Hub or the network said, where `huggingface_hub` wraps it: a failed upload, a file that is not there."""
    from huggingface_hub.errors import HfHubHTTPError

    known: tuple[type[BaseException], ...] = (HfHubHTTPError, *broken())
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, known):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def _refusal(status: int, repo: str, error: Any, stands: str) -> IndusCotError:
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
def quiet() -> Iterator[None]:
    """Without the bars of `huggingface_hub`: progress is told here."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()

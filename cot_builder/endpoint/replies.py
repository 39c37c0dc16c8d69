"""Replies of an endpoint: read, priced, or refused in words that say what to do."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cot_builder.endpoint.prices import Usage
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import Stored
from schemas.errors import IndusCotError

if TYPE_CHECKING:
    pass


OVERLOAD_STATUSES = (429, 503, 529)


TRANSIENT_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses that may be another one next time."""


FATAL_STATUSES = (401, 402, 403, 404)
"""Statuses that every request would meet."""


class Answer(NamedTuple):
    """What a model said."""

    text: str
    finish_reason: str
    """``stop``, ``length``, ``content_filter``, …; ``refusal`` where the model refused."""
    usage: Usage
    usd: float
    """What it cost when it was asked."""
    kept: bool
    """True where it came from the store."""
    message: Mapping[str, Any] = MappingProxyType({})
    """The assistant's message as the server sent it."""


class NotAnsweredError(Exception):
    """One request has no answer; others may have one. Its text says why, and what was tried."""


class CacheMissError(Exception):
    """The answer is not in the store, and nothing is being sent."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.step)
        self.request = request


class StopError(IndusCotError):
    """No request can be answered: the key, the address or the model is wrong, or the account is empty."""


class TransientError(Exception):
    """May be another one next time."""

    def __init__(self, reason: str, overloaded: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.overloaded = overloaded
        self.wait = wait


def read_response(content: str) -> dict[str, Any]:
    """A chat completion from the text of an HTTP answer.

    Raises:
        TransientError: it is cut short or no chat completion.
    """
    try:
        response = json.loads(content)
        choice = response["choices"][0]
        if not isinstance(choice["message"], dict):
            raise TypeError("message")
    except (ValueError, KeyError, IndexError, TypeError):
        raise TransientError("unreadable answer (not a chat completion)") from None
    return response


def read_usage(response: Mapping[str, Any], expected_input: int, max_tokens: int) -> Usage:
    """Tokens as the server counted them; where it did not, the estimate, so that a cap still holds."""
    counted = response.get("usage")
    usage = counted if isinstance(counted, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    asked, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(asked, int) or not isinstance(said, int) or not (asked or said):
        return Usage(input=expected_input, output=max_tokens)
    return Usage(input=asked, cached_input=min(cached if isinstance(cached, int) else 0, asked), output=said)


def as_answer(stored: Stored, kept: bool) -> Answer:
    """What a stored response says."""
    choice = stored.response["choices"][0]
    message = choice["message"]
    reason = "refusal" if message.get("refusal") else choice.get("finish_reason") or "stop"
    # Half a character, which JSON may hold, could neither be sent back nor written to a table.
    text = str(message.get("content") or message.get("refusal") or "").encode(errors="replace").decode()
    return Answer(text, reason, stored.usage, stored.usd, kept, message)


def _root(error: BaseException) -> BaseException:
    """What began it: the transport calls a refused connection a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "os_error", error)


def words_of(body: Any, hide: Callable[[str], str]) -> str:
    """The words of an error's body, the key hidden, no longer than a line or two."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") if isinstance(inner, dict) else inner
    return hide(" ".join(str(body).split()))[:300]

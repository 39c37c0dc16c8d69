"""Answers of an endpoint and its errors: parsing a response, reading its token usage, extracting an error's text."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from cot_builder.endpoint.prices import Usage
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import StoredAnswer
from schemas.errors import IndusCotError

OVERLOAD_STATUSES = (429, 503, 529)
TRANSIENT_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""HTTP statuses worth a retry."""
FATAL_STATUSES = (401, 402, 403, 404)
"""HTTP statuses that every other request would get too."""


class Answer(NamedTuple):
    """A model's answer to a request."""

    text: str
    finish_reason: str
    """``stop``, ``length``, ``content_filter``, …; ``refusal`` if the model refused."""
    usage: Usage
    usd: float
    """Cost when the request was sent."""
    is_cached: bool
    """True if it came from the store, or from an equal request in flight."""
    message: Mapping[str, Any] = MappingProxyType({})
    """The assistant message as the server sent it."""


class NotAnsweredError(Exception):
    """One request has no answer; others may have one. The message says why, and what was tried."""


class CacheMissError(Exception):
    """The answer is not in the store, and sending is off."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.step)
        self.request = request


class StopError(IndusCotError):
    """No request can be answered: the key, the address or the model is wrong, or the account has no credit."""


class TransientError(Exception):
    """An attempt failed, and a retry may succeed."""

    def __init__(self, reason: str, overloaded: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.overloaded = overloaded
        self.wait = wait


def read_response(content: str) -> dict[str, Any]:
    """Parse the body of an HTTP response into a chat completion.

    Raises:
        TransientError: the body is truncated or not a chat completion.
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
    """Return the token counts of the server, or the estimate if it sent none, so that a cap still holds."""
    counted = response.get("usage")
    usage = counted if isinstance(counted, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int) or not (prompt or completion):
        return Usage(input=expected_input, output=max_tokens)
    return Usage(input=prompt, cached_input=min(cached if isinstance(cached, int) else 0, prompt), output=completion)


def to_answer(stored: StoredAnswer, is_cached: bool) -> Answer:
    """Convert a stored response to an :class:`Answer`."""
    choice = stored.response["choices"][0]
    message = choice["message"]
    reason = "refusal" if message.get("refusal") else choice.get("finish_reason") or "stop"
    # JSON may contain a lone surrogate, which can neither be sent back nor written to a table: replace it.
    text = str(message.get("content") or message.get("refusal") or "").encode(errors="replace").decode()
    return Answer(text, reason, stored.usage, stored.usd, is_cached, message)


def find_root_cause(error: BaseException) -> BaseException:
    """Return the innermost cause of an error: the transport reports a refused connection as a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "os_error", error)


def extract_error_text(body: Any, redact: Callable[[str], str]) -> str:
    """Extract the message of an error's body, with the key redacted, at most 300 characters."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") if isinstance(inner, dict) else inner
    return redact(" ".join(str(body).split()))[:300]

"""The connection to Label Studio: where it is, who we are there, and its failures in words."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from annotation.server import admin
from cot_builder.params import Review
from cot_builder.progress import console
from cot_builder.storage.retry import TransientError, parse_wait, with_retries
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
TIMEOUT_S = 300.0
ATTEMPTS = 8
"""A minute in all; a restart of the server takes some ten seconds, of a busy one a minute."""
FEW = 4
"""Attempts after which a server that never answered, or that fails by itself, is given up."""
LONGEST_WAIT_S = 60.0
RESTARTING = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
"""What a proxy answers for a server that is not there."""


@contextmanager
def connect(
    params: Review, workspace: Workspace, at_request: Callable[[], object] = lambda: None
) -> Iterator[LabelStudio]:
    """The client, whose failures come out as one message.

    The token is that of ``$LABEL_STUDIO_API_KEY``, or of the server that `indus-cot review serve` started here.
    A server that restarts is waited for. What would be done twice if sent twice (POST) is never sent again.
    ``at_request`` is called whenever a request is ready and about to be sent.

    Raises:
        IndusCotError: no token; the server is not there, refuses the token or fails.
    """
    token = os.environ.get(TOKEN_VARIABLE) or admin(workspace.label_studio).token
    hooks: dict[str, list[Callable[..., Any]]] = {"request": [lambda _: at_request()], "response": [_refuse_failure]}
    with httpx.Client(timeout=TIMEOUT_S, transport=_Patient(), follow_redirects=True, event_hooks=hooks) as http:
        try:
            yield LabelStudio(base_url=params.url, api_key=token, httpx_client=http)
        except ApiError as error:
            raise IndusCotError(f"{params.url}: {reason(error)}") from error
        except httpx.HTTPError as error:
            raise IndusCotError(
                f"{params.url}: Label Studio cannot be reached ({type(error).__name__}); start it with "
                "`indus-cot review serve`, or set review.url. Run the same command again: it goes on where it was"
            ) from error


class _Patient(httpx.BaseTransport):
    """Sends again what can be sent twice without harm, for as long as a restart of the server takes."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self._answered = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        numbers = count(1)

        def send() -> httpx.Response:
            attempt = next(numbers)
            try:
                response = self._inner.handle_request(request)
            except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout) as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                last = attempt >= (ATTEMPTS if self._answered else FEW)
                if last or not (unsent or _repeatable(request)):
                    raise
                raise TransientError("Label Studio does not answer") from error
            self._answered = True
            if attempt > 1 and request.method == "DELETE" and response.status_code == httpx.codes.NOT_FOUND:
                # The first attempt did it, and its answer was lost.
                response.close()
                return httpx.Response(httpx.codes.NO_CONTENT, request=request)
            last = attempt >= (ATTEMPTS if response.status_code in RESTARTING else FEW)
            if last or response.status_code < 500 or not _repeatable(request):
                return response
            response.close()
            wait = parse_wait(response.headers.get("Retry-After", ""))
            raise TransientError("Label Studio does not answer", wait if wait is None else min(wait, LONGEST_WAIT_S))

        return with_retries(send, str(request.url), ATTEMPTS, LONGEST_WAIT_S, _tell_once)

    def close(self) -> None:
        self._inner.close()


def _tell_once(name: str, error: TransientError, wait: float, attempt: int) -> None:  # noqa: ARG001
    """Say that the server is waited for, once it is sure to take a while."""
    if attempt == FEW - 1:
        console.print("Label Studio does not answer; waiting up to a minute for it", highlight=False)


def _repeatable(request: httpx.Request) -> bool:
    return request.method != "POST"


def _refuse_failure(response: httpx.Response) -> None:
    """Raise before the SDK sees a failed answer: it would send again what may have been done."""
    if response.status_code >= 500:
        response.read()
        raise ApiError(status_code=response.status_code, body=_body(response))


def _body(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return response.text


def reason(error: ApiError) -> str:
    """What the server said, in words."""
    if error.status_code == httpx.codes.UNAUTHORIZED:
        return (
            f"Label Studio refuses the token; put a valid one into ${TOKEN_VARIABLE} "
            "(in Label Studio: Account & Settings, Access Token)"
        )
    body = error.body
    said = body.get("validation_errors") or body.get("detail") or body if isinstance(body, dict) else body
    words = " ".join(str(said or "").split())[:400]
    told = f"Label Studio answers {error.status_code}" + (f": {words}" if words and words[0] != "<" else "")
    if error.status_code == httpx.codes.NOT_FOUND:
        return f"{told}. If somebody deleted it meanwhile, run the same command again: it makes it anew"
    if error.status_code is not None and error.status_code >= 500:
        return f"{told}. Its log says why. Run the same command again: it goes on where it was"
    return told

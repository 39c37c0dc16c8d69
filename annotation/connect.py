"""Connects to Label Studio: address, token, retries, and error messages a user understands."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from annotation.server import read_admin
from cot_builder.params import Review
from cot_builder.progress import console
from cot_builder.storage.retry import TransientError, parse_wait, with_retries
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
TIMEOUT_S = 300.0
ATTEMPTS = 8
"""Enough for about a minute: a restart of the server takes some ten seconds, and up to a minute if it is busy."""
FEW_ATTEMPTS = 4
"""Attempts if the server has not answered once in this connection, or if it answers with an error of its own."""
LONGEST_WAIT_S = 60.0
RESTART_STATUSES = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
"""Statuses that a proxy returns while the server behind it is down."""


@contextmanager
def connect(
    params: Review, workspace: Workspace, on_request: Callable[[], object] = lambda: None
) -> Iterator[LabelStudio]:
    """Yield a client; every failure of it becomes one `IndusCotError`.

    The token comes from ``$LABEL_STUDIO_API_KEY``, or from the server that `indus-cot review serve` started here.
    Requests are retried while the server restarts. POST requests are never retried: they would be executed twice.

    Args:
        params: Address of the server.
        workspace: Folder of the project, which may hold the server's folder.
        on_request: Called whenever a request is ready and about to be sent.

    Raises:
        IndusCotError: there is no token, or the server cannot be reached, refuses the token or fails.
    """
    token = os.environ.get(TOKEN_VARIABLE) or read_admin(workspace.label_studio).token
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [lambda _: on_request()],
        "response": [_raise_server_error],
    }
    with httpx.Client(
        timeout=TIMEOUT_S, transport=_RetryingTransport(), follow_redirects=True, event_hooks=hooks
    ) as http:
        try:
            yield LabelStudio(base_url=params.url, api_key=token, httpx_client=http)
        except ApiError as error:
            raise IndusCotError(f"{params.url}: {describe_error(error)}") from error
        except httpx.HTTPError as error:
            raise IndusCotError(
                f"{params.url}: Label Studio cannot be reached ({type(error).__name__}); start it with "
                "`indus-cot review serve`, or set review.url. Run the same command again: it continues where it stopped"
            ) from error


class _RetryingTransport(httpx.BaseTransport):
    """Retries requests that can safely be sent twice, for as long as a restart of the server takes."""

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
                is_unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                last = attempt >= (ATTEMPTS if self._answered else FEW_ATTEMPTS)
                if last or not (is_unsent or _is_repeatable(request)):
                    raise
                raise TransientError("Label Studio does not answer") from error
            self._answered = True
            if attempt > 1 and request.method == "DELETE" and response.status_code == httpx.codes.NOT_FOUND:
                # The first attempt deleted it, but its response was lost.
                response.close()
                return httpx.Response(httpx.codes.NO_CONTENT, request=request)
            last = attempt >= (ATTEMPTS if response.status_code in RESTART_STATUSES else FEW_ATTEMPTS)
            if last or response.status_code < 500 or not _is_repeatable(request):
                return response
            response.close()
            wait = parse_wait(response.headers.get("Retry-After", ""))
            raise TransientError("Label Studio does not answer", wait if wait is None else min(wait, LONGEST_WAIT_S))

        return with_retries(send, str(request.url), ATTEMPTS, LONGEST_WAIT_S, _print_waiting)

    def close(self) -> None:
        self._inner.close()


def _print_waiting(name: str, error: TransientError, wait: float, attempt: int) -> None:  # noqa: ARG001
    """Tell the user once, after some failed attempts, that the command waits for the server."""
    if attempt == FEW_ATTEMPTS - 1:
        console.print("Label Studio does not answer; waiting up to a minute for it", highlight=False)


def _is_repeatable(request: httpx.Request) -> bool:
    return request.method != "POST"


def _raise_server_error(response: httpx.Response) -> None:
    """Raise before the SDK sees a failed response: the SDK would retry a request that may have been executed."""
    if response.status_code >= 500:
        response.read()
        raise ApiError(status_code=response.status_code, body=_parse_body(response))


def _parse_body(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return response.text


def describe_error(error: ApiError) -> str:
    """Return the server's error as a message for the user."""
    if error.status_code == httpx.codes.UNAUTHORIZED:
        return (
            f"Label Studio refuses the token; put a valid one into ${TOKEN_VARIABLE} "
            "(in Label Studio: Account & Settings, Access Token)"
        )
    body = error.body
    detail = body.get("validation_errors") or body.get("detail") or body if isinstance(body, dict) else body
    text = " ".join(str(detail or "").split())[:400]
    message = f"Label Studio answers {error.status_code}" + (f": {text}" if text and text[0] != "<" else "")
    if error.status_code == httpx.codes.NOT_FOUND:
        return f"{message}. If somebody deleted it meanwhile, run the same command again to create it again"
    if error.status_code is not None and error.status_code >= 500:
        return (
            f"{message}. See the server's log for the cause. Run the same command again: it continues where it stopped"
        )
    return message

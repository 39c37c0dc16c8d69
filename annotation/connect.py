"""The connection to Label Studio: where it is, who we are there, and its failures in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from annotation.server import admin
from cot_builder.params import Review
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
TIMEOUT_S = 300.0
CONNECTING = 4
"""Attempts to reach the server, a restart of which takes seconds."""


@contextmanager
def connect(params: Review, workspace: Workspace) -> Iterator[LabelStudio]:
    """The client, whose failures come out as one message.

    The token is that of ``$LABEL_STUDIO_API_KEY``, or of the server that `indus-cot review serve` started here.

    Raises:
        IndusCotError: no token; the server is not there, refuses the token or fails.
    """
    token = os.environ.get(TOKEN_VARIABLE) or admin(workspace.label_studio).token
    transport = httpx.HTTPTransport(retries=CONNECTING)
    with httpx.Client(timeout=TIMEOUT_S, transport=transport, follow_redirects=True) as http:
        try:
            yield LabelStudio(base_url=params.url, api_key=token, httpx_client=http)
        except ApiError as error:
            raise IndusCotError(f"{params.url}: {_reason(error)}") from error
        except httpx.HTTPError as error:
            raise IndusCotError(
                f"{params.url}: Label Studio cannot be reached ({type(error).__name__}); start it with "
                "`indus-cot review serve`, or set review.url. Run the same command again: it goes on where it was"
            ) from error


def _reason(error: ApiError) -> str:
    if error.status_code == 401:
        return (
            f"Label Studio refuses the token; put a valid one into ${TOKEN_VARIABLE} "
            "(in Label Studio: Account & Settings, Access Token)"
        )
    body = error.body
    said = body.get("validation_errors") or body.get("detail") or body if isinstance(body, dict) else body
    return f"Label Studio answers {error.status_code}: {' '.join(str(said).split())[:400]}"

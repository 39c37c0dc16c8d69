"""Questions to a server on loopback through a client of their own, and what the store then holds."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from cot_builder.endpoint.client import Endpoint, EndpointClient
from cot_builder.endpoint.prices import Patches, Price
from cot_builder.endpoint.replies import Answer
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import AnswerStore
from cot_builder.params import Budget, EndpointLimits, load_params
from tests.helpers.paths import ROOT
from tests.servers.chat_server import DROPPED, EMPTY, MALFORMED, TRUNCATED, Fault, status, text_of

Result = TypeVar("Result")
KEY_VARIABLE = "TEST_DOOR_KEY"
KEY = "sk-not-a-real-key-0123456789"
PARAMS = load_params(root=ROOT)
PRICE = Price(input=1000, output=1000, image=Patches(formula="patches", side=32, most=1536))
"""A thousandth of a dollar a token."""
TOKENS_A_USD = 1000


def echo(body: dict[str, Any]) -> str:
    """The reply of a server that answers every question."""
    return f"answer to {text_of(body)}"


def question(text: str = "what is here?", max_tokens: int = 60, **fields: Any) -> Request:
    """A request of step describe; ``fields`` are further ones of :class:`Request`."""
    return Request("describe", "small", [{"role": "user", "content": text}], max_tokens=max_tokens, **fields)


def questions(count: int) -> list[Request]:
    """Requests that differ."""
    return [question(f"what is at place {number:03}?") for number in range(count)]


def pace(**changes: Any) -> EndpointLimits:
    """A quick pace, with ``changes``."""
    quick = {"concurrency": 8, "rpm": None, "tpm": None, "timeout_s": 20.0, "attempts": 4, "backoff_s": 0.01}
    return PARAMS.compute.endpoint.model_copy(update=quick | changes)


def use(
    work: Callable[[EndpointClient], Awaitable[Result]],
    url: str,
    store: Path,
    usd: float | None = None,
    tokens: int | None = None,
    offline: bool = False,
    refresh: bool = False,
    **changes: Any,
) -> Result:
    """What ``work`` returns, given a new client on ``store``; ``changes`` are those of the pace."""
    endpoint = Endpoint(url, KEY_VARIABLE, ["small"], "teacher")

    async def run() -> Result:
        answers = AnswerStore(store)
        try:
            async with EndpointClient(
                endpoint,
                pace(**changes),
                Budget(usd=usd, tokens=tokens),
                answers,
                price=lambda _: PRICE,
                offline=offline,
                refresh=refresh,
            ) as client:
                return await work(client)
        finally:
            answers.close()

    return asyncio.run(run())


async def outcomes(client: EndpointClient, requests: list[Request]) -> list[Answer | BaseException]:
    """The answer or the error of each request, all asked at once."""
    return await asyncio.gather(*(client.ask(request) for request in requests), return_exceptions=True)


def ask_all(requests: list[Request], url: str, store: Path, **settings: Any) -> list[Answer | BaseException]:
    """The answer or the error of each request, by a new client; ``settings`` as in :func:`use`."""
    return use(lambda client: outcomes(client, requests), url, store, **settings)


def ask(request: Request, url: str, store: Path, **settings: Any) -> Answer:
    """The answer to a request, by a new client; ``settings`` as in :func:`use`."""
    return use(lambda client: client.ask(request), url, store, **settings)


def given(results: list[Answer | BaseException]) -> list[Answer]:
    """The answers, all of them."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Answer)]


def counted(store: Path) -> int:
    """Answers in a store."""
    answers = AnswerStore(store)
    try:
        return sum(count for _, _, count in answers.counts())
    finally:
        answers.close()


def spent(store: Path) -> tuple[float, int]:
    """US dollars and tokens that a store has booked."""
    answers = AnswerStore(store)
    try:
        return answers.spent()
    finally:
        answers.close()


TRANSIENT_FAULTS: dict[str, Fault] = {
    **{f"status {code}": status(code) for code in (408, 409, 425, 429, 500, 502, 503, 504, 529)},
    "429 with a wait": status(429, retry_after="0.05"),
    "dropped": DROPPED,
    "truncated": TRUNCATED,
    "malformed": MALFORMED,
    "empty body": EMPTY,
    "an error with status 200": Fault(text='{"error": {"message": "upstream failed", "code": 502}}'),
    "no choice": Fault(text='{"choices": []}'),
    "no message": Fault(text='{"choices": [{"message": null}]}'),
    "a list": Fault(text="[]"),
    "a text": Fault(text='"overloaded"'),
}

"""Questions in batches, through a client of their own, and what the store then holds."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.client import Endpoint, EndpointClient
from cot_builder.endpoint.prices import Patches, Price
from cot_builder.endpoint.replies import Answer
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import AnswerStore
from cot_builder.params import Budget, EndpointLimits, load_params
from tests.helpers.paths import ROOT
from tests.servers.batch_server import BatchServer

KEY_VARIABLE = "TEST_BATCH_KEY"
KEY = "sk-not-a-real-key-9876543210"
PARAMS = load_params(root=ROOT)
PRICE = Price(input=1000, output=1000, image=Patches(formula="patches", side=32, most=1536))
USD_AN_ANSWER = 20 * 1000 / 1_000_000 / 2
"""20 tokens at half of a thousandth of a dollar each."""
LONGEST_S = 20.0


def questions(count: int, step: str = "describe", model: str = "small") -> list[Request]:
    """Requests that differ."""
    return [
        Request(step, model, [{"role": "user", "content": f"place {number} of {step}"}], max_tokens=20)
        for number in range(count)
    ]


def use(work: Callable[[EndpointClient], Awaitable[Any]], url: str, store: Path, **settings: Any) -> Any:
    """What ``work`` returns, given a new client on ``store``; it may not take long, and its loop ends with it."""
    caps = Budget(usd=settings.pop("usd", None), tokens=None)
    refresh = settings.pop("refresh", False)
    price = settings.pop("price", lambda _: PRICE)
    changes = {"batch": True, "poll_s": 0.02, "attempts": 3, "backoff_s": 0.01, "timeout_s": 10.0} | settings
    pace: EndpointLimits = PARAMS.compute.endpoint.model_copy(update=changes)
    endpoint = Endpoint(url, KEY_VARIABLE, ["small"], "teacher")

    async def run() -> Any:
        answers = AnswerStore(store)
        try:
            async with (
                asyncio.timeout(LONGEST_S),
                EndpointClient(endpoint, pace, caps, answers, price=price, refresh=refresh) as client,
            ):
                return await work(client)
        finally:
            answers.close()

    return asyncio.run(run())


async def outcomes(client: EndpointClient, requests: list[Request]) -> list[Answer | BaseException]:
    """The answer or the error of each request, all asked at once."""
    return await asyncio.gather(*(client.ask(request) for request in requests), return_exceptions=True)


def ask_all(requests: list[Request], url: str, store: Path, **settings: Any) -> list[Any]:
    """The answer or the error of each request, by a new client; ``settings`` as in :func:`use`."""
    return use(lambda client: outcomes(client, requests), url, store, **settings)


async def abandon(client: EndpointClient, requests: list[Request], when: Callable[[], bool]) -> None:
    """Ask, and let the loop end without a word as soon as ``when``."""
    asked = [asyncio.create_task(client.ask(request)) for request in requests]
    while not when():
        await asyncio.sleep(0.005)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    raise asyncio.CancelledError


def submit_and_leave(requests: list[Request], server: BatchServer, store: Path, **settings: Any) -> None:
    """Submit a batch, and end before it is done."""
    polls, server.polls = server.polls, 10**9

    def submitted() -> bool:
        return bool(server.calls["poll"])

    with pytest.raises(asyncio.CancelledError):
        use(lambda client: abandon(client, requests, submitted), server.url, store, **settings)
    server.polls = polls


def open_batches(store: Path) -> dict[str, list[str]]:
    """Keys of the requests in each batch that is not collected yet, by the batch's name."""
    answers = AnswerStore(store)
    try:
        return answers.open_batches()
    finally:
        answers.close()


def spent(store: Path) -> float:
    """US dollars that a store has booked."""
    answers = AnswerStore(store)
    try:
        return answers.spent()[0]
    finally:
        answers.close()


def texts(found: list[Any]) -> list[str]:
    """The text of each answer, and of each error what it is."""
    return [answer.text if isinstance(answer, Answer) else repr(answer) for answer in found]


def expected(requests: list[Request]) -> list[str]:
    """Texts of the answers that the server gives."""
    return [f"answer to {request.messages[0]['content']}" for request in requests]

"""Run requests in batch mode with a new client, and read the store afterwards."""

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
from tests.helpers.endpoint_client import gather_outcomes
from tests.helpers.paths import ROOT
from tests.servers.batch_server import BatchServer

KEY_VARIABLE = "TEST_BATCH_KEY"
KEY = "sk-not-a-real-key-9876543210"
PARAMS = load_params(root=ROOT)
PRICE = Price(input=1000, output=1000, image=Patches(formula="patches", side=32, most=1536))
USD_PER_ANSWER = 20 * 1000 / 1_000_000 / 2
"""20 tokens at a thousandth of a dollar each, at half price."""
TIMEOUT_S = 20.0


def make_questions(count: int, step: str = "describe", model: str = "small") -> list[Request]:
    """Make ``count`` different requests."""
    return [
        Request(step, model, [{"role": "user", "content": f"place {number} of {step}"}], max_tokens=20)
        for number in range(count)
    ]


def run_in_client(work: Callable[[EndpointClient], Awaitable[Any]], url: str, store: Path, **settings: Any) -> Any:
    """Run ``work`` with a new client on ``store`` in a new event loop, within ``TIMEOUT_S``, and return its result."""
    caps = Budget(usd=settings.pop("usd", None), tokens=None)
    refresh = settings.pop("refresh", False)
    price = settings.pop("price", lambda _: PRICE)
    changes = {"batch": True, "poll_s": 0.02, "attempts": 3, "backoff_s": 0.01, "timeout_s": 10.0} | settings
    limits: EndpointLimits = PARAMS.compute.endpoint.model_copy(update=changes)
    endpoint = Endpoint(url, KEY_VARIABLE, ["small"], "teacher")

    async def run() -> Any:
        answers = AnswerStore(store)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                EndpointClient(endpoint, limits, caps, answers, price=price, refresh=refresh) as client,
            ):
                return await work(client)
        finally:
            answers.close()

    return asyncio.run(run())


def ask_all(requests: list[Request], url: str, store: Path, **settings: Any) -> list[Any]:
    """Send all requests with a new client, and return the answer or error of each; settings of :func:`run_in_client`."""
    return run_in_client(lambda client: gather_outcomes(client, requests), url, store, **settings)


async def ask_and_abandon(client: EndpointClient, requests: list[Request], when: Callable[[], bool]) -> None:
    """Send the requests, and cancel them as soon as ``when()`` is true, as if the process had ended."""
    asked = [asyncio.create_task(client.ask(request)) for request in requests]
    while not when():
        await asyncio.sleep(0.005)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    raise asyncio.CancelledError


def submit_and_leave(requests: list[Request], server: BatchServer, store: Path, **settings: Any) -> None:
    """Submit a batch, and end before it is finished."""
    polls, server.polls = server.polls, 10**9

    def submitted() -> bool:
        return bool(server.calls["poll"])

    with pytest.raises(asyncio.CancelledError):
        run_in_client(lambda client: ask_and_abandon(client, requests, submitted), server.url, store, **settings)
    server.polls = polls


def read_open_batches(store: Path) -> dict[str, list[str]]:
    """Read the open batches of a store: batch id to the keys of its requests."""
    answers = AnswerStore(store)
    try:
        return answers.open_batches()
    finally:
        answers.close()


def read_spend(store: Path) -> float:
    """Read the spend of a store in US dollars."""
    answers = AnswerStore(store)
    try:
        return answers.spent()[0]
    finally:
        answers.close()


def get_texts(found: list[Any]) -> list[str]:
    """Return the text of each answer, and the ``repr`` of each error."""
    return [answer.text if isinstance(answer, Answer) else repr(answer) for answer in found]


def expected_texts(requests: list[Request]) -> list[str]:
    """Return the texts that the server answers with."""
    return [f"answer to {request.messages[0]['content']}" for request in requests]

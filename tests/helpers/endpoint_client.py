"""Send requests to a server on loopback with a new client, and read the store afterwards."""

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
from tests.servers.chat_server import DROPPED, EMPTY, MALFORMED, TRUNCATED, Fault, get_text, status_fault

Result = TypeVar("Result")
KEY_VARIABLE = "TEST_ENDPOINT_KEY"
KEY = "sk-not-a-real-key-0123456789"
PARAMS = load_params(root=ROOT)
PRICE = Price(input=1000, output=1000, image=Patches(formula="patches", side=32, most=1536))
"""A thousandth of a dollar per token."""
TOKENS_PER_USD = 1000


def echo(body: dict[str, Any]) -> str:
    """Answer a request with its own text."""
    return f"answer to {get_text(body)}"


def make_question(text: str = "what is here?", max_tokens: int = 60, **fields: Any) -> Request:
    """Make a request of step describe; ``fields`` are further fields of :class:`Request`."""
    return Request("describe", "small", [{"role": "user", "content": text}], max_tokens=max_tokens, **fields)


def make_questions(count: int) -> list[Request]:
    """Make ``count`` different requests."""
    return [make_question(f"what is at place {number:03}?") for number in range(count)]


def make_limits(**changes: Any) -> EndpointLimits:
    """Make limits with short waits and the given ``changes``."""
    quick = {"concurrency": 8, "rpm": None, "tpm": None, "timeout_s": 20.0, "attempts": 4, "backoff_s": 0.01}
    return PARAMS.compute.endpoint.model_copy(update=quick | changes)


def run_in_client(
    work: Callable[[EndpointClient], Awaitable[Result]],
    url: str,
    store: Path,
    usd: float | None = None,
    tokens: int | None = None,
    offline: bool = False,
    refresh: bool = False,
    **changes: Any,
) -> Result:
    """Run ``work`` with a new client on ``store``, and return its result; ``changes`` go to :func:`make_limits`."""
    endpoint = Endpoint(url, KEY_VARIABLE, ["small"], "teacher")

    async def run() -> Result:
        answers = AnswerStore(store)
        try:
            async with EndpointClient(
                endpoint,
                make_limits(**changes),
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


async def gather_outcomes(client: EndpointClient, requests: list[Request]) -> list[Answer | BaseException]:
    """Send all requests at once, and return the answer or the error of each."""
    return await asyncio.gather(*(client.ask(request) for request in requests), return_exceptions=True)


def ask_all(requests: list[Request], url: str, store: Path, **settings: Any) -> list[Answer | BaseException]:
    """Send all requests with a new client, and return the answer or error of each; settings of :func:`run_in_client`."""
    return run_in_client(lambda client: gather_outcomes(client, requests), url, store, **settings)


def ask(request: Request, url: str, store: Path, **settings: Any) -> Answer:
    """Send one request with a new client, and return its answer; settings of :func:`run_in_client`."""
    return run_in_client(lambda client: client.ask(request), url, store, **settings)


def require_answers(results: list[Answer | BaseException]) -> list[Answer]:
    """Return the answers, or raise the first error."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Answer)]


def count_answers(store: Path) -> int:
    """Count the answers in a store."""
    answers = AnswerStore(store)
    try:
        return sum(count for _, _, count in answers.counts())
    finally:
        answers.close()


def read_spend(store: Path) -> tuple[float, int]:
    """Read the spend of a store in US dollars and tokens."""
    answers = AnswerStore(store)
    try:
        return answers.spent()
    finally:
        answers.close()


TRANSIENT_FAULTS: dict[str, Fault] = {
    **{f"status {code}": status_fault(code) for code in (408, 409, 425, 429, 500, 502, 503, 504, 529)},
    "429 with a wait": status_fault(429, retry_after="0.05"),
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

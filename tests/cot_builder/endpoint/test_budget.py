"""The budget of a run is never exceeded."""

from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.budget import BudgetSpentError
from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.prices import Price, max_usage
from cot_builder.endpoint.replies import Answer
from schemas.errors import IndusCotError
from tests.helpers.endpoint_client import PRICE, ask, ask_all, counted, echo, given, question, questions, spent, use
from tests.servers.chat_server import DROPPED, TRUNCATED, chat_server, in_turn, status, text_of

pytestmark = pytest.mark.usefixtures("key")
CAPS = [{"tokens": 1000}, {"usd": 1.0}, {"tokens": 1000, "usd": 5.0}, {"tokens": 50_000, "usd": 1.0}]
"""Each is a thousand tokens."""


def long_winded(body: dict[str, Any]) -> str:
    return f"{text_of(body)} " + "scratch " * 14


@pytest.mark.parametrize("cap", CAPS, ids=str)
def test_the_cap_is_never_exceeded_and_used_up(store: Path, cap: dict[str, float]) -> None:
    requests = questions(50)
    with chat_server(long_winded, latency_s=0.05) as server:
        results = ask_all(requests, server.url, store, concurrency=50, **cap)
        assert server.tokens <= 1000
        assert server.tokens > 1000 - max_usage(PRICE, requests[0]).total
        assert len(server.requests) == len(server.answered) < 50
    refused = [result for result in results if not isinstance(result, Answer)]
    assert len(results) - len(refused) == len(server.answered) == counted(store)
    assert {type(error) for error in refused} == {BudgetSpentError}
    text = str(refused[0])
    for name in cap:
        assert f"--set budget.{name}=" in text or f"budget.{name}=" in text
    assert "same command again" in text
    assert spent(store)[1] == server.tokens


@pytest.mark.parametrize("cap", [{"tokens": 1000}, {"usd": 1.0}], ids=str)
def test_the_cap_holds_in_bad_weather_too(store: Path, cap: dict[str, float]) -> None:
    faults = in_turn(status(500), DROPPED, TRUNCATED)
    with chat_server(long_winded, faults, latency_s=0.01) as server:
        ask_all(questions(50), server.url, store, concurrency=50, **cap)
        assert 500 < server.tokens <= 1000


def test_spend_persists_and_a_raised_cap_goes_on_without_asking_again(store: Path) -> None:
    requests = questions(30)
    with chat_server(long_winded) as server:
        ask_all(requests, server.url, store, tokens=600)
        first = len(server.answered)
        assert 0 < first < 30
        again = ask_all(requests, server.url, store, tokens=600)
        assert len(server.requests) == first
        assert sum(isinstance(result, Answer) for result in again) == first
        given(ask_all(requests, server.url, store, tokens=100_000))
        assert len(server.requests) == 30
        assert len({text_of(body) for body in server.requests}) == 30
    assert spent(store)[1] == server.tokens


def test_a_refreshed_answer_counts_against_the_cap(store: Path) -> None:
    with chat_server(long_winded) as server, pytest.raises(BudgetSpentError):
        for _ in range(30):
            ask(question(), server.url, store, refresh=True, tokens=600)
    assert server.tokens <= 600


def test_an_empty_budget_sends_nothing(store: Path) -> None:
    with chat_server(echo) as server:
        for cap in ({"tokens": 0}, {"usd": 0.0}):
            with pytest.raises(BudgetSpentError):
                ask(question(), server.url, store, **cap)
        assert server.requests == []


def test_a_price_that_is_unknown_stops_before_sending(store: Path) -> None:
    def price(model: str) -> Price:
        raise IndusCotError(f"no price for {model}")

    async def work(client: EndpointClient) -> None:
        client.ledger.price = price
        with pytest.raises(IndusCotError, match="no price for small"):
            await client.ask(question())

    with chat_server(echo) as server:
        use(work, server.url, store)
        assert server.requests == []

"""A run never exceeds its budget."""

from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.budget import BudgetSpentError
from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.prices import Price, max_usage
from cot_builder.endpoint.replies import Answer
from schemas.errors import IndusCotError
from tests.helpers.endpoint_client import (
    PRICE,
    ask,
    ask_all,
    count_answers,
    echo,
    make_question,
    make_questions,
    read_spend,
    require_answers,
    run_in_client,
)
from tests.servers.chat_server import DROPPED, TRUNCATED, chat_server, faults_in_turn, get_text, status_fault

pytestmark = pytest.mark.usefixtures("key")
CAPS = [{"tokens": 1000}, {"usd": 1.0}, {"tokens": 1000, "usd": 5.0}, {"tokens": 50_000, "usd": 1.0}]
"""Each cap equals a thousand tokens."""


def long_winded(body: dict[str, Any]) -> str:
    return f"{get_text(body)} " + "scratch " * 14


@pytest.mark.parametrize("cap", CAPS, ids=str)
def test_cap_is_used_up_but_not_exceeded(store: Path, cap: dict[str, float]) -> None:
    requests = make_questions(50)
    with chat_server(long_winded, latency_s=0.05) as server:
        results = ask_all(requests, server.url, store, concurrency=50, **cap)
        assert server.tokens <= 1000
        assert server.tokens > 1000 - max_usage(PRICE, requests[0]).total
        assert len(server.requests) == len(server.answered) < 50
    refused = [result for result in results if not isinstance(result, Answer)]
    assert len(results) - len(refused) == len(server.answered) == count_answers(store)
    assert {type(error) for error in refused} == {BudgetSpentError}
    text = str(refused[0])
    for name in cap:
        assert f"--set budget.{name}=" in text or f"budget.{name}=" in text
    assert "same command again" in text
    assert read_spend(store)[1] == server.tokens


@pytest.mark.parametrize("cap", [{"tokens": 1000}, {"usd": 1.0}], ids=str)
def test_cap_holds_despite_faults(store: Path, cap: dict[str, float]) -> None:
    faults = faults_in_turn(status_fault(500), DROPPED, TRUNCATED)
    with chat_server(long_winded, faults, latency_s=0.01) as server:
        ask_all(make_questions(50), server.url, store, concurrency=50, **cap)
        assert 500 < server.tokens <= 1000


def test_raised_cap_resumes_without_repeats(store: Path) -> None:
    requests = make_questions(30)
    with chat_server(long_winded) as server:
        ask_all(requests, server.url, store, tokens=600)
        first = len(server.answered)
        assert 0 < first < 30
        again = ask_all(requests, server.url, store, tokens=600)
        assert len(server.requests) == first
        assert sum(isinstance(result, Answer) for result in again) == first
        require_answers(ask_all(requests, server.url, store, tokens=100_000))
        assert len(server.requests) == 30
        assert len({get_text(body) for body in server.requests}) == 30
    assert read_spend(store)[1] == server.tokens


def test_refreshed_answer_counts_against_cap(store: Path) -> None:
    with chat_server(long_winded) as server, pytest.raises(BudgetSpentError):
        for _ in range(30):
            ask(make_question(), server.url, store, refresh=True, tokens=600)
    assert server.tokens <= 600


def test_zero_budget_sends_nothing(store: Path) -> None:
    with chat_server(echo) as server:
        for cap in ({"tokens": 0}, {"usd": 0.0}):
            with pytest.raises(BudgetSpentError):
                ask(make_question(), server.url, store, **cap)
        assert server.requests == []


def test_unknown_price_stops_before_sending(store: Path) -> None:
    def price(model: str) -> Price:
        raise IndusCotError(f"no price for {model}")

    async def work(client: EndpointClient) -> None:
        client.ledger.price = price
        with pytest.raises(IndusCotError, match="no price for small"):
            await client.ask(make_question())

    with chat_server(echo) as server:
        run_in_client(work, server.url, store)
        assert server.requests == []

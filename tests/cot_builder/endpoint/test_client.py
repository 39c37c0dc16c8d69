"""The endpoint client against a server on loopback: cached answers, the end of a run, a full disk."""

import asyncio
import re
import shutil
import time
from pathlib import Path

import pytest

from cot_builder.endpoint import flow
from cot_builder.endpoint.client import Endpoint, EndpointClient
from cot_builder.endpoint.replies import Answer, CacheMissError, NotAnsweredError
from cot_builder.endpoint.store import AnswerStore
from cot_builder.params import Budget
from schemas.errors import IndusCotError
from tests.helpers.endpoint_client import (
    KEY_VARIABLE,
    PRICE,
    TOKENS_PER_USD,
    ask,
    ask_all,
    count_answers,
    echo,
    gather_outcomes,
    make_limits,
    make_question,
    make_questions,
    read_spend,
    require_answers,
    run_in_client,
)
from tests.servers.chat_server import chat_server, status_fault

pytestmark = pytest.mark.usefixtures("key")


def test_cached_answer_is_not_sent_again(store: Path) -> None:
    async def twice(client: EndpointClient) -> list[Answer]:
        return [await client.ask(make_question()), await client.ask(make_question())]

    with chat_server(echo) as server:
        first, second = run_in_client(twice, server.url, store)
        third = ask(make_question(), server.url, store)
        assert len(server.requests) == 1
    assert first.text == "answer to what is here?"
    assert first.finish_reason == "stop"
    assert (first.is_cached, second.is_cached, third.is_cached) == (False, True, True)
    assert first._replace(is_cached=True) == second == third
    assert first.usage.total == server.tokens
    assert first.usd == pytest.approx(server.tokens / TOKENS_PER_USD)


def test_two_clients_share_one_store(store: Path) -> None:
    with chat_server(echo) as server:

        async def both(client: EndpointClient) -> None:
            other_store = AnswerStore(store)
            endpoint = Endpoint(server.url, KEY_VARIABLE, ["small"], "teacher")
            async with EndpointClient(
                endpoint, make_limits(), Budget(usd=None, tokens=None), other_store, price=lambda _: PRICE
            ) as other:
                assert not (await client.ask(make_question("one"))).is_cached
                assert (await other.ask(make_question("one"))).is_cached
                assert not (await other.ask(make_question("two"))).is_cached
                assert (await client.ask(make_question("two"))).is_cached
            other_store.close()

        run_in_client(both, server.url, store)
        assert len(server.requests) == 2


def test_equal_requests_in_flight_sent_once(store: Path) -> None:
    with chat_server(echo, latency_s=0.1) as server:
        answers = require_answers(ask_all([make_question() for _ in range(20)], server.url, store))
        assert len(server.requests) == 1
    assert {answer.text for answer in answers} == {"answer to what is here?"}
    assert sum(not answer.is_cached for answer in answers) == 1
    assert read_spend(store)[1] == server.tokens


def test_equal_requests_in_flight_fail_together(store: Path) -> None:
    with chat_server(echo, lambda *_: status_fault(400, message="no such field"), latency_s=0.1) as server:
        results = ask_all([make_question() for _ in range(5)], server.url, store)
        assert len(server.requests) == 1
    assert [type(result) for result in results] == [NotAnsweredError] * 5


def test_refresh_replaces_answer_and_adds_spend(store: Path) -> None:
    with chat_server(lambda _: f"draw {len(server.requests)}") as server:
        assert ask(make_question(), server.url, store).text == "draw 1"
        assert ask(make_question(), server.url, store, refresh=True).text == "draw 2"
        assert (
            run_in_client(lambda client: client.ask(make_question(), refresh=True), server.url, store).text == "draw 3"
        )
        assert ask(make_question(), server.url, store).text == "draw 3"
        assert len(server.requests) == 3
    assert count_answers(store) == 1
    assert read_spend(store)[1] == server.tokens


def test_offline_needs_no_key_or_server(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(echo) as server:
        ask(make_question("kept"), server.url, store)
        with pytest.raises(CacheMissError):
            run_in_client(lambda client: client.ask(make_question("new"), offline=True), server.url, store)
        monkeypatch.delenv(KEY_VARIABLE)
        assert ask(make_question("kept"), server.url, store, offline=True, refresh=True).is_cached
        with pytest.raises(CacheMissError):
            ask(make_question("new"), server.url, store, offline=True)
        assert len(server.requests) == 1


def test_stop_sending_stores_requests_in_flight(store: Path) -> None:
    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        asked = asyncio.gather(*(client.ask(request) for request in make_questions(10)), return_exceptions=True)
        deadline = time.monotonic() + 10
        while len(server.requests) < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        client.stop_sending()
        return [*await asked, *await gather_outcomes(client, [make_question("later")])]

    with chat_server(echo, latency_s=0.3) as server:
        results = run_in_client(work, server.url, store, concurrency=4)
        assert len(server.requests) == len(server.answered) == 4
    assert [type(result) for result in results] == [Answer] * 4 + [CacheMissError] * 7
    assert count_answers(store) == 4


def test_stop_sending_ends_retries(store: Path) -> None:
    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        asked = asyncio.create_task(gather_outcomes(client, [make_question()]))
        deadline = time.monotonic() + 10
        while not server.requests and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        client.stop_sending()
        return await asked

    with chat_server(echo, lambda *_: status_fault(500), latency_s=0.2) as server:
        (result,) = run_in_client(work, server.url, store)
        assert isinstance(result, CacheMissError)
        assert len(server.requests) == 1


@pytest.mark.parametrize("limit", [{}, {"rpm": 1}, {"concurrency": 1}], ids=str)
def test_stop_sending_ends_server_requested_wait(store: Path, limit: dict[str, int]) -> None:
    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        asked = asyncio.create_task(gather_outcomes(client, make_questions(3)))
        while not client.ledger.stats.overloaded:
            await asyncio.sleep(0.005)
        assert client.throttle.pause_left_s > 3000
        client.stop_sending()
        async with asyncio.timeout(20):
            return await asked

    with chat_server(echo, lambda *_: status_fault(429, retry_after="3600")) as server:
        results = run_in_client(work, server.url, store, **limit)
    assert {type(result) for result in results} == {CacheMissError}


def test_projected_cost_is_accurate_early(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flow, "LINE_INTERVAL_S", 0.02)
    samples, each = 40, 5

    async def work(client: EndpointClient, sample: int) -> None:
        for step in range(each):
            await client.ask(make_question(f"what is at place {sample:02}{step}?"))

    async def run(client: EndpointClient) -> None:
        await flow.run_in_order(
            range(samples), lambda sample: work(client, sample), lambda _: None, client, 8, "draft", samples
        )

    with chat_server(echo, latency_s=0.02) as server:
        run_in_client(lambda client: work(client, 0), server.url, store)
        capsys.readouterr()
        run_in_client(run, server.url, store)
    lines = capsys.readouterr().err.splitlines()
    last = re.search(r"(\S+) USD, (\S+) projected", lines[-1])
    assert last
    assert last.group(1) == last.group(2)
    total = float(last.group(1))
    told = [found.group(1) for line in lines if (found := re.search(r"(\S+) projected", line))]
    assert len(told) > 5
    assert all(0.75 * total < float(figure) < 1.25 * total for figure in told), told
    # The first sample is cached, so after it there is neither a projected cost nor a remaining time.
    early = [line for line in lines if line.startswith("draft: 1/")]
    assert early
    assert not any("projected" in line or "s left" in line for line in early)


def test_full_disk_stops_before_sending(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(echo) as server:
        ask(make_question("kept"), server.url, store)
        usage = shutil.disk_usage(store.parent)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        kept, *stopped = ask_all([make_question("kept"), *make_questions(5)], server.url, store)
        assert len(server.requests) == 1
    assert isinstance(kept, Answer)
    for error in stopped:
        assert isinstance(error, IndusCotError)
        assert "disk is full" in str(error)
        assert str(store.parent) in str(error)

"""Transient faults are retried, at the rate that the server and the parameters allow."""

import asyncio
import socket
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.replies import NotAnsweredError, StopError
from tests.helpers.endpoint_client import (
    TRANSIENT_FAULTS,
    ask,
    ask_all,
    count_answers,
    echo,
    gather_outcomes,
    make_question,
    make_questions,
    require_answers,
    run_in_client,
)
from tests.servers.chat_server import (
    DROPPED,
    EMPTY,
    MALFORMED,
    STALLED,
    TRUNCATED,
    ChatServer,
    Fault,
    chat_server,
    faults_in_turn,
    get_text,
    status_fault,
)

pytestmark = pytest.mark.usefixtures("key")


@pytest.mark.parametrize("fault", TRANSIENT_FAULTS.values(), ids=TRANSIENT_FAULTS.keys())
def test_transient_fault_is_retried(store: Path, fault: Fault) -> None:
    with chat_server(echo, faults_in_turn(fault, fault)) as server:
        answer = ask(make_question(), server.url, store)
        assert len(server.requests) == 3
        assert ask(make_question(), server.url, store).text == answer.text == "answer to what is here?"
        assert len(server.requests) == 3
    assert count_answers(store) == 1


@pytest.mark.parametrize(
    "fault",
    [status_fault(503), DROPPED, TRUNCATED, MALFORMED, EMPTY],
    ids=["503", "dropped", "truncated", "malformed", "empty"],
)
def test_persistent_fault_fails_only_its_request(store: Path, fault: Fault) -> None:
    def only_one(body: dict[str, Any], number: int) -> Fault | None:
        return fault if "002" in get_text(body) else None

    with chat_server(echo, only_one) as server:
        # One at a time: the first ones are answered, so the client knows that the endpoint works.
        results = ask_all(make_questions(5), server.url, store, attempts=3, concurrency=1)
        assert len(server.requests) == 4 + 3
    (failed,) = [result for result in results if isinstance(result, BaseException)]
    assert failed is results[2]
    assert isinstance(failed, NotAnsweredError)
    assert "3 attempts" in str(failed)
    assert "3 x " in str(failed)
    assert count_answers(store) == 4


def test_stalled_request_is_retried(store: Path) -> None:
    with chat_server(echo, faults_in_turn(STALLED)) as server:
        asked = time.monotonic()
        assert ask(make_question(), server.url, store, timeout_s=1.5).text == "answer to what is here?"
        assert len(server.requests) == 2
        # The timeout starts with the request, a moment before it arrives.
        assert server.arrivals[1] - asked >= 1.5


def test_always_stalled_request_reports_timeout(store: Path) -> None:
    with chat_server(echo, lambda *_: STALLED) as server:
        with pytest.raises((NotAnsweredError, StopError), match=r"2 attempts: 2 x no answer within 1\.5 s"):
            ask(make_question(), server.url, store, timeout_s=1.5, attempts=2)
        assert len(server.requests) == 2


def test_server_without_answers_stops_run(store: Path) -> None:
    with chat_server(echo, lambda *_: status_fault(500)) as server:
        results = ask_all(make_questions(100), server.url, store, attempts=2, concurrency=4)
        assert len(server.requests) < 200
    assert {type(result) for result in results} == {NotAnsweredError, StopError}
    assert all("2 x status 500" in str(result) for result in results)


def test_resumed_run_survives_one_failing_request(store: Path) -> None:
    def only_one(body: dict[str, Any], number: int) -> Fault | None:
        return MALFORMED if "002" in get_text(body) else None

    with chat_server(echo, only_one) as server:
        for _ in range(2):
            # In the second run only the failing request is left to send, and the server does respond.
            results = ask_all(make_questions(5), server.url, store, attempts=2, concurrency=1)
            assert isinstance(results[2], NotAnsweredError)


def test_timeout_covers_whole_answer(store: Path) -> None:
    # Each part arrives quickly; only the whole answer is too slow.
    with chat_server(echo, faults_in_turn(Fault(drip_s=15.0), Fault(drip_s=0.2))) as server:
        assert ask(make_question(), server.url, store, timeout_s=3.0).text == "answer to what is here?"
        assert len(server.requests) == 2


def test_closed_port_is_reported(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    results = ask_all(make_questions(20), f"http://127.0.0.1:{port}/v1", store, attempts=2, concurrency=2)
    assert {type(result) for result in results} == {StopError}
    assert f"127.0.0.1:{port}" in str(results[0])
    assert "2 x no connection" in str(results[0])
    assert "check that the server runs" in str(results[0])


def test_retry_after_pauses_all_requests(store: Path) -> None:
    def first(body: dict[str, Any], number: int) -> Fault | None:
        return status_fault(429, retry_after="0.2") if number == 0 else None

    with chat_server(echo, first) as server:
        require_answers(ask_all(make_questions(3), server.url, store, concurrency=1))
        assert server.arrivals[1] - server.arrivals[0] >= 0.2
        assert len(server.requests) == 4


def test_exhausted_rate_limit_header_pauses_requests(store: Path) -> None:
    used_up = Fault(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1500ms"})
    with chat_server(echo, lambda _, number: used_up if number == 0 else None) as server:
        require_answers(ask_all(make_questions(3), server.url, store, concurrency=1))
        gaps = [later - earlier for earlier, later in pairwise(server.arrivals)]
    assert gaps[0] >= 1.5 > gaps[1]


def test_zero_retry_after_still_backs_off(store: Path) -> None:
    with chat_server(echo, lambda _, number: status_fault(429, retry_after="0") if number < 2 else None) as server:
        ask(make_question(), server.url, store, backoff_s=0.2)
        assert server.arrivals[1] - server.arrivals[0] >= 0.1


def test_simultaneous_overloads_halve_concurrency_once(store: Path) -> None:
    async def work(client: EndpointClient) -> list[int]:
        limits = [client.throttle.limit]
        require_answers(await gather_outcomes(client, make_questions(8)))
        limits.append(client.throttle.limit)
        require_answers(await gather_outcomes(client, [make_question(f"later {number}") for number in range(40)]))
        return [*limits, client.throttle.limit, client.ledger.stats.overloaded, client.throttle.in_flight]

    refused = faults_in_turn(status_fault(429))
    with chat_server(echo, lambda body, number: refused(body, number) if "place" in get_text(body) else None) as server:
        # The limit is halved to 4, and eight successes raise it.
        assert run_in_client(work, server.url, store, concurrency=8) == [8, 5, 8, 8, 0]


def test_other_faults_keep_concurrency(store: Path) -> None:
    async def work(client: EndpointClient) -> int:
        require_answers(await gather_outcomes(client, make_questions(8)))
        return client.throttle.limit

    with chat_server(echo, faults_in_turn(status_fault(500), DROPPED)) as server:
        assert run_in_client(work, server.url, store, concurrency=8) == 8


@pytest.mark.parametrize("concurrency", [1, 5])
def test_requests_in_flight_reach_but_respect_limit(store: Path, concurrency: int) -> None:
    # The latency is long enough for all allowed requests to arrive.
    with chat_server(echo, faults_in_turn(status_fault(500)), latency_s=0.05 * concurrency) as server:
        require_answers(ask_all(make_questions(20), server.url, store, concurrency=concurrency))
        assert server.max_in_flight == concurrency
        assert len(server.requests) == 40


def test_requests_per_minute_limit(store: Path) -> None:
    async def work(client: EndpointClient) -> int:
        asked = asyncio.gather(*(client.ask(request) for request in make_questions(10)), return_exceptions=True)
        while len(server.requests) < 4:
            await asyncio.sleep(0.005)
        # Without the limit, more requests would follow at once; with it, each waits fifteen seconds.
        await asyncio.wait([asked], timeout=0.5)
        sent = len(server.requests)
        asked.cancel()
        return sent

    with chat_server(echo) as server:
        # aiolimiter allows a burst of one minute's requests.
        assert run_in_client(work, server.url, store, rpm=4) == 4


def test_mixed_faults_give_same_answers(store: Path, tmp_path: Path) -> None:
    requests = make_questions(60)
    # No fault between any two faults, so that waits stay short.
    plan = [kind for fault in [*TRANSIENT_FAULTS.values(), STALLED] for kind in (fault, None, None)]

    def faults(body: dict[str, Any], number: int) -> Fault | None:
        return plan[number % len(plan)]

    def collect_texts(server: ChatServer, path: Path) -> list[str]:
        results = ask_all(requests, server.url, path, timeout_s=2.0, attempts=12, concurrency=16)
        return [answer.text for answer in require_answers(results)]

    with chat_server(echo, faults) as server:
        with_faults = collect_texts(server, store)
        answered = [get_text(body) for body in server.answered]
        assert len(answered) == len(set(answered)) == 60
    with chat_server(echo) as server:
        assert collect_texts(server, tmp_path / "fine.sqlite") == with_faults

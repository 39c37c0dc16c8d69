"""Faults that can pass are tried again, at a pace that the server and the parameters allow."""

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
    counted,
    echo,
    given,
    outcomes,
    question,
    questions,
    use,
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
    in_turn,
    status,
    text_of,
)

pytestmark = pytest.mark.usefixtures("key")


@pytest.mark.parametrize("fault", TRANSIENT_FAULTS.values(), ids=TRANSIENT_FAULTS.keys())
def test_what_can_pass_is_tried_again_and_never_stored(store: Path, fault: Fault) -> None:
    with chat_server(echo, in_turn(fault, fault)) as server:
        answer = ask(question(), server.url, store)
        assert len(server.requests) == 3
        assert ask(question(), server.url, store).text == answer.text == "answer to what is here?"
        assert len(server.requests) == 3
    assert counted(store) == 1


@pytest.mark.parametrize(
    "fault",
    [status(503), DROPPED, TRUNCATED, MALFORMED, EMPTY],
    ids=["503", "dropped", "truncated", "malformed", "empty"],
)
def test_what_does_not_pass_is_one_clear_failure_of_one_request(store: Path, fault: Fault) -> None:
    def only_one(body: dict[str, Any], number: int) -> Fault | None:
        return fault if "002" in text_of(body) else None

    with chat_server(echo, only_one) as server:
        # One at a time: the first ones are answered, so that the endpoint is known to work.
        results = ask_all(questions(5), server.url, store, attempts=3, concurrency=1)
        assert len(server.requests) == 4 + 3
    (failed,) = [result for result in results if isinstance(result, BaseException)]
    assert failed is results[2]
    assert isinstance(failed, NotAnsweredError)
    assert "3 attempts" in str(failed)
    assert "3 x " in str(failed)
    assert counted(store) == 4


def test_a_stalled_request_is_given_up_and_tried_again(store: Path) -> None:
    with chat_server(echo, in_turn(STALLED)) as server:
        asked = time.monotonic()
        assert ask(question(), server.url, store, timeout_s=1.5).text == "answer to what is here?"
        assert len(server.requests) == 2
        # Time runs from the asking, a moment before it arrives.
        assert server.arrivals[1] - asked >= 1.5


def test_a_request_that_always_stalls_says_so(store: Path) -> None:
    with chat_server(echo, lambda *_: STALLED) as server:
        with pytest.raises((NotAnsweredError, StopError), match=r"2 attempts: 2 x no answer within 1\.5 s"):
            ask(question(), server.url, store, timeout_s=1.5, attempts=2)
        assert len(server.requests) == 2


def test_a_server_that_answers_nothing_stops_the_run(store: Path) -> None:
    with chat_server(echo, lambda *_: status(500)) as server:
        results = ask_all(questions(100), server.url, store, attempts=2, concurrency=4)
        assert len(server.requests) < 200
    assert {type(result) for result in results} == {NotAnsweredError, StopError}
    assert all("2 x status 500" in str(result) for result in results)


def test_one_request_that_always_fails_does_not_stop_a_resumed_run(store: Path) -> None:
    def only_one(body: dict[str, Any], number: int) -> Fault | None:
        return MALFORMED if "002" in text_of(body) else None

    with chat_server(echo, only_one) as server:
        for _ in range(2):
            # The second time, nothing but the one that fails is left to ask, and the server does answer.
            results = ask_all(questions(5), server.url, store, attempts=2, concurrency=1)
            assert isinstance(results[2], NotAnsweredError)


def test_a_slow_answer_is_taken_within_the_timeout_and_given_up_after_it(store: Path) -> None:
    # Each part arrives soon after the last one: only the whole is too slow.
    with chat_server(echo, in_turn(Fault(drip_s=15.0), Fault(drip_s=0.2))) as server:
        assert ask(question(), server.url, store, timeout_s=3.0).text == "answer to what is here?"
        assert len(server.requests) == 2


def test_nobody_listening_is_told_of(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    results = ask_all(questions(20), f"http://127.0.0.1:{port}/v1", store, attempts=2, concurrency=2)
    assert {type(result) for result in results} == {StopError}
    assert f"127.0.0.1:{port}" in str(results[0])
    assert "2 x no connection" in str(results[0])
    assert "check that the server runs" in str(results[0])


def test_a_server_that_asks_to_wait_is_left_alone_by_everyone(store: Path) -> None:
    def first(body: dict[str, Any], number: int) -> Fault | None:
        return status(429, retry_after="0.2") if number == 0 else None

    with chat_server(echo, first) as server:
        given(ask_all(questions(3), server.url, store, concurrency=1))
        assert server.arrivals[1] - server.arrivals[0] >= 0.2
        assert len(server.requests) == 4


def test_a_server_with_nothing_left_this_minute_is_left_alone(store: Path) -> None:
    used_up = Fault(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1500ms"})
    with chat_server(echo, lambda _, number: used_up if number == 0 else None) as server:
        given(ask_all(questions(3), server.url, store, concurrency=1))
        gaps = [later - earlier for earlier, later in pairwise(server.arrivals)]
    assert gaps[0] >= 1.5 > gaps[1]


def test_a_server_that_asks_to_wait_for_nothing_is_not_hammered(store: Path) -> None:
    with chat_server(echo, lambda _, number: status(429, retry_after="0") if number < 2 else None) as server:
        ask(question(), server.url, store, backoff_s=0.2)
        assert server.arrivals[1] - server.arrivals[0] >= 0.1


def test_refusals_of_one_moment_halve_the_concurrency_once_and_it_recovers(store: Path) -> None:
    async def work(client: EndpointClient) -> list[int]:
        limits = [client.throttle.limit]
        given(await outcomes(client, questions(8)))
        limits.append(client.throttle.limit)
        given(await outcomes(client, [question(f"later {number}") for number in range(40)]))
        return [*limits, client.throttle.limit, client.ledger.stats.overloaded, client.throttle.in_flight]

    refused = in_turn(status(429))
    with chat_server(echo, lambda body, number: refused(body, number) if "place" in text_of(body) else None) as server:
        # Halved to 4, then eight successes.
        assert use(work, server.url, store, concurrency=8) == [8, 5, 8, 8, 0]


def test_other_failures_do_not_lower_the_concurrency(store: Path) -> None:
    async def work(client: EndpointClient) -> int:
        given(await outcomes(client, questions(8)))
        return client.throttle.limit

    with chat_server(echo, in_turn(status(500), DROPPED)) as server:
        assert use(work, server.url, store, concurrency=8) == 8


@pytest.mark.parametrize("concurrency", [1, 5])
def test_no_more_are_under_way_than_allowed_and_as_many_as_allowed(store: Path, concurrency: int) -> None:
    # Long enough for all that may be under way to arrive.
    with chat_server(echo, in_turn(status(500)), latency_s=0.05 * concurrency) as server:
        given(ask_all(questions(20), server.url, store, concurrency=concurrency))
        assert server.most_at_once == concurrency
        assert len(server.requests) == 40


def test_requests_a_minute_are_respected(store: Path) -> None:
    async def work(client: EndpointClient) -> int:
        asked = asyncio.gather(*(client.ask(request) for request in questions(10)), return_exceptions=True)
        while len(server.requests) < 4:
            await asyncio.sleep(0.005)
        # More would follow at once, were they not held back for fifteen seconds each.
        await asyncio.wait([asked], timeout=0.5)
        sent = len(server.requests)
        asked.cancel()
        return sent

    with chat_server(echo) as server:
        # aiolimiter allows a burst of as many as a minute holds.
        assert use(work, server.url, store, rpm=4) == 4


def test_weather_of_every_kind_ends_with_the_answers_of_a_fine_day(store: Path, tmp_path: Path) -> None:
    requests = questions(60)
    # Fine weather between any two faults, so that waits stay short.
    weather = [kind for fault in [*TRANSIENT_FAULTS.values(), STALLED] for kind in (fault, None, None)]

    def faults(body: dict[str, Any], number: int) -> Fault | None:
        return weather[number % len(weather)]

    def said(server: ChatServer, path: Path) -> list[str]:
        results = ask_all(requests, server.url, path, timeout_s=2.0, attempts=12, concurrency=16)
        return [answer.text for answer in given(results)]

    with chat_server(echo, faults) as server:
        rough = said(server, store)
        answered = [text_of(body) for body in server.answered]
        assert len(answered) == len(set(answered)) == 60
    with chat_server(echo) as server:
        assert said(server, tmp_path / "fine.sqlite") == rough

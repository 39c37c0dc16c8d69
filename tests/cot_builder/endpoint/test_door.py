"""The door to an OpenAI-compatible server: against a real one on loopback, in good and in bad weather."""

import asyncio
import base64
import hashlib
import json
import logging
import re
import shutil
import socket
import time
import traceback
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cot_builder.endpoint import flow
from cot_builder.endpoint.budget import BudgetSpentError
from cot_builder.endpoint.door import Door
from cot_builder.endpoint.prices import Patches, Price
from cot_builder.endpoint.prices import most as most_tokens
from cot_builder.endpoint.replies import Answer, NotAnsweredError, NotAskedError, StopError
from cot_builder.endpoint.request import ImageFile, Request
from cot_builder.endpoint.store import Answers
from cot_builder.params import Budget, EndpointPace, load_params
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT
from tests.servers.chat_server import (
    CUT,
    DROPPED,
    EMPTY,
    FILTERED,
    MALFORMED,
    NO_USAGE,
    REFUSED,
    STALLED,
    TRUNCATED,
    ChatServer,
    Fault,
    chat_server,
    in_turn,
    status,
    text_of,
)

Result = TypeVar("Result")

KEY_VARIABLE = "TEST_DOOR_KEY"
KEY = "sk-not-a-real-key-0123456789"
PARAMS = load_params(root=ROOT)
PRICE = Price(input=1000, output=1000, image=Patches(formula="patches", side=32, most=1536))
"""A thousandth of a dollar a token."""
TOKENS_A_USD = 1000


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def echo(body: dict[str, Any]) -> str:
    return f"answer to {text_of(body)}"


def question(text: str = "what is here?", max_tokens: int = 60, **fields: Any) -> Request:
    return Request("describe", "small", [{"role": "user", "content": text}], max_tokens=max_tokens, **fields)


def questions(count: int) -> list[Request]:
    return [question(f"what is at place {number:03}?") for number in range(count)]


def pace(**changes: Any) -> EndpointPace:
    quick = {"concurrency": 8, "rpm": None, "tpm": None, "timeout_s": 20.0, "attempts": 4, "backoff_s": 0.01}
    return PARAMS.compute.endpoint.model_copy(update=quick | changes)


def use(
    work: Callable[[Door], Awaitable[Result]],
    url: str,
    store: Path,
    usd: float | None = None,
    tokens: int | None = None,
    offline: bool = False,
    refresh: bool = False,
    **changes: Any,
) -> Result:
    """What ``work`` returns, given a new door on ``store``; ``changes`` are those of the pace."""
    teacher = PARAMS.teacher.model_copy(update={"base_url": url, "model": "small", "api_key_env": KEY_VARIABLE})

    async def run() -> Result:
        answers = Answers(store)
        try:
            async with Door(
                teacher,
                pace(**changes),
                Budget(usd=usd, tokens=tokens),
                answers,
                price=lambda _: PRICE,
                offline=offline,
                refresh=refresh,
            ) as door:
                return await work(door)
        finally:
            answers.close()

    return asyncio.run(run())


async def outcomes(door: Door, requests: list[Request]) -> list[Answer | BaseException]:
    return await asyncio.gather(*(door.ask(request) for request in requests), return_exceptions=True)


def ask_all(requests: list[Request], url: str, store: Path, **settings: Any) -> list[Answer | BaseException]:
    return use(lambda door: outcomes(door, requests), url, store, **settings)


def ask(request: Request, url: str, store: Path, **settings: Any) -> Answer:
    return use(lambda door: door.ask(request), url, store, **settings)


def given(results: list[Answer | BaseException]) -> list[Answer]:
    """The answers, all of them."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Answer)]


def counted(store: Path) -> int:
    answers = Answers(store)
    try:
        return sum(count for _, _, count in answers.counts())
    finally:
        answers.close()


def spent(store: Path) -> tuple[float, int]:
    answers = Answers(store)
    try:
        return answers.spent()
    finally:
        answers.close()


# Kept answers


def test_a_kept_answer_is_not_asked_again(store: Path) -> None:
    async def twice(door: Door) -> list[Answer]:
        return [await door.ask(question()), await door.ask(question())]

    with chat_server(echo) as server:
        first, second = use(twice, server.url, store)
        third = ask(question(), server.url, store)
        assert len(server.requests) == 1
    assert first.text == "answer to what is here?"
    assert first.finish_reason == "stop"
    assert (first.kept, second.kept, third.kept) == (False, True, True)
    assert first._replace(kept=True) == second == third
    assert first.usage.total == server.tokens
    assert first.usd == pytest.approx(server.tokens / TOKENS_A_USD)


def test_two_doors_at_once_on_one_store_share_their_answers(store: Path) -> None:
    with chat_server(echo) as server:

        async def both(door: Door) -> None:
            other_store = Answers(store)
            teacher = PARAMS.teacher.model_copy(update={"base_url": server.url, "api_key_env": KEY_VARIABLE})
            async with Door(
                teacher, pace(), Budget(usd=None, tokens=None), other_store, price=lambda _: PRICE
            ) as other:
                assert not (await door.ask(question("one"))).kept
                assert (await other.ask(question("one"))).kept
                assert not (await other.ask(question("two"))).kept
                assert (await door.ask(question("two"))).kept
            other_store.close()

        use(both, server.url, store)
        assert len(server.requests) == 2


def test_equal_requests_under_way_are_sent_once(store: Path) -> None:
    with chat_server(echo, latency_s=0.1) as server:
        answers = given(ask_all([question() for _ in range(20)], server.url, store))
        assert len(server.requests) == 1
    assert {answer.text for answer in answers} == {"answer to what is here?"}
    assert sum(not answer.kept for answer in answers) == 1
    assert spent(store)[1] == server.tokens


def test_equal_requests_under_way_fail_together(store: Path) -> None:
    with chat_server(echo, lambda *_: status(400, message="no such field"), latency_s=0.1) as server:
        results = ask_all([question() for _ in range(5)], server.url, store)
        assert len(server.requests) == 1
    assert [type(result) for result in results] == [NotAnsweredError] * 5


def test_refresh_asks_again_books_again_and_replaces(store: Path) -> None:
    with chat_server(lambda _: f"draw {len(server.requests)}") as server:
        assert ask(question(), server.url, store).text == "draw 1"
        assert ask(question(), server.url, store, refresh=True).text == "draw 2"
        assert use(lambda door: door.ask(question(), refresh=True), server.url, store).text == "draw 3"
        assert ask(question(), server.url, store).text == "draw 3"
        assert len(server.requests) == 3
    assert counted(store) == 1
    assert spent(store)[1] == server.tokens


def test_offline_gives_what_is_kept_sends_nothing_and_needs_no_key(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chat_server(echo) as server:
        ask(question("kept"), server.url, store)
        with pytest.raises(NotAskedError):
            use(lambda door: door.ask(question("new"), offline=True), server.url, store)
        monkeypatch.delenv(KEY_VARIABLE)
        assert ask(question("kept"), server.url, store, offline=True, refresh=True).kept
        with pytest.raises(NotAskedError):
            ask(question("new"), server.url, store, offline=True)
        assert len(server.requests) == 1


# What is one and the same request


def test_every_part_that_shapes_an_answer_makes_another_key() -> None:
    def shown(digest: str) -> Request:
        image = ImageFile(digest, 64, 64, lambda: (b"", "image/png"))
        return Request("describe", "small", [{"role": "user", "content": [image.part]}], {digest: image})

    requests = [
        question(),
        question("what is there?"),
        question(max_tokens=61),
        question(temperature=0.0),
        question(temperature=0.7),
        question(candidate=1),
        question(candidate=2),
        question(response_format={"type": "json_object"}),
        Request("describe", "large", question().messages, max_tokens=60),
        Request("describe", "small", [{"role": "system", "content": "what is here?"}], max_tokens=60),
        shown("a" * 64),
        shown("b" * 64),
    ]
    assert len({request.key for request in requests}) == len(requests)


def test_the_key_knows_no_order_of_fields_and_no_step() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1, "b": 2}}}
    turned = {"json_schema": {"schema": {"b": 2, "a": 1}, "name": "n"}, "type": "json_schema"}
    one = Request("describe", "small", [{"role": "user", "content": "x"}], response_format=schema)
    other = Request("audit", "small", [{"content": "x", "role": "user"}], response_format=turned)
    assert one.key == other.key
    # Of a store that is in use: another key would pay for every answer again.
    assert Request("", "m", [{"role": "user", "content": "é"}], max_tokens=5).key.startswith("8fcfdf66")


def test_another_candidate_is_sent_and_kept_on_its_own(store: Path) -> None:
    requests = [question(candidate=number) for number in range(3)]
    with chat_server(lambda _: f"draw {len(server.requests)}") as server:
        first = {answer.text for answer in given(ask_all(requests, server.url, store, concurrency=1))}
        again = {answer.text for answer in given(ask_all(requests, server.url, store))}
        assert len(server.requests) == 3
    assert first == again == {"draw 1", "draw 2", "draw 3"}


def test_what_goes_over_the_wire_is_the_body_whatever_a_text_says() -> None:
    image = ImageFile("c" * 64, 4, 4, lambda: (bytes(range(256)), "image/png"))
    text = '"url": "sha256:' + "c" * 64 + '" \\ Öffnung 孔 \u2028 \ud800'
    content = [image.part, {"type": "text", "text": text}, image.part]
    asked = Request("describe", "small", [{"role": "user", "content": content}], {image.sha256: image}, candidate=2)
    shown = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image.load()[0]).decode()}"},
    }
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": text}, shown]}]
    assert json.loads(asked.content()) == {"model": "small", "messages": messages, "max_tokens": 1024}
    # Answers that users have kept are found by it.
    whole = json.dumps([{"max_tokens": 1024, "messages": asked.messages, "model": "small"}, 2], sort_keys=True)
    assert asked.key == hashlib.sha256(whole.encode()).hexdigest()


def test_images_arrive_intact_and_are_loaded_once_and_only_if_sent(store: Path) -> None:
    data = bytes(range(256)) * 400
    loaded = []

    def load() -> tuple[bytes, str]:
        loaded.append(1)
        return data, "image/jpeg"

    image = ImageFile("c" * 64, 640, 480, load)

    def about(text: str) -> Request:
        content = [{"type": "text", "text": text}, image.part, {"type": "text", "text": "above"}]
        return Request("describe", "small", [{"role": "user", "content": content}], {image.sha256: image})

    with chat_server(echo) as server:
        given(ask_all([about("one"), about("two"), about("three")], server.url, store))
        assert len(loaded) == 1
        again = ImageFile("c" * 64, 640, 480, load)
        image = again
        given(ask_all([about("one"), about("two")], server.url, store))
        assert len(loaded) == 1
        assert len(server.requests) == 3
        for body in server.requests:
            first, shown, last = body["messages"][0]["content"]
            assert (first["text"] in {"one", "two", "three"}, last["text"]) == (True, "above")
            header, encoded = shown["image_url"]["url"].split(",")
            assert header == "data:image/jpeg;base64"
            assert base64.b64decode(encoded, validate=True) == data


def test_what_is_sent_is_what_was_asked_and_no_more(store: Path) -> None:
    with chat_server(echo) as server:
        ask(question(temperature=0.25, candidate=3, response_format={"type": "json_object"}), server.url, store)
        ask(question(), server.url, store)
    plain = {"model": "small", "messages": [{"role": "user", "content": "what is here?"}], "max_tokens": 60}
    assert server.requests == [plain | {"temperature": 0.25, "response_format": {"type": "json_object"}}, plain]
    assert set(server.keys) == {f"Bearer {KEY}"}


# Bad weather that passes

PASSING = {
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


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
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
    async def work(door: Door) -> list[int]:
        limits = [door.throttle.limit]
        given(await outcomes(door, questions(8)))
        limits.append(door.throttle.limit)
        given(await outcomes(door, [question(f"later {number}") for number in range(40)]))
        return [*limits, door.throttle.limit, door.ledger.stats.overloaded, door.throttle.under_way]

    refused = in_turn(status(429))
    with chat_server(echo, lambda body, number: refused(body, number) if "place" in text_of(body) else None) as server:
        # Halved to 4, then eight successes.
        assert use(work, server.url, store, concurrency=8) == [8, 5, 8, 8, 0]


def test_other_failures_do_not_lower_the_concurrency(store: Path) -> None:
    async def work(door: Door) -> int:
        given(await outcomes(door, questions(8)))
        return door.throttle.limit

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
    async def work(door: Door) -> int:
        asked = asyncio.gather(*(door.ask(request) for request in questions(10)), return_exceptions=True)
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


# Answers that are no failure of the door


@pytest.mark.parametrize(
    ("fault", "reason", "text"),
    [
        (REFUSED, "refusal", "I cannot help with that."),
        (FILTERED, "content_filter", ""),
        (CUT, "length", "answer to what is here?"),
    ],
)
def test_a_refusal_a_filter_and_a_cut_are_kept_as_answers(store: Path, fault: Fault, reason: str, text: str) -> None:
    with chat_server(echo, in_turn(fault)) as server:
        answers = [ask(question(), server.url, store) for _ in range(2)]
        assert len(server.requests) == 1
    assert [(answer.finish_reason, answer.text) for answer in answers] == [(reason, text)] * 2


def test_an_answer_without_usage_is_booked_at_no_less_than_it_may_have_cost(store: Path) -> None:
    with chat_server(echo, in_turn(NO_USAGE)) as server:
        answer = ask(question(), server.url, store)
    assert answer.usage.output == question().max_tokens
    assert answer.usage.total >= server.tokens
    assert answer.usd == pytest.approx(answer.usage.total / TOKENS_A_USD)
    assert spent(store) == (pytest.approx(answer.usd), answer.usage.total)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {"prompt_tokens": None},
        {"prompt_tokens_details": None},
        "unknown",
        7,
        {"prompt_tokens": "many", "completion_tokens": 3},
        {"prompt_tokens": 5, "completion_tokens": 60, "prompt_tokens_details": "none"},
    ],
    ids=str,
)
def test_a_usage_that_is_none_is_no_crash(store: Path, usage: Any) -> None:
    with chat_server(echo, in_turn(Fault(change=lambda completion: completion | {"usage": usage}))) as server:
        assert ask(question(), server.url, store).usage.output == question().max_tokens


def test_half_a_character_is_no_crash(store: Path) -> None:
    with chat_server(lambda _: "cut within \ud83d") as server:
        first = ask(question(), server.url, store)
        assert ask(question(), server.url, store)._replace(kept=False) == first
        # As it goes on into the next question.
        ask(question(f"you said: {first.text}"), server.url, store)
        assert len(server.requests) == 2


# Bad weather that stays


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_is_wrong_is_not_sent_again(store: Path, code: int) -> None:
    fault = status(code, message="image too large")
    with chat_server(echo, lambda body, _: fault if "002" in text_of(body) else None) as server:
        results = ask_all(questions(4), server.url, store)
        assert len(server.requests) == 4
    assert isinstance(results[2], NotAnsweredError)
    assert str(code) in str(results[2])
    assert "image too large" in str(results[2])
    assert counted(store) == 3


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (status(401, message="Incorrect API key"), "check the key"),
        (status(402), "top up"),
        (status(403), "rights"),
        (status(404, message="no such model"), "teacher.model"),
        (status(429, message="You exceeded your quota", error_code="insufficient_quota"), "top up"),
    ],
    ids=["401", "402", "403", "404", "insufficient_quota"],
)
def test_what_every_request_would_meet_stops_all(store: Path, fault: Fault, advice: str) -> None:
    async def work(door: Door) -> list[Answer | BaseException]:
        return [*await outcomes(door, questions(10)), *await outcomes(door, [question("later"), question("kept")])]

    with chat_server(echo, lambda body, _: None if text_of(body) == "kept" else fault) as server:
        ask(question("kept"), server.url, store)
        *stopped, last = use(work, server.url, store, concurrency=1)
        assert len(server.requests) == 2
    assert isinstance(last, Answer), "what is kept is still given"
    for error in stopped:
        assert isinstance(error, StopError)
        assert advice in str(error)
        assert "127.0.0.1" in str(error)
        assert "kept" in str(error)


def test_the_stop_does_not_lose_what_is_under_way(store: Path) -> None:
    def faults(body: dict[str, Any], number: int) -> Fault | None:
        return status(401) if "000" in text_of(body) else Fault(drip_s=0.3)

    with chat_server(echo, faults) as server:
        results = ask_all(questions(8), server.url, store, concurrency=4)
        assert len(server.requests) == 4
        assert len(server.answered) == 3
    assert sum(isinstance(result, Answer) for result in results) == 3
    assert counted(store) == 3


def test_a_missing_key_is_told_by_the_name_of_its_variable(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(StopError, match=KEY_VARIABLE):
        ask(question(), "http://127.0.0.1:9/v1", store)


# The key


def test_the_key_is_in_no_error_log_or_store(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = {
        "wrong": status(400, message=f"header was Bearer {KEY}"),
        "html": Fault(400, text=f"<html>Bearer {KEY}</html>"),
        "failing": status(500, message=f"header was Bearer {KEY}"),
        "stop": status(401, message=f"Incorrect API key provided: {KEY}"),
    }
    caplog.set_level(logging.DEBUG)

    async def work(door: Door) -> list[Answer | BaseException]:
        await door.ask(question("fine"))
        return [result for name in faults for result in await outcomes(door, [question(name)])]

    with chat_server(echo, lambda body, _: faults.get(text_of(body))) as server:
        errors = use(work, server.url, store)
        assert len(server.requests) == 1 + 3 + 4
    assert [type(error) for error in errors] == [NotAnsweredError, NotAnsweredError, NotAnsweredError, StopError]
    for error in errors:
        assert isinstance(error, Exception)
        assert KEY not in "".join(traceback.format_exception(error))
    assert "[key]" in str(errors[0])
    assert KEY not in caplog.text


def test_the_key_is_not_told_in_part_where_a_message_is_cut(store: Path) -> None:
    for padding in range(275, 300, 5):
        fault = status(400, message="x" * padding + KEY)
        with chat_server(echo, lambda *_, fault=fault: fault) as server, pytest.raises(NotAnsweredError) as caught:
            ask(question(), server.url, store)
        assert KEY[:4] not in str(caught.value)


def test_a_key_in_an_answer_is_not_stored(store: Path) -> None:
    async def work(door: Door) -> bytes:
        answer = await door.ask(question())
        assert KEY not in answer.text
        # Before the store is closed, while what is new is in the write-ahead log.
        return b"".join(path.read_bytes() for path in store.parent.iterdir())

    with chat_server(lambda _: f"your header was Bearer {KEY}, thank you") as server:
        held = use(work, server.url, store)
    assert b"thank you" in held
    assert KEY.encode() not in held
    assert KEY.encode() not in store.read_bytes()


@pytest.mark.parametrize("short", ["x", "none", "EMPTY"])
def test_a_key_that_is_none_changes_no_answer(store: Path, monkeypatch: pytest.MonkeyPatch, short: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, short)
    said = {"index": 6, "box": None, "words": f"an {short} box"}
    with chat_server(lambda _: said) as server:
        assert json.loads(ask(question(), server.url, store).text) == said


# Money

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
        assert server.tokens > 1000 - most_tokens(PRICE, requests[0]).total
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

    async def work(door: Door) -> None:
        door.ledger.price = price
        with pytest.raises(IndusCotError, match="no price for small"):
            await door.ask(question())

    with chat_server(echo) as server:
        use(work, server.url, store)
        assert server.requests == []


# Ending


def test_closed_to_new_lets_what_is_under_way_finish_and_be_kept(store: Path) -> None:
    async def work(door: Door) -> list[Answer | BaseException]:
        asked = asyncio.gather(*(door.ask(request) for request in questions(10)), return_exceptions=True)
        deadline = time.monotonic() + 10
        while len(server.requests) < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        door.close_to_new()
        return [*await asked, *await outcomes(door, [question("later")])]

    with chat_server(echo, latency_s=0.3) as server:
        results = use(work, server.url, store, concurrency=4)
        assert len(server.requests) == len(server.answered) == 4
    assert [type(result) for result in results] == [Answer] * 4 + [NotAskedError] * 7
    assert counted(store) == 4


def test_closed_to_new_does_not_try_again(store: Path) -> None:
    async def work(door: Door) -> list[Answer | BaseException]:
        asked = asyncio.create_task(outcomes(door, [question()]))
        deadline = time.monotonic() + 10
        while not server.requests and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        door.close_to_new()
        return await asked

    with chat_server(echo, lambda *_: status(500), latency_s=0.2) as server:
        (result,) = use(work, server.url, store)
        assert isinstance(result, NotAskedError)
        assert len(server.requests) == 1


@pytest.mark.parametrize("limit", [{}, {"rpm": 1}, {"concurrency": 1}], ids=str)
def test_closed_to_new_does_not_wait_as_long_as_the_server_asks(store: Path, limit: dict[str, int]) -> None:
    async def work(door: Door) -> list[Answer | BaseException]:
        asked = asyncio.create_task(outcomes(door, questions(3)))
        while not door.ledger.stats.overloaded:
            await asyncio.sleep(0.005)
        assert door.throttle.paused > 3000
        door.close_to_new()
        async with asyncio.timeout(20):
            return await asked

    with chat_server(echo, lambda *_: status(429, retry_after="3600")) as server:
        results = use(work, server.url, store, **limit)
    assert {type(result) for result in results} == {NotAskedError}


def test_what_is_projected_is_about_right_from_the_first_sample_on(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flow, "LINE_EVERY_S", 0.02)
    samples, each = 40, 5

    async def work(door: Door, sample: int) -> None:
        for step in range(each):
            await door.ask(question(f"what is at place {sample:02}{step}?"))

    async def run(door: Door) -> None:
        await flow.in_order(
            range(samples), lambda sample: work(door, sample), lambda _: None, door, 8, "draft", samples
        )

    with chat_server(echo, latency_s=0.02) as server:
        use(lambda door: work(door, 0), server.url, store)
        capsys.readouterr()
        use(run, server.url, store)
    lines = capsys.readouterr().err.splitlines()
    last = re.search(r"(\S+) USD, (\S+) projected", lines[-1])
    assert last
    assert last.group(1) == last.group(2)
    total = float(last.group(1))
    told = [found.group(1) for line in lines if (found := re.search(r"(\S+) projected", line))]
    assert len(told) > 5
    assert all(0.75 * total < float(figure) < 1.25 * total for figure in told), told
    # The first is kept: nothing is projected, and no time told, from it and what is only begun.
    early = [line for line in lines if line.startswith("draft: 1/")]
    assert early
    assert not any("projected" in line or "s left" in line for line in early)


def test_a_full_disk_stops_before_sending(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(echo) as server:
        ask(question("kept"), server.url, store)
        usage = shutil.disk_usage(store.parent)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        kept, *stopped = ask_all([question("kept"), *questions(5)], server.url, store)
        assert len(server.requests) == 1
    assert isinstance(kept, Answer)
    for error in stopped:
        assert isinstance(error, IndusCotError)
        assert "disk is full" in str(error)
        assert str(store.parent) in str(error)


def test_weather_of_every_kind_ends_with_the_answers_of_a_fine_day(store: Path, tmp_path: Path) -> None:
    requests = questions(60)
    # Fine weather between any two faults, so that waits stay short.
    weather = [kind for fault in [*PASSING.values(), STALLED] for kind in (fault, None, None)]

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

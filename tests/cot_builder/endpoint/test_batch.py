"""Batch mode against a real server on loopback: half the price, and nothing paid twice whatever happens."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint import batch
from cot_builder.endpoint.budget import BudgetSpentError
from cot_builder.endpoint.door import Door, Endpoint
from cot_builder.endpoint.prices import Patches, Price
from cot_builder.endpoint.replies import Answer, NotAnsweredError, NotAskedError, StopError
from cot_builder.endpoint.request import ImageFile, Request
from cot_builder.endpoint.store import Answers
from cot_builder.params import Budget, EndpointPace, load_params
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT
from tests.servers.batch_server import BatchServer, Fault, Line, batch_server

KEY_VARIABLE = "TEST_BATCH_KEY"
KEY = "sk-not-a-real-key-9876543210"
PARAMS = load_params(root=ROOT)
PRICE = Price(input=1000, output=1000, image=Patches(formula="patches", side=32, most=1536))
USD_AN_ANSWER = 20 * 1000 / 1_000_000 / 2
"""20 tokens at half of a thousandth of a dollar each."""
LONGEST_S = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(batch, "SETTLE_S", 0.05)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with batch_server() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


def questions(count: int, step: str = "describe", model: str = "small") -> list[Request]:
    return [
        Request(step, model, [{"role": "user", "content": f"place {number} of {step}"}], max_tokens=20)
        for number in range(count)
    ]


def use(work: Callable[[Door], Awaitable[Any]], url: str, store: Path, **settings: Any) -> Any:
    """What ``work`` returns, given a new door on ``store``; it may not take long, and its loop ends with it."""
    caps = Budget(usd=settings.pop("usd", None), tokens=None)
    refresh = settings.pop("refresh", False)
    price = settings.pop("price", lambda _: PRICE)
    changes = {"batch": True, "poll_s": 0.02, "attempts": 3, "backoff_s": 0.01, "timeout_s": 10.0} | settings
    pace: EndpointPace = PARAMS.compute.endpoint.model_copy(update=changes)
    endpoint = Endpoint(url, KEY_VARIABLE, ["small"], "teacher")

    async def run() -> Any:
        answers = Answers(store)
        try:
            async with (
                asyncio.timeout(LONGEST_S),
                Door(endpoint, pace, caps, answers, price=price, refresh=refresh) as door,
            ):
                return await work(door)
        finally:
            answers.close()

    return asyncio.run(run())


async def outcomes(door: Door, requests: list[Request]) -> list[Answer | BaseException]:
    return await asyncio.gather(*(door.ask(request) for request in requests), return_exceptions=True)


def ask_all(requests: list[Request], url: str, store: Path, **settings: Any) -> list[Any]:
    return use(lambda door: outcomes(door, requests), url, store, **settings)


async def abandon(door: Door, requests: list[Request], when: Callable[[], bool]) -> None:
    """Ask, and let the loop end without a word as soon as ``when``."""
    asked = [asyncio.create_task(door.ask(request)) for request in requests]
    while not when():
        await asyncio.sleep(0.005)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    raise asyncio.CancelledError


def submit_and_leave(requests: list[Request], server: BatchServer, store: Path, **settings: Any) -> None:
    polls, server.polls = server.polls, 10**9

    def submitted() -> bool:
        return bool(server.calls["poll"])

    with pytest.raises(asyncio.CancelledError):
        use(lambda door: abandon(door, requests, submitted), server.url, store, **settings)
    server.polls = polls


def open_batches(store: Path) -> dict[str, list[str]]:
    answers = Answers(store)
    try:
        return answers.open_batches()
    finally:
        answers.close()


def spent(store: Path) -> float:
    answers = Answers(store)
    try:
        return answers.spent()[0]
    finally:
        answers.close()


def texts(found: list[Any]) -> list[str]:
    return [answer.text if isinstance(answer, Answer) else repr(answer) for answer in found]


def expected(requests: list[Request]) -> list[str]:
    return [f"answer to {request.messages[0]['content']}" for request in requests]


def test_requests_go_in_one_file_at_the_price_of_a_batch_and_are_kept(server: BatchServer, store: Path) -> None:
    asked = questions(5)

    async def work(door: Door) -> Any:
        found = await outcomes(door, asked)
        return found, door.ledger.stats

    found, stats = use(work, server.url, store)
    assert texts(found) == expected(asked)
    assert [answer.usd for answer in found] == [USD_AN_ANSWER] * 5
    assert stats.answered == 5
    assert server.submitted == [[request.key for request in asked]]
    assert not server.chats
    assert spent(store) == pytest.approx(5 * USD_AN_ANSWER)
    assert open_batches(store) == {}
    calls = server.calls.copy()
    again = ask_all(asked, server.url, store)
    assert texts(again) == expected(asked) and all(answer.kept for answer in again)
    assert server.calls == calls


def test_an_upload_is_deleted_once_its_answers_are_kept(server: BatchServer, store: Path) -> None:
    async def work(door: Door) -> None:
        await outcomes(door, questions(2))
        # Nobody waits for it, and it is given up with the door.
        while server.batches["batch_1"]["input_file_id"] in server.files:
            await asyncio.sleep(0.005)

    use(work, server.url, store)
    assert server.batches["batch_1"]["output_file_id"] in server.files


def test_an_upload_that_cannot_be_deleted_costs_nothing(server: BatchServer, store: Path) -> None:
    server.fault = lambda what, _: Fault(status=500) if what == "delete" else None
    asked = questions(2)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)


def test_a_line_is_the_request_as_it_would_be_sent(server: BatchServer, store: Path) -> None:
    image = ImageFile("ab" * 32, 64, 64, lambda: (b"\x89PNG pixels", "image/png"))
    parts = [image.part, {"type": "text", "text": "what?"}]
    request = Request("describe", "small", [{"role": "user", "content": parts}], {image.sha256: image}, 20, 0.5)
    server.answer = lambda body: "a hinge"
    submit_and_leave([request], server, store)
    line = json.loads(server.files["file-1"])
    body = json.loads(request.content())
    assert line == {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "what?"}
    assert {name: body[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "small", "max_tokens": 20, "temperature": 0.5,
    }  # fmt: skip
    url = line["body"]["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == b"\x89PNG pixels"


def test_a_spooled_image_is_not_held_in_memory(server: BatchServer, store: Path) -> None:
    image = ImageFile("ab" * 32, 64, 64, lambda: (b"pixels", "image/png"))
    request = Request("describe", "small", [{"role": "user", "content": [image.part]}], {image.sha256: image}, 20)
    server.answer = lambda body: "a hinge"
    ask_all([request], server.url, store)
    assert not [value for value in vars(image).values() if "data:" in str(value)]


def test_each_model_and_step_has_a_file_of_its_own(server: BatchServer, store: Path) -> None:
    groups = [questions(2), questions(2, "judge"), questions(2, "judge", "large")]
    asked = [request for group in groups for request in group]
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert sorted(server.submitted) == sorted([request.key for request in group] for group in groups)


@pytest.mark.parametrize(("limit", "value", "sizes"), [("MOST_LINES", 2, [2, 2, 1]), ("MOST_BYTES", 500, [3, 2])])
def test_a_full_file_is_submitted_at_once(
    server: BatchServer, store: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(batch, limit, value)
    asked = questions(5)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert [len(keys) for keys in server.submitted] == sizes


def test_a_later_door_waits_for_an_open_batch(server: BatchServer, store: Path) -> None:
    asked = questions(4)
    submit_and_leave(asked, server, store)
    assert open_batches(store) == {"batch_1": [request.key for request in asked]}
    more = questions(6)
    found = ask_all(more, server.url, store)
    assert texts(found) == expected(more)
    assert [answer.usd for answer in found] == [USD_AN_ANSWER] * 6
    assert [len(keys) for keys in server.submitted] == [4, 2]
    assert set(server.paid.values()) == {1}
    assert spent(store) == pytest.approx(6 * USD_AN_ANSWER)


@pytest.mark.parametrize("refresh", [False, True])
def test_a_batch_collected_before_it_is_asked_for_is_not_asked_again(
    server: BatchServer, store: Path, refresh: bool
) -> None:
    asked = questions(3)
    submit_and_leave(asked, server, store, refresh=refresh)
    server.polls = 1

    async def late(door: Door) -> Any:
        while door.ledger.stats.answered != 3:
            await asyncio.sleep(0.005)
        return await outcomes(door, asked)

    assert texts(use(late, server.url, store, refresh=refresh)) == expected(asked)
    assert len(server.submitted) == 1


def test_with_batch_mode_off_an_open_batch_is_waited_for_and_the_rest_sent(server: BatchServer, store: Path) -> None:
    submit_and_leave(questions(2), server, store)
    asked = questions(3)
    assert texts(ask_all(asked, server.url, store, batch=False)) == expected(asked)
    assert len(server.submitted) == 1
    assert [body["messages"][0]["content"] for body in server.chats] == ["place 2 of describe"]


def test_answers_nobody_asks_for_are_collected_with_their_step_and_price(server: BatchServer, store: Path) -> None:
    submit_and_leave(questions(3, "audit"), server, store)
    server.polls = 1

    async def nothing(door: Door) -> None:
        pass

    use(nothing, server.url, store)
    answers = Answers(store)
    assert answers.counts() == [("small", "audit", 3)]
    assert answers.spent() == (pytest.approx(3 * USD_AN_ANSWER), 60)
    assert answers.open_batches() == {}
    answers.close()


CLIENT = """
import asyncio, os, signal, sys
from pathlib import Path
from cot_builder.endpoint import batch
from cot_builder.endpoint.store import Answers
from tests.cot_builder.endpoint import test_batch
batch.SETTLE_S = 0.05
if sys.argv[3] == "put":
    put = Answers.put
    count = 0
    def killed(*arguments):
        global count
        put(*arguments)
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    Answers.put = killed
test_batch.ask_all(test_batch.questions(6), sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["upload", "create", "poll", "put"])
def test_killed_at_any_moment_nothing_is_paid_twice(server: BatchServer, store: Path, moment: str) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def kill(what: str) -> None:
        if what == moment and begun[0].returncode is None:
            os.kill(begun[0].pid, signal.SIGKILL)

    server.done = kill
    # The server answers no sooner than it is called, so that the process is known by then.
    begun.append(
        subprocess.Popen([sys.executable, "-c", CLIENT, server.url, str(store), moment], cwd=ROOT, env={**os.environ})
    )
    assert begun[0].wait(timeout=60) == -signal.SIGKILL
    asked = questions(6)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert len(server.submitted) == 1
    assert server.paid == Counter(request.key for request in asked)
    assert spent(store) == pytest.approx(6 * USD_AN_ANSWER)
    assert open_batches(store) == {}


@pytest.mark.parametrize("what", ["upload", "create", "poll", "content"])
@pytest.mark.parametrize("fault", [Fault(status=503), Fault(after=True)], ids=["refused", "lost"])
def test_what_passes_is_tried_again_and_loses_and_doubles_nothing(
    server: BatchServer, store: Path, what: str, fault: Fault
) -> None:
    server.fault = lambda seen, number: fault if seen == what and number < 2 else None
    asked = questions(3)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert len(server.submitted) == 1
    assert spent(store) == pytest.approx(3 * USD_AN_ANSWER)
    assert open_batches(store) == {}


def test_a_download_cut_short_is_begun_anew(server: BatchServer, store: Path) -> None:
    server.fault = lambda what, number: Fault(cut=True) if what == "content" and number == 0 else None
    asked = questions(1)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert server.calls["content"] == 2


def test_polls_are_tried_more_often_than_requests(server: BatchServer, store: Path) -> None:
    server.fault = lambda what, number: Fault() if what == "poll" and number < 6 else None
    asked = questions(2)
    assert texts(ask_all(asked, server.url, store, attempts=1)) == expected(asked)


def test_a_batch_that_is_out_of_reach_for_long_stops_the_run_and_stays_open(
    server: BatchServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "UNREACHABLE_S", 0.05)
    server.fault = lambda what, number: Fault() if what == "poll" else None
    asked = questions(2)
    (first, second) = ask_all(asked, server.url, store)
    assert isinstance(first, StopError) and isinstance(second, StopError)
    assert "run the same command again" in str(first)
    server.fault = lambda what, number: None
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert len(server.submitted) == 1


def test_an_overloaded_line_goes_into_the_next_batch(server: BatchServer, store: Path) -> None:
    fates = {"place 0 of describe": 429, "place 1 of describe": 503}
    server.line = lambda body, run: Line(fates.get(body["messages"][0]["content"], 200) if run == 0 else 200)
    asked = questions(3)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert server.submitted == [[request.key for request in asked], [request.key for request in asked[:2]]]
    assert spent(store) == pytest.approx(3 * USD_AN_ANSWER)


def test_a_line_that_is_always_overloaded_names_every_batch(server: BatchServer, store: Path) -> None:
    server.line = lambda body, run: Line(500)
    (error,) = ask_all(questions(1), server.url, store)
    assert isinstance(error, NotAnsweredError)
    assert str(error) == "no answer after 3 batches: " + "; ".join(f"batch batch_{n}: status 500" for n in (1, 2, 3))
    assert len(server.submitted) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (Line(400), "batch batch_1: status 400: status 400"),
        (Line(error="this request could not be run in time"), "batch batch_1: this request could not be run in time"),
        (Line(silent=True), "batch batch_1: it holds no answer to this request"),
        (Line(garbled=True), "batch batch_1: it holds no answer to this request"),
    ],
    ids=["refused", "expired", "silent", "garbled"],
)
def test_a_line_without_an_answer_fails_alone_and_names_its_batch(
    server: BatchServer, store: Path, line: Line, words: str
) -> None:
    asked = questions(3)
    server.line = lambda body, run: line if body["messages"][0]["content"] == "place 1 of describe" else Line()
    found = ask_all(asked, server.url, store)
    assert isinstance(found[1], NotAnsweredError) and str(found[1]) == words
    assert [found[0].text, found[2].text] == [expected(asked)[0], expected(asked)[2]]
    assert open_batches(store) == {}


def test_a_response_that_is_no_completion_goes_into_the_next_batch(server: BatchServer, store: Path) -> None:
    server.line = lambda body, run: Line(change=lambda _: {"choices": []}) if run == 0 else Line()
    asked = questions(2)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert len(server.submitted) == 2


@pytest.mark.parametrize(
    ("end", "words"),
    [("failed", "batch batch_1: failed: the file is refused"), ("cancelled", "batch batch_1: cancelled")],
)
def test_a_batch_that_failed_says_why_and_can_be_submitted_again(
    server: BatchServer, store: Path, end: str, words: str
) -> None:
    server.end = end
    server.line = lambda body, run: Line(silent=run == 0)
    asked = questions(2)
    found = ask_all(asked, server.url, store)
    assert [str(error) for error in found] == [words] * 2
    assert all(isinstance(error, NotAnsweredError) for error in found)
    server.end = "completed"
    server.line = lambda body, run: Line()
    assert texts(ask_all(asked, server.url, store)) == expected(asked)


def test_what_an_expired_batch_did_answer_is_kept(server: BatchServer, store: Path) -> None:
    server.end = "expired"
    server.line = lambda body, run: Line(error="it expired") if "place 1" in body["messages"][0]["content"] else Line()
    first, second = ask_all(questions(2), server.url, store)
    assert first.text == "answer to place 0 of describe"
    assert str(second) == "batch batch_1: it expired"


def test_closed_to_new_nobody_waits_and_the_batch_is_collected_next_time(server: BatchServer, store: Path) -> None:
    server.polls = 10**9
    asked, later = questions(3), questions(2, "compose")

    async def work(door: Door) -> Any:
        first = [asyncio.create_task(door.ask(request)) for request in asked]
        while not server.calls["poll"]:
            await asyncio.sleep(0.005)
        # These are on the way into a file that is not submitted.
        second = [asyncio.create_task(door.ask(request)) for request in later]
        await asyncio.sleep(0)
        door.close_to_new()
        async with asyncio.timeout(LONGEST_S):
            found = await asyncio.gather(*first, *second, return_exceptions=True)
        # Longer than a file takes to settle.
        await asyncio.sleep(4 * batch.SETTLE_S)
        return found

    found = use(work, server.url, store)
    assert all(isinstance(error, NotAskedError) for error in found)
    assert server.calls["upload"] == 1 and len(open_batches(store)) == 1
    server.polls = 1
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert len(server.submitted) == 1


def test_closed_to_new_during_an_upload_no_batch_is_created(server: BatchServer, store: Path) -> None:
    async def work(door: Door) -> Any:
        loop = asyncio.get_running_loop()
        closed = threading.Event()

        def close() -> None:
            door.close_to_new()
            closed.set()

        def uploaded(what: str) -> None:
            loop.call_soon_threadsafe(close)
            assert closed.wait(LONGEST_S)

        server.done = uploaded
        found = await outcomes(door, questions(2))
        # Longer than it takes to create a batch.
        await asyncio.sleep(0.2)
        return found

    assert all(isinstance(error, NotAskedError) for error in use(work, server.url, store))
    assert server.calls == {"upload": 1} and open_batches(store) == {}


def test_a_line_of_an_earlier_batch_that_was_overloaded_goes_into_the_next(server: BatchServer, store: Path) -> None:
    asked = questions(2)
    submit_and_leave(asked, server, store)
    server.polls = 10
    server.line = lambda body, run: Line(429 if run == 0 else 200)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert [len(keys) for keys in server.submitted] == [2, 2]


def test_a_batch_of_another_endpoint_is_left_open_and_can_be_asked_anew(server: BatchServer, store: Path) -> None:
    asked, more = questions(2), questions(3)
    submit_and_leave(asked, server, store)
    with batch_server() as other:
        other.batch_name = "other"
        first, second, third = ask_all(more, other.url, store)
        assert isinstance(first, NotAnsweredError) and isinstance(second, NotAnsweredError)
        assert all(words in str(first) for words in ("batch_1", other.url, "--refresh"))
        assert third.text == expected(more)[2]
        assert list(open_batches(store)) == ["batch_1"]
        assert texts(ask_all(asked[:1], other.url, store, refresh=True)) == expected(asked[:1])
    # Back at the first, it is there.
    assert texts(ask_all(more, server.url, store)) == expected(more)
    assert len(server.submitted) == 1 and open_batches(store) == {}


def test_an_endpoint_without_a_batch_api_is_said_to_have_none(server: BatchServer, store: Path) -> None:
    server.has_batches = False
    found = ask_all(questions(2), server.url, store)
    assert all(isinstance(error, StopError) for error in found)
    assert "compute.endpoint.batch: false" in str(found[0])


def test_a_server_that_cannot_list_still_takes_batches(server: BatchServer, store: Path) -> None:
    server.lists = False
    server.fault = lambda what, number: Fault() if what == "create" and number == 0 else None
    asked = questions(2)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)


def test_a_server_that_is_not_there_stops_the_run(store: Path) -> None:
    found = ask_all(questions(2), "http://127.0.0.1:9/v1", store)
    assert all(isinstance(error, StopError) for error in found)
    assert "check that the server runs" in str(found[0])


@pytest.mark.parametrize(("what", "status"), [("upload", 401), ("create", 403)])
def test_a_refused_key_stops_the_run_and_is_not_told(server: BatchServer, store: Path, what: str, status: int) -> None:
    server.fault = lambda seen, number: Fault(status=status) if seen == what else None
    found = ask_all(questions(2), server.url, store)
    assert all(isinstance(error, StopError) and KEY not in str(error) for error in found)
    assert open_batches(store) == {}


def test_the_budget_holds_the_price_of_a_batch(server: BatchServer, store: Path) -> None:
    # At the full price, the most that one request can cost would not fit.
    asked = questions(1)
    bound = batch.prices.cost(PRICE, batch.prices.most(PRICE, asked[0]))
    assert texts(ask_all(asked, server.url, store, usd=0.6 * bound)) == expected(asked)


def test_an_open_batch_counts_against_the_cap(server: BatchServer, store: Path) -> None:
    asked, other = questions(4), questions(1, "judge")
    bound = batch.prices.cost(PRICE, batch.prices.most(PRICE, asked[0]), batch=True)
    submit_and_leave(asked, server, store)
    server.polls = 10
    paid_before: list[int] = []
    server.done = lambda what: paid_before.append(server.paid.total()) if what == "upload" else None
    # There is room for it only once the open batch has turned out cheaper than it could have been.
    assert texts(ask_all(other, server.url, store, usd=4.5 * bound)) == expected(other)
    assert paid_before == [4]
    assert spent(store) == pytest.approx(5 * USD_AN_ANSWER) and open_batches(store) == {}


def test_an_open_batch_over_the_cap_is_collected_and_nothing_new_is_asked(server: BatchServer, store: Path) -> None:
    asked, other = questions(4), questions(1, "judge")
    bound = batch.prices.cost(PRICE, batch.prices.most(PRICE, asked[0]), batch=True)
    submit_and_leave(asked, server, store)
    server.polls = 10
    found = ask_all([*asked, *other], server.url, store, usd=2 * bound)
    assert texts(found[:4]) == expected(asked)
    assert isinstance(found[4], BudgetSpentError)
    assert len(server.submitted) == 1


def test_a_price_that_is_gone_stops_the_run_and_loses_no_batch(server: BatchServer, store: Path) -> None:
    submit_and_leave(questions(2), server, store)
    server.polls = 1

    def price(model: str) -> Price:
        if model == "small":
            raise IndusCotError("prices.yaml: no price for the model 'small'")
        return PRICE

    (error,) = ask_all(questions(1, "judge", "large"), server.url, store, price=price)
    assert "no price for the model 'small'" in str(error)
    assert len(open_batches(store)) == 1

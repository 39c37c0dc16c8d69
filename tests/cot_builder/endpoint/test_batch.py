"""Batch mode against a real server on loopback: half the price, and every open batch is collected."""

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint import batch
from cot_builder.endpoint.budget import BudgetSpentError
from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.prices import Price
from cot_builder.endpoint.replies import CacheMissError, NotAnsweredError
from cot_builder.endpoint.request import ImageFile, Request
from cot_builder.endpoint.store import AnswerStore
from schemas.errors import IndusCotError
from tests.helpers.batches import (
    LONGEST_S,
    PRICE,
    USD_AN_ANSWER,
    ask_all,
    expected,
    open_batches,
    outcomes,
    questions,
    spent,
    submit_and_leave,
    texts,
    use,
)
from tests.servers.batch_server import BatchServer, Fault, batch_server

pytestmark = pytest.mark.usefixtures("quick_batches")


def test_requests_go_in_one_file_at_the_price_of_a_batch_and_are_kept(server: BatchServer, store: Path) -> None:
    asked = questions(5)

    async def work(client: EndpointClient) -> Any:
        found = await outcomes(client, asked)
        return found, client.ledger.stats

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
    assert texts(again) == expected(asked) and all(answer.is_cached for answer in again)
    assert server.calls == calls


def test_an_upload_is_deleted_once_its_answers_are_kept(server: BatchServer, store: Path) -> None:
    async def work(client: EndpointClient) -> None:
        await outcomes(client, questions(2))
        # Nobody waits for it, and it is given up with the client.
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
    parts = [image.content_part, {"type": "text", "text": "what?"}]
    request = Request("describe", "small", [{"role": "user", "content": parts}], {image.sha256: image}, 20, 0.5)
    server.answer = lambda body: "a hinge"
    submit_and_leave([request], server, store)
    line = json.loads(server.files["file-1"])
    body = json.loads(request.encode_body())
    assert line == {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "what?"}
    assert {name: body[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "small", "max_tokens": 20, "temperature": 0.5,
    }  # fmt: skip
    url = line["body"]["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == b"\x89PNG pixels"


def test_a_spooled_image_is_not_held_in_memory(server: BatchServer, store: Path) -> None:
    image = ImageFile("ab" * 32, 64, 64, lambda: (b"pixels", "image/png"))
    request = Request(
        "describe", "small", [{"role": "user", "content": [image.content_part]}], {image.sha256: image}, 20
    )
    server.answer = lambda body: "a hinge"
    ask_all([request], server.url, store)
    assert not [value for value in vars(image).values() if "data:" in str(value)]


def test_each_model_and_step_has_a_file_of_its_own(server: BatchServer, store: Path) -> None:
    groups = [questions(2), questions(2, "judge"), questions(2, "judge", "large")]
    asked = [request for group in groups for request in group]
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert sorted(server.submitted) == sorted([request.key for request in group] for group in groups)


@pytest.mark.parametrize(("limit", "value", "sizes"), [("MAX_LINES", 2, [2, 2, 1]), ("MAX_BYTES", 500, [3, 2])])
def test_a_full_file_is_submitted_at_once(
    server: BatchServer, store: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(batch, limit, value)
    asked = questions(5)
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert [len(keys) for keys in server.submitted] == sizes


def test_a_later_client_waits_for_an_open_batch(server: BatchServer, store: Path) -> None:
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

    async def late(client: EndpointClient) -> Any:
        while client.ledger.stats.answered != 3:
            await asyncio.sleep(0.005)
        return await outcomes(client, asked)

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

    async def nothing(client: EndpointClient) -> None:
        pass

    use(nothing, server.url, store)
    answers = AnswerStore(store)
    assert answers.counts() == [("small", "audit", 3)]
    assert answers.spent() == (pytest.approx(3 * USD_AN_ANSWER), 60)
    assert answers.open_batches() == {}
    answers.close()


def test_closed_to_new_nobody_waits_and_the_batch_is_collected_next_time(server: BatchServer, store: Path) -> None:
    server.polls = 10**9
    asked, later = questions(3), questions(2, "compose")

    async def work(client: EndpointClient) -> Any:
        first = [asyncio.create_task(client.ask(request)) for request in asked]
        while not server.calls["poll"]:
            await asyncio.sleep(0.005)
        # These are on the way into a file that is not submitted.
        second = [asyncio.create_task(client.ask(request)) for request in later]
        await asyncio.sleep(0)
        client.stop_sending()
        async with asyncio.timeout(LONGEST_S):
            found = await asyncio.gather(*first, *second, return_exceptions=True)
        # Longer than a file takes to settle.
        await asyncio.sleep(4 * batch.SUBMIT_DELAY_S)
        return found

    found = use(work, server.url, store)
    assert all(isinstance(error, CacheMissError) for error in found)
    assert server.calls["upload"] == 1 and len(open_batches(store)) == 1
    server.polls = 1
    assert texts(ask_all(asked, server.url, store)) == expected(asked)
    assert len(server.submitted) == 1


def test_closed_to_new_during_an_upload_no_batch_is_created(server: BatchServer, store: Path) -> None:
    async def work(client: EndpointClient) -> Any:
        loop = asyncio.get_running_loop()
        closed = threading.Event()

        def close() -> None:
            client.stop_sending()
            closed.set()

        def uploaded(what: str) -> None:
            loop.call_soon_threadsafe(close)
            assert closed.wait(LONGEST_S)

        server.done = uploaded
        found = await outcomes(client, questions(2))
        # Longer than it takes to create a batch.
        await asyncio.sleep(0.2)
        return found

    assert all(isinstance(error, CacheMissError) for error in use(work, server.url, store))
    assert server.calls == {"upload": 1} and open_batches(store) == {}


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


def test_the_budget_holds_the_price_of_a_batch(server: BatchServer, store: Path) -> None:
    # At the full price, the most that one request can cost would not fit.
    asked = questions(1)
    bound = batch.prices.compute_cost(PRICE, batch.prices.max_usage(PRICE, asked[0]))
    assert texts(ask_all(asked, server.url, store, usd=0.6 * bound)) == expected(asked)


def test_an_open_batch_counts_against_the_cap(server: BatchServer, store: Path) -> None:
    asked, other = questions(4), questions(1, "judge")
    bound = batch.prices.compute_cost(PRICE, batch.prices.max_usage(PRICE, asked[0]), batch=True)
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
    bound = batch.prices.compute_cost(PRICE, batch.prices.max_usage(PRICE, asked[0]), batch=True)
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

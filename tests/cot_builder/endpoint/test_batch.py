"""Batch mode against a server on loopback: half the price, and every open batch is collected."""

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
    PRICE,
    TIMEOUT_S,
    USD_PER_ANSWER,
    ask_all,
    expected_texts,
    get_texts,
    make_questions,
    read_open_batches,
    read_spend,
    run_in_client,
    submit_and_leave,
)
from tests.helpers.endpoint_client import gather_outcomes
from tests.servers.batch_server import BatchServer, Fault, batch_server

pytestmark = pytest.mark.usefixtures("quick_batches")


def test_batch_is_one_file_at_batch_price(server: BatchServer, store: Path) -> None:
    asked = make_questions(5)

    async def work(client: EndpointClient) -> Any:
        found = await gather_outcomes(client, asked)
        return found, client.ledger.stats

    found, stats = run_in_client(work, server.url, store)
    assert get_texts(found) == expected_texts(asked)
    assert [answer.usd for answer in found] == [USD_PER_ANSWER] * 5
    assert stats.answered == 5
    assert server.submitted == [[request.key for request in asked]]
    assert not server.chats
    assert read_spend(store) == pytest.approx(5 * USD_PER_ANSWER)
    assert read_open_batches(store) == {}
    calls = server.calls.copy()
    again = ask_all(asked, server.url, store)
    assert get_texts(again) == expected_texts(asked) and all(answer.is_cached for answer in again)
    assert server.calls == calls


def test_upload_is_deleted_after_collection(server: BatchServer, store: Path) -> None:
    async def work(client: EndpointClient) -> None:
        await gather_outcomes(client, make_questions(2))
        # No caller waits for the deletion, and closing the client would cancel it.
        while server.batches["batch_1"]["input_file_id"] in server.files:
            await asyncio.sleep(0.005)

    run_in_client(work, server.url, store)
    assert server.batches["batch_1"]["output_file_id"] in server.files


def test_failed_upload_deletion_is_ignored(server: BatchServer, store: Path) -> None:
    server.fault = lambda what, _: Fault(status=500) if what == "delete" else None
    asked = make_questions(2)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)


def test_batch_line_equals_single_request(server: BatchServer, store: Path) -> None:
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


def test_spooled_image_is_freed(server: BatchServer, store: Path) -> None:
    image = ImageFile("ab" * 32, 64, 64, lambda: (b"pixels", "image/png"))
    request = Request(
        "describe", "small", [{"role": "user", "content": [image.content_part]}], {image.sha256: image}, 20
    )
    server.answer = lambda body: "a hinge"
    ask_all([request], server.url, store)
    assert not [value for value in vars(image).values() if "data:" in str(value)]


def test_one_batch_per_model_and_step(server: BatchServer, store: Path) -> None:
    groups = [make_questions(2), make_questions(2, "judge"), make_questions(2, "judge", "large")]
    asked = [request for group in groups for request in group]
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert sorted(server.submitted) == sorted([request.key for request in group] for group in groups)


@pytest.mark.parametrize(("limit", "value", "sizes"), [("MAX_LINES", 2, [2, 2, 1]), ("MAX_BYTES", 500, [3, 2])])
def test_full_file_is_submitted_at_once(
    server: BatchServer, store: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(batch, limit, value)
    asked = make_questions(5)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert [len(keys) for keys in server.submitted] == sizes


def test_later_client_waits_for_open_batch(server: BatchServer, store: Path) -> None:
    asked = make_questions(4)
    submit_and_leave(asked, server, store)
    assert read_open_batches(store) == {"batch_1": [request.key for request in asked]}
    more = make_questions(6)
    found = ask_all(more, server.url, store)
    assert get_texts(found) == expected_texts(more)
    assert [answer.usd for answer in found] == [USD_PER_ANSWER] * 6
    assert [len(keys) for keys in server.submitted] == [4, 2]
    assert set(server.paid.values()) == {1}
    assert read_spend(store) == pytest.approx(6 * USD_PER_ANSWER)


@pytest.mark.parametrize("refresh", [False, True])
def test_unclaimed_batch_answer_is_not_asked_again(server: BatchServer, store: Path, refresh: bool) -> None:
    asked = make_questions(3)
    submit_and_leave(asked, server, store, refresh=refresh)
    server.polls = 1

    async def late(client: EndpointClient) -> Any:
        while client.ledger.stats.answered != 3:
            await asyncio.sleep(0.005)
        return await gather_outcomes(client, asked)

    assert get_texts(run_in_client(late, server.url, store, refresh=refresh)) == expected_texts(asked)
    assert len(server.submitted) == 1


def test_open_batch_collected_with_batch_mode_off(server: BatchServer, store: Path) -> None:
    submit_and_leave(make_questions(2), server, store)
    asked = make_questions(3)
    assert get_texts(ask_all(asked, server.url, store, batch=False)) == expected_texts(asked)
    assert len(server.submitted) == 1
    assert [body["messages"][0]["content"] for body in server.chats] == ["place 2 of describe"]


def test_unclaimed_answers_keep_step_and_price(server: BatchServer, store: Path) -> None:
    submit_and_leave(make_questions(3, "audit"), server, store)
    server.polls = 1

    async def nothing(client: EndpointClient) -> None:
        pass

    run_in_client(nothing, server.url, store)
    answers = AnswerStore(store)
    assert answers.counts() == [("small", "audit", 3)]
    assert answers.spent() == (pytest.approx(3 * USD_PER_ANSWER), 60)
    assert answers.open_batches() == {}
    answers.close()


def test_stop_sending_leaves_batch_for_next_run(server: BatchServer, store: Path) -> None:
    server.polls = 10**9
    asked, later = make_questions(3), make_questions(2, "compose")

    async def work(client: EndpointClient) -> Any:
        first = [asyncio.create_task(client.ask(request)) for request in asked]
        while not server.calls["poll"]:
            await asyncio.sleep(0.005)
        # These are added to a file that will not be submitted.
        second = [asyncio.create_task(client.ask(request)) for request in later]
        await asyncio.sleep(0)
        client.stop_sending()
        async with asyncio.timeout(TIMEOUT_S):
            found = await asyncio.gather(*first, *second, return_exceptions=True)
        # Wait longer than the submit delay of a file.
        await asyncio.sleep(4 * batch.SUBMIT_DELAY_S)
        return found

    found = run_in_client(work, server.url, store)
    assert all(isinstance(error, CacheMissError) for error in found)
    assert server.calls["upload"] == 1 and len(read_open_batches(store)) == 1
    server.polls = 1
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert len(server.submitted) == 1


def test_stop_sending_during_upload_creates_no_batch(server: BatchServer, store: Path) -> None:
    async def work(client: EndpointClient) -> Any:
        loop = asyncio.get_running_loop()
        closed = threading.Event()

        def close() -> None:
            client.stop_sending()
            closed.set()

        def uploaded(what: str) -> None:
            loop.call_soon_threadsafe(close)
            assert closed.wait(TIMEOUT_S)

        server.done = uploaded
        found = await gather_outcomes(client, make_questions(2))
        # Wait longer than it takes to create a batch.
        await asyncio.sleep(0.2)
        return found

    assert all(isinstance(error, CacheMissError) for error in run_in_client(work, server.url, store))
    assert server.calls == {"upload": 1} and read_open_batches(store) == {}


def test_batch_of_other_endpoint_stays_open(server: BatchServer, store: Path) -> None:
    asked, more = make_questions(2), make_questions(3)
    submit_and_leave(asked, server, store)
    with batch_server() as other:
        other.batch_name = "other"
        first, second, third = ask_all(more, other.url, store)
        assert isinstance(first, NotAnsweredError) and isinstance(second, NotAnsweredError)
        assert all(words in str(first) for words in ("batch_1", other.url, "--refresh"))
        assert third.text == expected_texts(more)[2]
        assert list(read_open_batches(store)) == ["batch_1"]
        assert get_texts(ask_all(asked[:1], other.url, store, refresh=True)) == expected_texts(asked[:1])
    # The first endpoint still has the batch.
    assert get_texts(ask_all(more, server.url, store)) == expected_texts(more)
    assert len(server.submitted) == 1 and read_open_batches(store) == {}


def test_budget_reserves_batch_price(server: BatchServer, store: Path) -> None:
    # At the full price, the maximum cost of one request would exceed the cap.
    asked = make_questions(1)
    bound = batch.prices.compute_cost(PRICE, batch.prices.max_usage(PRICE, asked[0]))
    assert get_texts(ask_all(asked, server.url, store, usd=0.6 * bound)) == expected_texts(asked)


def test_open_batch_counts_against_cap(server: BatchServer, store: Path) -> None:
    asked, other = make_questions(4), make_questions(1, "judge")
    bound = batch.prices.compute_cost(PRICE, batch.prices.max_usage(PRICE, asked[0]), batch=True)
    submit_and_leave(asked, server, store)
    server.polls = 10
    paid_before: list[int] = []
    server.done = lambda what: paid_before.append(server.paid.total()) if what == "upload" else None
    # The cap allows it only after the open batch has cost less than its maximum.
    assert get_texts(ask_all(other, server.url, store, usd=4.5 * bound)) == expected_texts(other)
    assert paid_before == [4]
    assert read_spend(store) == pytest.approx(5 * USD_PER_ANSWER) and read_open_batches(store) == {}


def test_open_batch_over_cap_is_still_collected(server: BatchServer, store: Path) -> None:
    asked, other = make_questions(4), make_questions(1, "judge")
    bound = batch.prices.compute_cost(PRICE, batch.prices.max_usage(PRICE, asked[0]), batch=True)
    submit_and_leave(asked, server, store)
    server.polls = 10
    found = ask_all([*asked, *other], server.url, store, usd=2 * bound)
    assert get_texts(found[:4]) == expected_texts(asked)
    assert isinstance(found[4], BudgetSpentError)
    assert len(server.submitted) == 1


def test_missing_price_stops_run_without_losing_batch(server: BatchServer, store: Path) -> None:
    submit_and_leave(make_questions(2), server, store)
    server.polls = 1

    def price(model: str) -> Price:
        if model == "small":
            raise IndusCotError("prices.yaml: no price for the model 'small'")
        return PRICE

    (error,) = ask_all(make_questions(1, "judge", "large"), server.url, store, price=price)
    assert "no price for the model 'small'" in str(error)
    assert len(read_open_batches(store)) == 1

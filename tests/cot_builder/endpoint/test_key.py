"""The API key is in no error, log, answer or store."""

import json
import logging
import traceback
from pathlib import Path

import pytest

from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.replies import Answer, NotAnsweredError, StopError
from tests.helpers.endpoint_client import KEY, KEY_VARIABLE, ask, echo, outcomes, question, use
from tests.servers.chat_server import Fault, chat_server, status, text_of

pytestmark = pytest.mark.usefixtures("key")


def test_the_key_is_in_no_error_log_or_store(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = {
        "wrong": status(400, message=f"header was Bearer {KEY}"),
        "html": Fault(400, text=f"<html>Bearer {KEY}</html>"),
        "failing": status(500, message=f"header was Bearer {KEY}"),
        "stop": status(401, message=f"Incorrect API key provided: {KEY}"),
    }
    caplog.set_level(logging.DEBUG)

    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        await client.ask(question("fine"))
        return [result for name in faults for result in await outcomes(client, [question(name)])]

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
    async def work(client: EndpointClient) -> bytes:
        answer = await client.ask(question())
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

"""No error, log, answer or store contains the API key."""

import json
import logging
import traceback
from pathlib import Path

import pytest

from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.replies import Answer, NotAnsweredError, StopError
from tests.helpers.endpoint_client import KEY, KEY_VARIABLE, ask, echo, gather_outcomes, make_question, run_in_client
from tests.servers.chat_server import Fault, chat_server, get_text, status_fault

pytestmark = pytest.mark.usefixtures("key")


def test_key_is_in_no_error_or_log(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = {
        "wrong": status_fault(400, message=f"header was Bearer {KEY}"),
        "html": Fault(400, text=f"<html>Bearer {KEY}</html>"),
        "failing": status_fault(500, message=f"header was Bearer {KEY}"),
        "stop": status_fault(401, message=f"Incorrect API key provided: {KEY}"),
    }
    caplog.set_level(logging.DEBUG)

    async def work(client: EndpointClient) -> list[Answer | BaseException]:
        await client.ask(make_question("fine"))
        return [result for name in faults for result in await gather_outcomes(client, [make_question(name)])]

    with chat_server(echo, lambda body, _: faults.get(get_text(body))) as server:
        errors = run_in_client(work, server.url, store)
        assert len(server.requests) == 1 + 3 + 4
    assert [type(error) for error in errors] == [NotAnsweredError, NotAnsweredError, NotAnsweredError, StopError]
    for error in errors:
        assert isinstance(error, Exception)
        assert KEY not in "".join(traceback.format_exception(error))
    assert "[key]" in str(errors[0])
    assert KEY not in caplog.text


def test_truncated_message_contains_no_part_of_key(store: Path) -> None:
    for padding in range(275, 300, 5):
        fault = status_fault(400, message="x" * padding + KEY)
        with chat_server(echo, lambda *_, fault=fault: fault) as server, pytest.raises(NotAnsweredError) as caught:
            ask(make_question(), server.url, store)
        assert KEY[:4] not in str(caught.value)


def test_key_in_answer_is_not_stored(store: Path) -> None:
    async def work(client: EndpointClient) -> bytes:
        answer = await client.ask(make_question())
        assert KEY not in answer.text
        # Read the files while the store is open: the new answer is in the write-ahead log.
        return b"".join(path.read_bytes() for path in store.parent.iterdir())

    with chat_server(lambda _: f"your header was Bearer {KEY}, thank you") as server:
        held = run_in_client(work, server.url, store)
    assert b"thank you" in held
    assert KEY.encode() not in held
    assert KEY.encode() not in store.read_bytes()


@pytest.mark.parametrize("short", ["x", "none", "EMPTY"])
def test_placeholder_key_is_not_redacted(store: Path, monkeypatch: pytest.MonkeyPatch, short: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, short)
    said = {"index": 6, "box": None, "words": f"an {short} box"}
    with chat_server(lambda _: said) as server:
        assert json.loads(ask(make_question(), server.url, store).text) == said

"""Faults of a batch, of its server or of this process: no request is paid twice."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cot_builder.endpoint import batch
from cot_builder.endpoint.replies import NotAnsweredError, StopError
from tests.helpers.batches import (
    KEY,
    USD_PER_ANSWER,
    ask_all,
    expected_texts,
    get_texts,
    make_questions,
    read_open_batches,
    read_spend,
    submit_and_leave,
)
from tests.helpers.paths import ROOT
from tests.servers.batch_server import BatchServer, Fault, Line

pytestmark = pytest.mark.usefixtures("quick_batches")
CLIENT = """
import asyncio, os, signal, sys
from pathlib import Path
from cot_builder.endpoint import batch
from cot_builder.endpoint.store import AnswerStore
from tests.helpers import batches
batch.SUBMIT_DELAY_S = 0.05
if sys.argv[3] == "put":
    put = AnswerStore.put
    count = 0
    def killed(*arguments):
        global count
        put(*arguments)
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    AnswerStore.put = killed
batches.ask_all(batches.make_questions(6), sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["upload", "create", "poll", "put"])
def test_killed_run_pays_nothing_twice(server: BatchServer, store: Path, moment: str) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def kill(what: str) -> None:
        if what == moment and begun[0].returncode is None:
            os.kill(begun[0].pid, signal.SIGKILL)

    server.done = kill
    # The server calls `kill` only after the process has sent a request, so `begun` is filled by then.
    begun.append(
        subprocess.Popen([sys.executable, "-c", CLIENT, server.url, str(store), moment], cwd=ROOT, env={**os.environ})
    )
    assert begun[0].wait(timeout=60) == -signal.SIGKILL
    asked = make_questions(6)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert len(server.submitted) == 1
    assert server.paid == Counter(request.key for request in asked)
    assert read_spend(store) == pytest.approx(6 * USD_PER_ANSWER)
    assert read_open_batches(store) == {}


@pytest.mark.parametrize("what", ["upload", "create", "poll", "content"])
@pytest.mark.parametrize("fault", [Fault(status=503), Fault(after=True)], ids=["refused", "lost"])
def test_transient_batch_fault_is_retried_once_paid(server: BatchServer, store: Path, what: str, fault: Fault) -> None:
    server.fault = lambda seen, number: fault if seen == what and number < 2 else None
    asked = make_questions(3)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert len(server.submitted) == 1
    assert read_spend(store) == pytest.approx(3 * USD_PER_ANSWER)
    assert read_open_batches(store) == {}


def test_truncated_download_is_restarted(server: BatchServer, store: Path) -> None:
    server.fault = lambda what, number: Fault(cut=True) if what == "content" and number == 0 else None
    asked = make_questions(1)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert server.calls["content"] == 2


def test_polls_outlast_request_attempts(server: BatchServer, store: Path) -> None:
    server.fault = lambda what, number: Fault() if what == "poll" and number < 6 else None
    asked = make_questions(2)
    assert get_texts(ask_all(asked, server.url, store, attempts=1)) == expected_texts(asked)


def test_unreachable_batch_stops_run_and_stays_open(
    server: BatchServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_UNREACHABLE_S", 0.05)
    server.fault = lambda what, number: Fault() if what == "poll" else None
    asked = make_questions(2)
    (first, second) = ask_all(asked, server.url, store)
    assert isinstance(first, StopError) and isinstance(second, StopError)
    assert "run the same command again" in str(first)
    server.fault = lambda what, number: None
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert len(server.submitted) == 1


def test_overloaded_line_goes_into_next_batch(server: BatchServer, store: Path) -> None:
    fates = {"place 0 of describe": 429, "place 1 of describe": 503}
    server.line = lambda body, run: Line(fates.get(body["messages"][0]["content"], 200) if run == 0 else 200)
    asked = make_questions(3)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert server.submitted == [[request.key for request in asked], [request.key for request in asked[:2]]]
    assert read_spend(store) == pytest.approx(3 * USD_PER_ANSWER)


def test_always_overloaded_line_names_every_batch(server: BatchServer, store: Path) -> None:
    server.line = lambda body, run: Line(500)
    (error,) = ask_all(make_questions(1), server.url, store)
    assert isinstance(error, NotAnsweredError)
    assert str(error) == "no answer after 3 batches: " + "; ".join(f"batch batch_{n}: status 500" for n in (1, 2, 3))
    assert len(server.submitted) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (Line(400), "batch batch_1: status 400: status 400"),
        (Line(error="this request could not be run in time"), "batch batch_1: this request could not be run in time"),
        (Line(silent=True), "batch batch_1: it has no answer to this request"),
        (Line(garbled=True), "batch batch_1: it has no answer to this request"),
    ],
    ids=["refused", "expired", "silent", "garbled"],
)
def test_failed_line_names_its_batch(server: BatchServer, store: Path, line: Line, words: str) -> None:
    asked = make_questions(3)
    server.line = lambda body, run: line if body["messages"][0]["content"] == "place 1 of describe" else Line()
    found = ask_all(asked, server.url, store)
    assert isinstance(found[1], NotAnsweredError) and str(found[1]) == words
    assert [found[0].text, found[2].text] == [expected_texts(asked)[0], expected_texts(asked)[2]]
    assert read_open_batches(store) == {}


def test_invalid_completion_goes_into_next_batch(server: BatchServer, store: Path) -> None:
    server.line = lambda body, run: Line(change=lambda _: {"choices": []}) if run == 0 else Line()
    asked = make_questions(2)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert len(server.submitted) == 2


@pytest.mark.parametrize(
    ("end", "words"),
    [("failed", "batch batch_1: failed: the file is refused"), ("cancelled", "batch batch_1: cancelled")],
)
def test_failed_batch_can_be_resubmitted(server: BatchServer, store: Path, end: str, words: str) -> None:
    server.end = end
    server.line = lambda body, run: Line(silent=run == 0)
    asked = make_questions(2)
    found = ask_all(asked, server.url, store)
    assert [str(error) for error in found] == [words] * 2
    assert all(isinstance(error, NotAnsweredError) for error in found)
    server.end = "completed"
    server.line = lambda body, run: Line()
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)


def test_expired_batch_keeps_its_answers(server: BatchServer, store: Path) -> None:
    server.end = "expired"
    server.line = lambda body, run: Line(error="it expired") if "place 1" in body["messages"][0]["content"] else Line()
    first, second = ask_all(make_questions(2), server.url, store)
    assert first.text == "answer to place 0 of describe"
    assert str(second) == "batch batch_1: it expired"


def test_overloaded_line_of_earlier_batch_is_resubmitted(server: BatchServer, store: Path) -> None:
    asked = make_questions(2)
    submit_and_leave(asked, server, store)
    server.polls = 10
    server.line = lambda body, run: Line(429 if run == 0 else 200)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)
    assert [len(keys) for keys in server.submitted] == [2, 2]


def test_missing_batch_api_is_reported(server: BatchServer, store: Path) -> None:
    server.has_batches = False
    found = ask_all(make_questions(2), server.url, store)
    assert all(isinstance(error, StopError) for error in found)
    assert "compute.endpoint.batch: false" in str(found[0])


def test_server_without_batch_list(server: BatchServer, store: Path) -> None:
    server.lists = False
    server.fault = lambda what, number: Fault() if what == "create" and number == 0 else None
    asked = make_questions(2)
    assert get_texts(ask_all(asked, server.url, store)) == expected_texts(asked)


def test_unreachable_batch_server_stops_run(store: Path) -> None:
    found = ask_all(make_questions(2), "http://127.0.0.1:9/v1", store)
    assert all(isinstance(error, StopError) for error in found)
    assert "check that the server runs" in str(found[0])


@pytest.mark.parametrize(("what", "status"), [("upload", 401), ("create", 403)])
def test_refused_key_stops_run_and_is_redacted(server: BatchServer, store: Path, what: str, status: int) -> None:
    server.fault = lambda seen, number: Fault(status=status) if seen == what else None
    found = ask_all(make_questions(2), server.url, store)
    assert all(isinstance(error, StopError) and KEY not in str(error) for error in found)
    assert read_open_batches(store) == {}

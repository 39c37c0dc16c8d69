"""The answer store: answers stay until they are pruned, also with several writers."""

import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cot_builder.endpoint import store as module
from cot_builder.endpoint.prices import Usage
from cot_builder.endpoint.store import AnswerStore
from schemas.errors import IndusCotError
from tests.helpers.answer_store import (
    COUNT,
    USAGE,
    USD,
    expected_answer,
    fill_store,
    make_clock,
    make_key,
    make_response,
    open_store,
    put_answer,
)
from tests.helpers.paths import ROOT

WRITER = """
import sys
from pathlib import Path
from cot_builder.endpoint.store import AnswerStore
from cot_builder.endpoint.prices import Usage

path, name, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
answers = AnswerStore(Path(path))
for number in range(first, last):
    response = {"choices": [{"message": {"content": f"{name} {number} " + "x" * 200}}]}
    answers.put(f"{name}-{number}", "describe", "small", response, Usage(input=100, output=20), 0.25)
    print(number, flush=True)
"""


def test_get_returns_stored_answer(path: Path) -> None:
    with open_store(path) as answers:
        assert answers.get(make_key(1)) is None
        assert not answers.has(make_key(1))
        put_answer(answers, 1)
        assert answers.has(make_key(1))
        assert answers.get(make_key(1)) == expected_answer(1)
    with open_store(path) as answers:
        assert answers.get(make_key(1)) == expected_answer(1)
        assert answers.get(make_key(2)) is None


def test_put_is_visible_to_other_connection(path: Path) -> None:
    with open_store(path) as one, open_store(path) as other:
        put_answer(one, 1)
        assert other.get(make_key(1)) == expected_answer(1)


def test_second_put_replaces_answer_and_adds_spend(path: Path) -> None:
    with open_store(path) as answers:
        put_answer(answers, 1)
        answers.put(make_key(1), "describe", "small", make_response(2), USAGE, 1.0)
        stored = answers.get(make_key(1))
        assert stored is not None
        assert stored.response == make_response(2)
        assert answers.counts() == [("small", "describe", 1)]
        assert answers.spent() == (pytest.approx(USD + 1.0), 2 * USAGE.total)


def test_counts_spend_and_mean_output(path: Path) -> None:
    with open_store(path) as answers:
        assert answers.spent() == (0.0, 0)
        assert answers.spend_by_model() == []
        for number in range(4):
            put_answer(answers, number, step="describe" if number else "judge", model="small")
        answers.put("big", "judge", "big", make_response(9), Usage(input=1, output=50), 9.0)
        assert answers.counts() == [("big", "judge", 1), ("small", "describe", 3), ("small", "judge", 1)]
        assert [tuple(row) for row in answers.spend_by_model()] == [("big", 1, 1, 50, 9.0), ("small", 4, 400, 80, 1.0)]
        assert answers.mean_output("small", least=3) == {"describe": 20}
        assert answers.mean_output("small", least=1) == {"describe": 20, "judge": 20}
        assert answers.mean_output("small") == {}


def test_open_batches_persist_until_closed(path: Path) -> None:
    with open_store(path) as answers:
        answers.open_batch("b2", ["k3"])
        answers.open_batch("b1", ["k1", "k2"])
    with open_store(path) as answers:
        assert answers.open_batches() == {"b2": ["k3"], "b1": ["k1", "k2"]}
        answers.close_batch("b2")
        assert answers.open_batches() == {"b1": ["k1", "k2"]}


def test_prune_by_model_keeps_spend(path: Path) -> None:
    with open_store(path) as answers:
        for number in range(6):
            put_answer(answers, number, model="old" if number < 4 else "new")
        before = answers.spent(), answers.spend_by_model()
        assert answers.prune(model="old") == 4
        assert answers.prune(model="old") == 0
        assert answers.counts() == [("new", "describe", 2)]
        assert answers.get(make_key(0)) is None
        assert answers.get(make_key(5)) == expected_answer(5)
        assert (answers.spent(), answers.spend_by_model()) == before


def test_prune_by_age_keeps_spend(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86400.0
    with open_store(path) as answers:
        for number, model in enumerate(["a", "b", "a", "b"]):
            monkeypatch.setattr(module, "time", make_clock(number * day))
            put_answer(answers, number, model=model)
        monkeypatch.setattr(module, "time", make_clock(4 * day))
        before = answers.spent()
        assert answers.prune(older_than_days=2.5, model="b") == 1
        assert [answers.has(make_key(number)) for number in range(4)] == [True, False, True, True]
        assert answers.prune(older_than_days=1.5) == 2
        assert [answers.has(make_key(number)) for number in range(4)] == [False, False, False, True]
        assert answers.spent() == before


def test_prune_shrinks_file(path: Path) -> None:
    fill_store(path)
    large = path.stat().st_size
    with open_store(path) as answers:
        assert answers.prune() == COUNT
    assert path.stat().st_size < large / 2


def test_folder_at_store_path_is_reported(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IndusCotError, match=re.escape(str(path))):
        AnswerStore(path)


@contextmanager
def writer(path: Path, name: str, first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that stores the answers ``first`` to ``last`` after it reads a line, and prints each stored number."""
    command = [sys.executable, "-c", WRITER, str(path), name, str(first), str(last)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_two_writing_processes_lose_nothing(path: Path) -> None:
    count = 150
    AnswerStore(path).close()
    with writer(path, "one", 0, count) as one, writer(path, "other", 0, count) as other:
        begin(one, other)
        for process in (one, other):
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
    with open_store(path) as answers:
        assert answers.counts() == [("small", "describe", 2 * count)]
        assert all(answers.get(f"{name}-{number}") for name in ("one", "other") for number in range(count))
        assert answers.spent() == (pytest.approx(2 * count * USD), 2 * count * 120)


def test_store_waits_for_lock_on_creation(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
    release.start()
    try:
        AnswerStore(path).close()
    finally:
        release.join()
        other.close()


def test_writer_does_not_block_reader(path: Path) -> None:
    fill_store(path, 5)
    with writer(path, "one", 0, 100_000) as process, open_store(path) as answers:
        begin(process)
        assert process.stdout is not None
        for number in range(50):
            assert process.stdout.readline() == f"{number}\n"
            assert answers.get(f"one-{number}") is not None
            assert answers.get(make_key(number % 5)) == expected_answer(number % 5)


@pytest.mark.slow
def test_stored_answers_survive_sigkill(path: Path) -> None:
    moments = random.Random(7)
    kept: list[int] = []
    for _ in range(6):
        first = kept[-1] + 1 if kept else 0
        with writer(path, "one", first, 1_000_000) as process:
            begin(process)
            assert process.stdout is not None
            for _ in range(moments.randrange(1, 120)):
                kept.append(int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
            # Read complete lines only: the last one may be truncated.
            kept += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            assert process.wait() == -signal.SIGKILL
        with open_store(path) as answers:
            assert all(answers.get(f"one-{number}") for number in kept)
            # The answer being written when the process was killed may be stored too, with its spend.
            ((_, _, count),) = answers.counts()
            assert len(kept) <= count <= len(kept) + 6
            assert answers.spend_by_model()[0].answers >= count
    assert kept == sorted(set(kept))


def test_full_disk_loses_no_answer(path: Path) -> None:
    # A limit on the file size simulates a full disk.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "import schemas.errors\n" + WRITER.replace("answers.put(", "put_answer(")
    ).replace(
        "answers = AnswerStore(Path(path))",
        "answers = AnswerStore(Path(path))\n"
        "def put_answer(*values):\n"
        "    try:\n"
        "        answers.put(*values)\n"
        "    except schemas.errors.IndusCotError as error:\n"
        "        print(error, flush=True)\n"
        "        sys.exit(3)\n",
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(path), "one", "0", "100000"],
        cwd=ROOT, input="\n", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
    ready, *numbers, message = done.stdout.splitlines()
    assert ready == "ready"
    assert str(path) in message
    assert "disk is full" in message
    assert len(numbers) > 20
    with open_store(path) as answers:
        assert all(answers.get(f"one-{number}") for number in numbers)
        assert answers.spent()[1] == len(numbers) * 120
        put_answer(answers, 1)

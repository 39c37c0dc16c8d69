"""The store of paid answers: what is put is there, whoever else writes, until it is pruned."""

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
from tests.helpers.answer_store import COUNT, USAGE, USD, clock, expected, filled, key_of, opened, put, response
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


def test_an_answer_is_given_back_as_it_was(path: Path) -> None:
    with opened(path) as answers:
        assert answers.get(key_of(1)) is None
        assert not answers.has(key_of(1))
        put(answers, 1)
        assert answers.has(key_of(1))
        assert answers.get(key_of(1)) == expected(1)
    with opened(path) as answers:
        assert answers.get(key_of(1)) == expected(1)
        assert answers.get(key_of(2)) is None


def test_what_one_has_put_another_sees_at_once(path: Path) -> None:
    with opened(path) as one, opened(path) as other:
        put(one, 1)
        assert other.get(key_of(1)) == expected(1)


def test_an_answer_put_again_takes_the_place_and_is_paid_twice(path: Path) -> None:
    with opened(path) as answers:
        put(answers, 1)
        answers.put(key_of(1), "describe", "small", response(2), USAGE, 1.0)
        stored = answers.get(key_of(1))
        assert stored is not None
        assert stored.response == response(2)
        assert answers.counts() == [("small", "describe", 1)]
        assert answers.spent() == (pytest.approx(USD + 1.0), 2 * USAGE.total)


def test_counts_spend_and_means_by_model_and_step(path: Path) -> None:
    with opened(path) as answers:
        assert answers.spent() == (0.0, 0)
        assert answers.spend_by_model() == []
        for number in range(4):
            put(answers, number, step="describe" if number else "judge", model="small")
        answers.put("big", "judge", "big", response(9), Usage(input=1, output=50), 9.0)
        assert answers.counts() == [("big", "judge", 1), ("small", "describe", 3), ("small", "judge", 1)]
        assert [tuple(row) for row in answers.spend_by_model()] == [("big", 1, 1, 50, 9.0), ("small", 4, 400, 80, 1.0)]
        assert answers.mean_output("small", least=3) == {"describe": 20}
        assert answers.mean_output("small", least=1) == {"describe": 20, "judge": 20}
        assert answers.mean_output("small") == {}


def test_batches_are_remembered_until_closed(path: Path) -> None:
    with opened(path) as answers:
        answers.open_batch("b2", ["k3"])
        answers.open_batch("b1", ["k1", "k2"])
    with opened(path) as answers:
        assert answers.open_batches() == {"b2": ["k3"], "b1": ["k1", "k2"]}
        answers.close_batch("b2")
        assert answers.open_batches() == {"b1": ["k1", "k2"]}


def test_pruning_by_model_keeps_the_others_and_all_spend(path: Path) -> None:
    with opened(path) as answers:
        for number in range(6):
            put(answers, number, model="old" if number < 4 else "new")
        before = answers.spent(), answers.spend_by_model()
        assert answers.prune(model="old") == 4
        assert answers.prune(model="old") == 0
        assert answers.counts() == [("new", "describe", 2)]
        assert answers.get(key_of(0)) is None
        assert answers.get(key_of(5)) == expected(5)
        assert (answers.spent(), answers.spend_by_model()) == before


def test_pruning_by_age_keeps_the_young_and_all_spend(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86400.0
    with opened(path) as answers:
        for number, model in enumerate(["a", "b", "a", "b"]):
            monkeypatch.setattr(module, "time", clock(number * day))
            put(answers, number, model=model)
        monkeypatch.setattr(module, "time", clock(4 * day))
        before = answers.spent()
        assert answers.prune(older_than_days=2.5, model="b") == 1
        assert [answers.has(key_of(number)) for number in range(4)] == [True, False, True, True]
        assert answers.prune(older_than_days=1.5) == 2
        assert [answers.has(key_of(number)) for number in range(4)] == [False, False, False, True]
        assert answers.spent() == before


def test_pruning_gives_the_room_back(path: Path) -> None:
    filled(path)
    large = path.stat().st_size
    with opened(path) as answers:
        assert answers.prune() == COUNT
    assert path.stat().st_size < large / 2


def test_a_folder_in_its_place_is_one_message(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IndusCotError, match=re.escape(str(path))):
        AnswerStore(path)


@contextmanager
def writer(path: Path, name: str, first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    """A process that puts answers ``first`` to ``last`` once a line is sent, and prints each that is kept."""
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


def test_two_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    count = 150
    AnswerStore(path).close()
    with writer(path, "one", 0, count) as one, writer(path, "other", 0, count) as other:
        begin(one, other)
        for process in (one, other):
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
    with opened(path) as answers:
        assert answers.counts() == [("small", "describe", 2 * count)]
        assert all(answers.get(f"{name}-{number}") for name in ("one", "other") for number in range(count))
        assert answers.spent() == (pytest.approx(2 * count * USD), 2 * count * 120)


def test_a_store_that_another_is_making_is_waited_for(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.execute, ["ROLLBACK"])
    release.start()
    try:
        AnswerStore(path).close()
    finally:
        release.join()
        other.close()


def test_a_reader_is_not_held_up_by_a_writer(path: Path) -> None:
    filled(path, 5)
    with writer(path, "one", 0, 100_000) as process, opened(path) as answers:
        begin(process)
        assert process.stdout is not None
        for number in range(50):
            assert process.stdout.readline() == f"{number}\n"
            assert answers.get(f"one-{number}") is not None
            assert answers.get(key_of(number % 5)) == expected(number % 5)


@pytest.mark.slow
def test_every_answer_that_was_kept_is_there_after_kill_9(path: Path) -> None:
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
            # Whole lines only: the last one may be cut.
            kept += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            assert process.wait() == -signal.SIGKILL
        with opened(path) as answers:
            assert all(answers.get(f"one-{number}") for number in kept)
            # The one under way may be there as well; it is then booked as well.
            ((_, _, count),) = answers.counts()
            assert len(kept) <= count <= len(kept) + 6
            assert answers.spend_by_model()[0].answers >= count
    assert kept == sorted(set(kept))


def test_a_disk_that_fills_up_is_one_message_and_loses_nothing(path: Path) -> None:
    # The writer meets a limit on the size of its files, as it would meet the end of a disk.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "import schemas.errors\n" + WRITER.replace("answers.put(", "put(")
    ).replace(
        "answers = AnswerStore(Path(path))",
        "answers = AnswerStore(Path(path))\n"
        "def put(*values):\n"
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
    with opened(path) as answers:
        assert all(answers.get(f"one-{number}") for number in numbers)
        assert answers.spent()[1] == len(numbers) * 120
        put(answers, 1)

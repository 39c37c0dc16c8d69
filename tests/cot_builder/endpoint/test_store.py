"""The store of paid answers: what is in it stays, whoever writes, whatever ends, whatever breaks on disk."""

import hashlib
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cot_builder.endpoint import store as module
from cot_builder.endpoint.prices import Usage
from cot_builder.endpoint.store import Answers, Stored, is_sound, salvage
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT

PAGE = 4096
LEAF = 0x0A
"""First byte of a page of rows at the bottom of a tree (SQLite file format, 1.6)."""
COUNT = 300
USAGE = Usage(input=100, cached_input=40, output=20)
USD = 0.25

WRITER = """
import sys
from pathlib import Path
from cot_builder.endpoint.store import Answers
from cot_builder.endpoint.prices import Usage

path, name, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
answers = Answers(Path(path))
for number in range(first, last):
    response = {"choices": [{"message": {"content": f"{name} {number} " + "x" * 200}}]}
    answers.put(f"{name}-{number}", "describe", "small", response, Usage(input=100, output=20), 0.25)
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


@contextmanager
def opened(path: Path) -> Iterator[Answers]:
    answers = Answers(path)
    try:
        yield answers
    finally:
        answers.close()


def clock(now: float) -> SimpleNamespace:
    return SimpleNamespace(**vars(time) | {"time": lambda: now})


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def marker(number: int) -> bytes:
    return f"<answer {number:04}>".encode()


def response(number: int) -> dict[str, Any]:
    content = f"{marker(number).decode()} a scratch, ein Kratzer, 划痕 " + "x" * 150
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}


def put(answers: Answers, number: int, step: str = "describe", model: str = "small") -> None:
    answers.put(key_of(number), step, model, response(number), USAGE, USD)


def filled(path: Path, count: int = COUNT) -> None:
    with opened(path) as answers:
        for number in range(count):
            put(answers, number)


def expected(number: int) -> Stored:
    return Stored(response(number), USAGE, USD)


def pages_with_answers(data: bytes) -> list[int]:
    """Pages that hold rows of answers and nothing above other pages."""
    found = {match.start() // PAGE for match in re.finditer(rb"<answer \d{4}>", data)}
    return sorted(page for page in found if data[page * PAGE] == LEAF)


def numbers_on(data: bytes, pages: list[int]) -> set[int]:
    """Answers of which anything lies on ``pages``."""
    text = b"".join(data[page * PAGE : (page + 1) * PAGE] for page in pages)
    return {int(number) for number in re.findall(rb"<answer (\d{4})>", text)}


def overwrite(path: Path, pages: list[int], what: Callable[[int], bytes] = bytes) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(what(PAGE))


def flip(path: Path, number: int, bit: int) -> None:
    """Turn one bit within the text of an answer, wherever the file holds it."""
    data = bytearray(path.read_bytes())
    places = [match.start() + 1 for match in re.finditer(re.escape(marker(number)), data)]
    assert places
    for place in places:
        data[place] ^= bit
    path.write_bytes(bytes(data))


# What is put is there


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
        assert answers.spend() == []
        for number in range(4):
            put(answers, number, step="describe" if number else "judge", model="small")
        answers.put("big", "judge", "big", response(9), Usage(input=1, output=50), 9.0)
        assert answers.counts() == [("big", "judge", 1), ("small", "describe", 3), ("small", "judge", 1)]
        assert [tuple(row) for row in answers.spend()] == [("big", 1, 1, 50, 9.0), ("small", 4, 400, 80, 1.0)]
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


# Pruning


def test_pruning_by_model_keeps_the_others_and_all_spend(path: Path) -> None:
    with opened(path) as answers:
        for number in range(6):
            put(answers, number, model="old" if number < 4 else "new")
        before = answers.spent(), answers.spend()
        assert answers.prune(model="old") == 4
        assert answers.prune(model="old") == 0
        assert answers.counts() == [("new", "describe", 2)]
        assert answers.get(key_of(0)) is None
        assert answers.get(key_of(5)) == expected(5)
        assert (answers.spent(), answers.spend()) == before


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


# Damage


@pytest.mark.parametrize(
    "header",
    [b"\0" * 100, b"not a database, this one" * 4, b"SQLite format 3\0" + b"\xff" * 84],
    ids=["zeros", "text", "noise"],
)
def test_a_damaged_header_is_one_message_that_names_the_way_out(path: Path, header: bytes) -> None:
    filled(path, 20)
    overwrite(path, [0], lambda size: header + b"\0" * (size - len(header)))
    with pytest.raises(IndusCotError) as caught:
        Answers(path)
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)
    assert "--salvage" in str(caught.value)
    kept, damaged = salvage(path)
    assert kept == 0
    assert damaged.is_file()
    with opened(path) as answers:
        put(answers, 1)


def test_a_folder_in_its_place_is_one_message(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IndusCotError, match=re.escape(str(path))):
        Answers(path)


def answers_or_message(path: Path) -> dict[int, Stored | IndusCotError | None]:
    found: dict[int, Stored | IndusCotError | None] = {}
    try:
        with opened(path) as answers:
            for number in range(COUNT):
                try:
                    found[number] = answers.get(key_of(number))
                except IndusCotError as error:
                    found[number] = error
    except IndusCotError as error:
        return dict.fromkeys(range(COUNT), error)
    return found


@pytest.mark.parametrize("what", [bytes, lambda size: b"\xaa" * size], ids=["zeros", "noise"])
def test_a_damaged_page_is_told_of_and_all_other_answers_are_salvaged(path: Path, what: Callable[[int], bytes]) -> None:
    filled(path)
    data = path.read_bytes()
    pages = pages_with_answers(data)
    page = pages[len(pages) // 2]
    hit = numbers_on(data, [page])
    assert 0 < len(hit) < COUNT / 4
    overwrite(path, [page], what)
    found = answers_or_message(path)
    told = [result for result in found.values() if isinstance(result, IndusCotError)]
    # A neighbour on the page above is looked for beside it, and met by way of it.
    assert 0 < len(told) <= len(hit) + 2
    for error in told:
        assert str(path) in str(error)
        assert "--salvage" in str(error)
    for number, result in found.items():
        assert isinstance(result, IndusCotError) or result == expected(number) or (result is None and number in hit)
    kept, damaged = salvage(path)
    assert damaged.parent == path.parent
    assert damaged.is_file()
    with opened(path) as answers:
        there = {number for number in range(COUNT) if answers.get(key_of(number)) == expected(number)}
        assert answers.counts() == [("small", "describe", kept)]
    assert len(there) == kept < COUNT
    assert len(set(range(COUNT)) - hit - there) <= 2, "sqlite3 reads one row ahead, from either side"


def test_answers_between_two_damaged_pages_are_salvaged(path: Path) -> None:
    filled(path)
    data = path.read_bytes()
    pages = pages_with_answers(data)
    # Rows lie in the order of their keys, the pages in that of being filled.
    lowest = {page: min(key_of(number) for number in numbers_on(data, [page])) for page in pages}
    pages.sort(key=lambda page: lowest[page])
    damaged = [pages[len(pages) // 4], pages[3 * len(pages) // 4]]
    overwrite(path, damaged)
    kept, _ = salvage(path)
    # One neighbour of each may be looked for by way of it.
    assert kept >= COUNT - len(numbers_on(data, damaged)) - 2


def test_a_truncated_file_is_one_message_and_what_can_be_read_is_salvaged(path: Path) -> None:
    filled(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // PAGE // 2 * PAGE])
    for number, result in answers_or_message(path).items():
        assert result in (None, expected(number)) or "--salvage" in str(result)
    salvage(path)
    with opened(path) as answers:
        for number in range(COUNT):
            assert answers.get(key_of(number)) in (None, expected(number))


def test_a_flipped_bit_in_an_answer_makes_only_it_absent(path: Path) -> None:
    filled(path)
    flip(path, 7, 0x01)
    with opened(path) as answers:
        assert answers.get(key_of(7)) is None
        for number in set(range(COUNT)) - {7}:
            assert answers.get(key_of(number)) == expected(number)
        put(answers, 7)
        assert answers.get(key_of(7)) == expected(7)


def test_a_flipped_bit_that_leaves_no_text_makes_only_it_absent(path: Path) -> None:
    filled(path, 20)
    flip(path, 7, 0x80)
    with opened(path) as answers:
        assert answers.get(key_of(8)) == expected(8)
        assert answers.get(key_of(7)) is None


def test_answers_between_two_that_are_no_text_are_salvaged(path: Path) -> None:
    filled(path)
    order = sorted(range(COUNT), key=key_of)
    for number in (order[COUNT // 4], order[3 * COUNT // 4]):
        flip(path, number, 0x80)
    assert salvage(path)[0] == COUNT - 2


@pytest.mark.parametrize("damage", ["response = CAST(response AS BLOB)", "output = 'many'"])
def test_a_value_of_another_type_makes_only_its_answer_absent(path: Path, damage: str) -> None:
    filled(path, 20)
    other = sqlite3.connect(path)
    with other:
        other.execute(f"UPDATE answer SET {damage} WHERE key = ?", (key_of(7),))
    other.close()
    with opened(path) as answers:
        assert answers.get(key_of(7)) is None
        assert answers.get(key_of(8)) == expected(8)
    assert salvage(path)[0] == 19


@pytest.mark.parametrize("damage", ["usd = 0", "input = 1", "response = :other, sha256 = :digest"])
def test_an_answer_under_a_wrong_key_or_of_a_wrong_cost_is_absent(path: Path, damage: str) -> None:
    filled(path, 20)
    other = sqlite3.connect(path)
    with other:
        text, digest = other.execute("SELECT response, sha256 FROM answer WHERE key = ?", (key_of(8),)).fetchone()
        values = {"key": key_of(7), "other": text, "digest": digest}
        other.execute(f"UPDATE answer SET {damage} WHERE key = :key", values)
    other.close()
    with opened(path) as answers:
        assert answers.get(key_of(7)) is None


@pytest.mark.parametrize("name", [b"response TEXT", b"stored REAL", b"usd REAL"])
def test_a_damaged_schema_is_one_message_and_salvage_does_not_crash(path: Path, name: bytes) -> None:
    filled(path, 20)
    data = bytearray(path.read_bytes())
    for match in re.finditer(name, bytes(data[:PAGE])):
        data[match.start() + 1] |= 0x80
    path.write_bytes(bytes(data))
    for number, result in answers_or_message(path).items():
        assert result in (None, expected(number)) or "--salvage" in str(result)
    salvage(path)
    with opened(path) as answers:
        assert answers.get(key_of(7)) in (None, expected(7))


def test_salvage_leaves_out_what_is_not_what_was_paid_for(path: Path) -> None:
    filled(path)
    flip(path, 7, 0x01)
    kept, _ = salvage(path)
    assert kept == COUNT - 1
    with opened(path) as answers:
        assert answers.get(key_of(7)) is None


def test_salvage_of_a_whole_store_loses_nothing_and_keeps_the_old_one(path: Path) -> None:
    filled(path, 50)
    data = path.read_bytes()
    kept, damaged = salvage(path)
    assert kept == 50
    assert damaged.read_bytes() == data
    with opened(path) as answers:
        assert all(answers.get(key_of(number)) == expected(number) for number in range(50))
        assert answers.spent() == (pytest.approx(50 * USD), 50 * USAGE.total)


def test_salvage_keeps_all_that_was_spent(path: Path) -> None:
    filled(path, 20)
    with opened(path) as answers:
        put(answers, 7)
        answers.prune(model="none of these")
        answers.put("other", "judge", "old", response(0), USAGE, USD)
        answers.prune(model="old")
        before = answers.spent()
    salvage(path)
    with opened(path) as answers:
        assert answers.spent() == before


def test_salvage_keeps_open_batches(path: Path) -> None:
    filled(path, 20)
    with opened(path) as answers:
        answers.open_batch("b1", ["k1", "k2"])
    salvage(path)
    with opened(path) as answers:
        assert answers.open_batches() == {"b1": ["k1", "k2"]}


def test_salvage_keeps_the_age_of_answers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(module, "time", clock(1e9))
        filled(path, 5)
    salvage(path)
    with opened(path) as answers:
        assert answers.prune(older_than_days=30) == 5


def test_salvage_takes_along_what_is_still_in_the_write_ahead_log(path: Path) -> None:
    with opened(path) as answers:
        put(answers, 1)
        wal = path.with_name(path.name + "-wal")
        files = {name: name.read_bytes() for name in (path, wal)}
    for name, data in files.items():
        name.write_bytes(data)
    assert marker(1) not in path.read_bytes()
    assert salvage(path)[0] == 1


def test_a_store_is_sound_until_anything_in_it_is_damaged(path: Path) -> None:
    filled(path)
    assert is_sound(path)
    data = path.read_bytes()
    flip(path, 7, 0x01)
    assert not is_sound(path)
    path.write_bytes(data)
    assert is_sound(path)
    overwrite(path, pages_with_answers(data)[:1])
    assert not is_sound(path)
    for name in (b"stored REAL", b"usd REAL", b"CREATE TABLE"):
        path.write_bytes(data.replace(name, b"X" + name[1:]))
        assert not is_sound(path)
    path.write_bytes(b"no database at all")
    assert not is_sound(path)


def test_salvage_of_nothing_is_one_message(path: Path) -> None:
    with pytest.raises(IndusCotError, match="no store of answers"):
        salvage(path)
    assert not path.exists()


# Other processes


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
    Answers(path).close()
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
        Answers(path).close()
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
            assert answers.spend()[0].answers >= count
    assert kept == sorted(set(kept))


def test_a_disk_that_fills_up_is_one_message_and_loses_nothing(path: Path) -> None:
    # The writer meets a limit on the size of its files, as it would meet the end of a disk.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "import schemas.errors\n" + WRITER.replace("answers.put(", "put(")
    ).replace(
        "answers = Answers(Path(path))",
        "answers = Answers(Path(path))\n"
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

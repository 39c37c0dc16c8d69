"""A store damaged on disk: the answers that are lost, and those that `cache --salvage` recovers."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cot_builder.endpoint import store as module
from cot_builder.endpoint.store import AnswerStore, StoredAnswer, is_intact, salvage
from schemas.errors import IndusCotError
from tests.helpers.answer_store import (
    COUNT,
    USAGE,
    USD,
    expected_answer,
    fill_store,
    make_clock,
    make_key,
    make_marker,
    make_response,
    open_store,
    put_answer,
)

PAGE = 4096
LEAF = 0x0A
"""First byte of a leaf page of a table (SQLite file format, section 1.6)."""


def pages_with_answers(data: bytes) -> list[int]:
    """Leaf pages that contain answers."""
    found = {match.start() // PAGE for match in re.finditer(rb"<answer \d{4}>", data)}
    return sorted(page for page in found if data[page * PAGE] == LEAF)


def numbers_on(data: bytes, pages: list[int]) -> set[int]:
    """Numbers of the answers that are stored at least partly on ``pages``."""
    text = b"".join(data[page * PAGE : (page + 1) * PAGE] for page in pages)
    return {int(number) for number in re.findall(rb"<answer (\d{4})>", text)}


def overwrite(path: Path, pages: list[int], what: Callable[[int], bytes] = bytes) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(what(PAGE))


def flip(path: Path, number: int, bit: int) -> None:
    """Flip one bit in the text of an answer, at every place where the file contains it."""
    data = bytearray(path.read_bytes())
    places = [match.start() + 1 for match in re.finditer(re.escape(make_marker(number)), data)]
    assert places
    for place in places:
        data[place] ^= bit
    path.write_bytes(bytes(data))


@pytest.mark.slow
@pytest.mark.parametrize(
    "header",
    [b"\0" * 100, b"not a database, this one" * 4, b"SQLite format 3\0" + b"\xff" * 84],
    ids=["zeros", "text", "noise"],
)
def test_damaged_header_message_names_salvage(path: Path, header: bytes) -> None:
    fill_store(path, 20)
    overwrite(path, [0], lambda size: header + b"\0" * (size - len(header)))
    with pytest.raises(IndusCotError) as caught:
        AnswerStore(path)
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)
    assert "--salvage" in str(caught.value)
    kept, damaged = salvage(path)
    assert kept == 0
    assert damaged.is_file()
    with open_store(path) as answers:
        put_answer(answers, 1)


def answers_or_message(path: Path) -> dict[int, StoredAnswer | IndusCotError | None]:
    found: dict[int, StoredAnswer | IndusCotError | None] = {}
    try:
        with open_store(path) as answers:
            for number in range(COUNT):
                try:
                    found[number] = answers.get(make_key(number))
                except IndusCotError as error:
                    found[number] = error
    except IndusCotError as error:
        return dict.fromkeys(range(COUNT), error)
    return found


@pytest.mark.parametrize("what", [bytes, lambda size: b"\xaa" * size], ids=["zeros", "noise"])
def test_answers_outside_damaged_page_are_salvaged(path: Path, what: Callable[[int], bytes]) -> None:
    fill_store(path)
    data = path.read_bytes()
    pages = pages_with_answers(data)
    page = pages[len(pages) // 2]
    hit = numbers_on(data, [page])
    assert 0 < len(hit) < COUNT / 4
    overwrite(path, [page], what)
    found = answers_or_message(path)
    told = [result for result in found.values() if isinstance(result, IndusCotError)]
    # Looking up a neighbour in the parent page may read the damaged page too.
    assert 0 < len(told) <= len(hit) + 2
    for error in told:
        assert str(path) in str(error)
        assert "--salvage" in str(error)
    for number, result in found.items():
        assert (
            isinstance(result, IndusCotError) or result == expected_answer(number) or (result is None and number in hit)
        )
    kept, damaged = salvage(path)
    assert damaged.parent == path.parent
    assert damaged.is_file()
    with open_store(path) as answers:
        there = {number for number in range(COUNT) if answers.get(make_key(number)) == expected_answer(number)}
        assert answers.counts() == [("small", "describe", kept)]
    assert len(there) == kept < COUNT
    assert len(set(range(COUNT)) - hit - there) <= 2, "sqlite3 reads one row ahead, on either side"


def test_answers_between_damaged_pages_are_salvaged(path: Path) -> None:
    fill_store(path)
    data = path.read_bytes()
    pages = pages_with_answers(data)
    # Rows are ordered by key, pages by the time when they were filled.
    lowest = {page: min(make_key(number) for number in numbers_on(data, [page])) for page in pages}
    pages.sort(key=lambda page: lowest[page])
    damaged = [pages[len(pages) // 4], pages[3 * len(pages) // 4]]
    overwrite(path, damaged)
    kept, _ = salvage(path)
    # Looking up one neighbour of each damaged page may read that page.
    assert kept >= COUNT - len(numbers_on(data, damaged)) - 2


def test_truncated_file_can_be_salvaged(path: Path) -> None:
    fill_store(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // PAGE // 2 * PAGE])
    for number, result in answers_or_message(path).items():
        assert result in (None, expected_answer(number)) or "--salvage" in str(result)
    salvage(path)
    with open_store(path) as answers:
        for number in range(COUNT):
            assert answers.get(make_key(number)) in (None, expected_answer(number))


def test_flipped_bit_hides_only_its_answer(path: Path) -> None:
    fill_store(path)
    flip(path, 7, 0x01)
    with open_store(path) as answers:
        assert answers.get(make_key(7)) is None
        for number in set(range(COUNT)) - {7}:
            assert answers.get(make_key(number)) == expected_answer(number)
        put_answer(answers, 7)
        assert answers.get(make_key(7)) == expected_answer(7)


def test_invalid_utf8_hides_only_its_answer(path: Path) -> None:
    fill_store(path, 20)
    flip(path, 7, 0x80)
    with open_store(path) as answers:
        assert answers.get(make_key(8)) == expected_answer(8)
        assert answers.get(make_key(7)) is None


def test_answers_between_invalid_utf8_are_salvaged(path: Path) -> None:
    fill_store(path)
    order = sorted(range(COUNT), key=make_key)
    for number in (order[COUNT // 4], order[3 * COUNT // 4]):
        flip(path, number, 0x80)
    assert salvage(path)[0] == COUNT - 2


@pytest.mark.parametrize("damage", ["response = CAST(response AS BLOB)", "output = 'many'"])
def test_wrong_column_type_hides_only_its_answer(path: Path, damage: str) -> None:
    fill_store(path, 20)
    other = sqlite3.connect(path)
    with other:
        other.execute(f"UPDATE answer SET {damage} WHERE key = ?", (make_key(7),))
    other.close()
    with open_store(path) as answers:
        assert answers.get(make_key(7)) is None
        assert answers.get(make_key(8)) == expected_answer(8)
    assert salvage(path)[0] == 19


@pytest.mark.parametrize("damage", ["usd = 0", "input = 1", "response = :other, sha256 = :digest"])
def test_wrong_key_or_cost_hides_answer(path: Path, damage: str) -> None:
    fill_store(path, 20)
    other = sqlite3.connect(path)
    with other:
        text, digest = other.execute("SELECT response, sha256 FROM answer WHERE key = ?", (make_key(8),)).fetchone()
        values = {"key": make_key(7), "other": text, "digest": digest}
        other.execute(f"UPDATE answer SET {damage} WHERE key = :key", values)
    other.close()
    with open_store(path) as answers:
        assert answers.get(make_key(7)) is None


@pytest.mark.parametrize("name", [b"response TEXT", b"stored REAL", b"usd REAL"])
def test_salvage_survives_damaged_schema(path: Path, name: bytes) -> None:
    fill_store(path, 20)
    data = bytearray(path.read_bytes())
    for match in re.finditer(name, bytes(data[:PAGE])):
        data[match.start() + 1] |= 0x80
    path.write_bytes(bytes(data))
    for number, result in answers_or_message(path).items():
        assert result in (None, expected_answer(number)) or "--salvage" in str(result)
    salvage(path)
    with open_store(path) as answers:
        assert answers.get(make_key(7)) in (None, expected_answer(7))


def test_salvage_drops_answers_with_wrong_checksum(path: Path) -> None:
    fill_store(path)
    flip(path, 7, 0x01)
    kept, _ = salvage(path)
    assert kept == COUNT - 1
    with open_store(path) as answers:
        assert answers.get(make_key(7)) is None


def test_salvage_of_intact_store_loses_nothing(path: Path) -> None:
    fill_store(path, 50)
    data = path.read_bytes()
    kept, damaged = salvage(path)
    assert kept == 50
    assert damaged.read_bytes() == data
    with open_store(path) as answers:
        assert all(answers.get(make_key(number)) == expected_answer(number) for number in range(50))
        assert answers.spent() == (pytest.approx(50 * USD), 50 * USAGE.total)


def test_salvage_keeps_spend(path: Path) -> None:
    fill_store(path, 20)
    with open_store(path) as answers:
        put_answer(answers, 7)
        answers.prune(model="none of these")
        answers.put("other", "judge", "old", make_response(0), USAGE, USD)
        answers.prune(model="old")
        before = answers.spent()
    salvage(path)
    with open_store(path) as answers:
        assert answers.spent() == before


def test_salvage_keeps_open_batches(path: Path) -> None:
    fill_store(path, 20)
    with open_store(path) as answers:
        answers.open_batch("b1", ["k1", "k2"])
    salvage(path)
    with open_store(path) as answers:
        assert answers.open_batches() == {"b1": ["k1", "k2"]}


def test_salvage_keeps_answer_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(module, "time", make_clock(1e9))
        fill_store(path, 5)
    salvage(path)
    with open_store(path) as answers:
        assert answers.prune(older_than_days=30) == 5


def test_salvage_reads_write_ahead_log(path: Path) -> None:
    with open_store(path) as answers:
        put_answer(answers, 1)
        wal = path.with_name(path.name + "-wal")
        files = {name: name.read_bytes() for name in (path, wal)}
    for name, data in files.items():
        name.write_bytes(data)
    assert make_marker(1) not in path.read_bytes()
    assert salvage(path)[0] == 1


def test_is_intact_detects_any_damage(path: Path) -> None:
    fill_store(path)
    assert is_intact(path)
    data = path.read_bytes()
    flip(path, 7, 0x01)
    assert not is_intact(path)
    path.write_bytes(data)
    assert is_intact(path)
    overwrite(path, pages_with_answers(data)[:1])
    assert not is_intact(path)
    for name in (b"stored REAL", b"usd REAL", b"CREATE TABLE"):
        path.write_bytes(data.replace(name, b"X" + name[1:]))
        assert not is_intact(path)
    path.write_bytes(b"no database at all")
    assert not is_intact(path)


def test_salvage_without_store_is_reported(path: Path) -> None:
    with pytest.raises(IndusCotError, match="no answer store found"):
        salvage(path)
    assert not path.exists()

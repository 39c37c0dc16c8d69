"""A store that is damaged on disk: which answers are lost, and what `cache --salvage` saves."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cot_builder.endpoint import store as module
from cot_builder.endpoint.store import AnswerStore, StoredAnswer, is_intact, salvage
from schemas.errors import IndusCotError
from tests.helpers.answer_store import COUNT, USAGE, USD, clock, expected, filled, key_of, marker, opened, put, response

PAGE = 4096
LEAF = 0x0A
"""First byte of a page of rows at the bottom of a tree (SQLite file format, 1.6)."""


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


@pytest.mark.parametrize(
    "header",
    [b"\0" * 100, b"not a database, this one" * 4, b"SQLite format 3\0" + b"\xff" * 84],
    ids=["zeros", "text", "noise"],
)
def test_a_damaged_header_is_one_message_that_names_the_way_out(path: Path, header: bytes) -> None:
    filled(path, 20)
    overwrite(path, [0], lambda size: header + b"\0" * (size - len(header)))
    with pytest.raises(IndusCotError) as caught:
        AnswerStore(path)
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)
    assert "--salvage" in str(caught.value)
    kept, damaged = salvage(path)
    assert kept == 0
    assert damaged.is_file()
    with opened(path) as answers:
        put(answers, 1)


def answers_or_message(path: Path) -> dict[int, StoredAnswer | IndusCotError | None]:
    found: dict[int, StoredAnswer | IndusCotError | None] = {}
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


def test_salvage_of_nothing_is_one_message(path: Path) -> None:
    with pytest.raises(IndusCotError, match="no answer store found"):
        salvage(path)
    assert not path.exists()

"""Tests `indus-cot show`: it finds a trajectory, prints it, and opens it."""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cot_builder.corpus.reading import read_ids, read_rows
from eval.report.show import show
from schemas.errors import IndusCotError
from schemas.indus_cot import IndusCot
from tests.helpers.small_corpus import HOSTILE, build


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("show")).indus_cot


@pytest.fixture(scope="module")
def rows(corpus: Path) -> list[IndusCot]:
    return list(read_rows(corpus, [place for _, _, place in read_ids(corpus)]))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the terminal wide enough that no expected text is wrapped."""
    monkeypatch.setenv("COLUMNS", "400")


def test_show_prints_every_turn(corpus, rows, wide, capsys):
    row = next(row for row in rows if len(row.tool_calls) == 4 and row.answer == "Yes")
    show(corpus, row.id, False)
    printed = capsys.readouterr().out
    order = [
        row.id, f"{row.category}, view {row.view}", row.sample_id, row.split, "not reviewed by a person",
        f"200 x 160 px PNG, sha256 {row.image_sha256}", "thought 1", "crop", "[200, 0, 600, 700]",
        "Crop of [200, 0, 600, 700]", "px PNG, sha256", "thought 2", "prior", "category", row.category,
        "thought 3", "enhance", "clahe", "thought 4", "measure", "[[100, 200], [800, 400], [500, 900]]", "grey",
        "it ends", "Yes", row.defect_type, str(list(row.boxes[0])), "licence unknown",
    ]  # fmt: skip
    places, start = [], 0
    for text in order:
        start = printed.find(text, start)
        places.append((text, start >= 0))
    assert all(found for _, found in places), places
    assert "<think>" not in printed and "\x1b" not in printed


def test_show_prints_no_and_refused_call(corpus, rows, wide, capsys):
    show(corpus, next(row.id for row in rows if row.answer == "No"), False)
    printed = capsys.readouterr().out
    assert "No defect" in printed and "Yes" not in printed
    show(corpus, next(row.id for row in rows if "error:" in row.trajectory), False)
    assert "error: region must be" in capsys.readouterr().out


def test_control_characters_are_replaced(corpus, rows, wide, tmp_path, capsys):
    hostile = next(row for row in rows if HOSTILE in row.tagged)
    show(corpus, hostile.id, False)
    assert HOSTILE in capsys.readouterr().out
    text = hostile.trajectory.replace("it ends", r"\u001b[31m[bold]it ends[/bold]\u0007")
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    path = next(path for path in copy.glob("data/*.parquet") if hostile.id in pl.read_parquet(path)["id"])
    table = pq.read_table(path)
    values = [
        text if name == hostile.id else old
        for name, old in zip(*(table[c].to_pylist() for c in ("id", "trajectory")), strict=True)
    ]
    pq.write_table(table.set_column(table.schema.get_field_index("trajectory"), "trajectory", pa.array(values)), path)
    show(copy, hostile.id, False)
    assert "\ufffd[31m[bold]it ends[/bold]\ufffd" in capsys.readouterr().out


@pytest.mark.parametrize("part", [lambda row: row.id[:12], lambda row: row.sample_id, lambda row: row.sample_id[-10:]])
def test_partial_id_is_enough(corpus, rows, wide, capsys, part):
    show(corpus, part(rows[3]), False)
    assert rows[3].sample_id in capsys.readouterr().out


def test_full_id_wins_over_partial(corpus, rows, tmp_path, wide, capsys):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    path = next(path for path in copy.glob("data/*.parquet") if rows[0].id in pl.read_parquet(path)["id"])
    table = pq.read_table(path)
    names = [rows[0].id + "more" if name == rows[1].id else name for name in table["id"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("id"), "id", pa.array(names)), path)
    show(copy, rows[0].id, False)
    assert rows[0].sample_id in capsys.readouterr().out


def test_empty_id_shows_random_row(corpus, rows, wide, capsys):
    show(corpus, "", False)
    printed = capsys.readouterr().out
    assert sum(row.sample_id in printed for row in rows) == 1


def test_several_matches_are_listed(corpus, rows):
    with pytest.raises(IndusCotError, match=r"matches 22 trajectories.*be more precise") as caught:
        show(corpus, "mine/", False)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 21 and lines[-1].strip() == "… and 2 more"
    assert all(re.fullmatch(r"  [0-9a-f]{16}  mine/\w+/[0-9a-f]{16}", line) for line in lines[:-1])


def test_no_match_suggests_similar_ids(corpus, rows):
    wrong = rows[0].id[:-1] + "#"
    with pytest.raises(IndusCotError, match=r"has that id.*similar ids") as caught:
        show(corpus, wrong, False)
    assert str(caught.value).splitlines()[1].strip() == rows[0].id


def test_missing_corpus_is_one_message(tmp_path):
    with pytest.raises(IndusCotError, match=r"no data/\*\.parquet"):
        show(tmp_path, "", False)


def test_open_writes_single_page(corpus, rows, tmp_path):
    row = next(row for row in rows if HOSTILE in row.tagged)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{tmp_path}/url"\n')
    browser.chmod(0o755)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "indus-cot"), "show", row.id, "--corpus", str(corpus), "--open"],
        env=os.environ | {"BROWSER": f"{browser} %s", "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    page = Path((tmp_path / "url").read_text().removeprefix("file://"))
    assert str(page) in done.stderr and page.parent == tmp_path
    source = page.read_text("utf-8")
    assert source.count("<article") == 1 and f'id="{row.id}"' in source
    assert "<script" not in source and "&lt;script&gt;" in source
    assert "script-src 'none'" in html.unescape(source)
    assert source.count("data:image/webp") == len(row.images)

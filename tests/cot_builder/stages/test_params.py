"""Tests of data/params.json and of the fingerprints of local sources."""

import json
import os
from pathlib import Path

import pytest

from cot_builder.params import load_params
from cot_builder.stages.params import fingerprint_source, write_params
from cot_builder.storage.workspace import Workspace
from indus_cot.doctor import run_checks
from tests.helpers.layouts import settings, write_folder
from tests.helpers.paths import ROOT


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    files = {"a/one.png": b"1", "b/two.png": b"2", "labels.csv": b"image,label\n", "labels.jsonl": b""}
    return write_folder(tmp_path / "photos", files)


@pytest.mark.parametrize("source", ["photos", "photos/labels.csv", "photos/labels.jsonl", "~/photos"])
def test_changed_files_change_the_fingerprint(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = fingerprint_source(source)
    assert fingerprint_source(source) == before
    (photos / "b" / "two.png").write_bytes(b"another")
    changed = fingerprint_source(source)
    (photos / "b" / "three.png").write_bytes(b"3")
    assert len({before, changed, fingerprint_source(source)}) == 3


def test_archive_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(b"1")
    before = fingerprint_source(str(path))
    (tmp_path / "beside.png").write_bytes(b"2")
    assert fingerprint_source(str(path)) == before
    path.write_bytes(b"longer")
    assert fingerprint_source(str(path)) != before


def test_hidden_files_do_not_count(photos: Path) -> None:
    before = fingerprint_source(str(photos))
    (photos / ".#one.png").symlink_to("somebody@somewhere")
    (photos / ".cache").mkdir()
    (photos / ".cache" / "x").write_bytes(b"x")
    assert fingerprint_source(str(photos)) == before


def test_links_are_followed_without_loops(tmp_path: Path, photos: Path) -> None:
    elsewhere = write_folder(tmp_path / "elsewhere", {"c.png": b"3"})
    (photos / "linked").symlink_to(elsewhere)
    (photos / "a" / "again").symlink_to(photos)
    before = fingerprint_source(str(photos))
    (elsewhere / "c.png").write_bytes(b"another")
    assert fingerprint_source(str(photos)) != before


def test_dangling_link_counts_by_name(photos: Path) -> None:
    before = fingerprint_source(str(photos))
    (photos / "gone.png").symlink_to(photos / "nowhere")
    assert fingerprint_source(str(photos)) != before


@pytest.mark.parametrize("source", ["https://example.org/" + "x" * 5000, "hf://datasets/owner/name", "synthetic"])
def test_remote_source_is_hashed_by_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert fingerprint_source(source) == fingerprint_source(source) != fingerprint_source(source + "y")


def test_params_file_contains_the_fingerprint(tmp_path: Path, photos: Path) -> None:
    params = load_params("default", settings("folder", str(photos)), ROOT)
    write_params(params, Workspace(tmp_path), {})
    written = json.loads(Workspace(tmp_path).params.read_text())
    assert written["pull"]["mine"]["fingerprint"] == [fingerprint_source(str(photos))]
    assert "compute" not in written


@pytest.mark.slow
def test_doctor_expands_the_home_folder(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(ROOT)
    run_checks("default", settings("folder", f"~{os.sep}photos"))
    shown = capsys.readouterr().out
    assert "~/photos" in shown
    assert "~/photos does not exist" not in shown

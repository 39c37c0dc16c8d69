"""Tests that stage output is atomic when a run is killed, fails or fills the disk."""

import errno
import gc
import importlib.metadata
import json
import multiprocessing
import os
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cot_builder.storage import shards
from cot_builder.storage.output import read_manifest, stage_output, write_bytes, write_text
from cot_builder.storage.shards import ShardReader, ShardWriter
from schemas.errors import IndusCotError

FACTS = {"stage": "select", "params": {"a": 1}, "inputs": {"b": "hash"}}


def write_output(target: Path, text: str, **options) -> None:
    with stage_output(target, **(FACTS | options)) as output:
        (output.path / "table").write_text(text)
        output.counts["rows"] = 3
        output.leave_out("damaged", "image 7", "cut short")


def test_output_has_manifest_and_left_out(tmp_path):
    write_output(tmp_path / "out", "one")
    manifest = read_manifest(tmp_path / "out")
    assert manifest["counts"] == {"rows": 3} and manifest["left_out"] == {"damaged": 1}
    assert manifest["params"] == {"a": 1} and manifest["inputs"] == {"b": "hash"} and manifest["seconds"] >= 0
    assert {"python", "indus-cot", "polars"} <= manifest["versions"].keys()
    assert (tmp_path / "out/left_out.csv").read_text().splitlines() == [
        "reason,item,detail",
        "damaged,image 7,cut short",
    ]


def test_strict_run_keeps_the_old_output(tmp_path):
    write_output(tmp_path / "out", "one")
    with pytest.raises(
        IndusCotError, match=r"image 7: damaged \(cut short\); run\.strict is true, so the stage stops here"
    ):
        write_output(tmp_path / "out", "two", strict=True)
    assert (tmp_path / "out/table").read_text() == "one"


def test_failed_stage_keeps_the_old_output(tmp_path):
    write_output(tmp_path / "out", "one")
    with pytest.raises(ZeroDivisionError), stage_output(tmp_path / "out", **FACTS) as output:
        (output.path / "table").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "out/table").read_text() == "one"
    assert not (tmp_path / ".out.partial").exists()


def _kill_self_inside(target: str) -> None:
    with stage_output(Path(target), **FACTS) as output:
        (output.path / "table").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_stage_keeps_the_old_output(tmp_path):
    write_output(tmp_path / "out", "one")
    child = multiprocessing.get_context("spawn").Process(target=_kill_self_inside, args=(str(tmp_path / "out"),))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (tmp_path / "out/table").read_text() == "one"
    with stage_output(tmp_path / "out", **FACTS) as output:
        assert [path.name for path in output.path.iterdir()] == [".request.json"]
    assert not (tmp_path / "out/table").exists()


def test_kill_between_renames_loses_nothing(tmp_path):
    write_output(tmp_path / "out", "one")
    (tmp_path / "out").rename(tmp_path / ".out.retired")
    with pytest.raises(ZeroDivisionError), stage_output(tmp_path / "out", **FACTS):
        raise ZeroDivisionError
    assert (tmp_path / "out/table").read_text() == "one"


def test_linked_output_is_replaced(tmp_path):
    write_output(tmp_path / "elsewhere", "one")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    for text in ("two", "three", "four"):
        write_output(tmp_path / "out", text)
        assert (tmp_path / "out/table").read_text() == text
    assert (tmp_path / "elsewhere/table").read_text() == "one"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".retired")]


def test_resume_needs_equal_settings(tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), stage_output(tmp_path / "out", resumable=True, **FACTS) as output:
            (output.path / "chunk").touch()
            raise ZeroDivisionError
    assert not capsys.readouterr().err
    with stage_output(tmp_path / "out", resumable=True, **(FACTS | {"params": {"a": 2}})) as output:
        assert not (output.path / "chunk").exists(), "other parameters must not reuse it"
        printed = " ".join(capsys.readouterr().err.split())
        assert (
            "the earlier run had other settings (params.a 1 -> 2); starting over" in printed and ".out.aside" in printed
        )
        assert (tmp_path / ".out.aside/chunk").exists(), "hours may be in it"
        (output.path / "chunk").touch()
    assert (tmp_path / "out/chunk").exists() and not (tmp_path / ".out.aside").exists()


def test_resume_needs_equal_versions(tmp_path, monkeypatch):
    def found() -> bool:
        with pytest.raises(ZeroDivisionError), stage_output(tmp_path / "out", resumable=True, **FACTS) as output:
            there = (output.path / "chunk").exists()
            (output.path / "chunk").touch()
            raise ZeroDivisionError
        return there

    assert [found(), found()] == [False, True]
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "polars" else version(name))
    assert [found(), found()] == [False, True]


def test_second_run_is_refused(tmp_path):
    with (
        stage_output(tmp_path / "out", **FACTS),
        pytest.raises(IndusCotError, match="another run is writing this folder"),
    ):
        write_output(tmp_path / "out", "two")


def test_output_of_another_stage_is_kept(tmp_path):
    write_output(tmp_path / "out", "one")
    with pytest.raises(IndusCotError, match=r"out: contains the output of select, which evaluate would delete"):
        write_output(tmp_path / "out", "two", stage="evaluate")
    assert (tmp_path / "out/table").read_text() == "one"
    # A command and its initial empty output can be written under different stage names.
    for verb in ("review", "review pull", "prior_review", "review pull"):
        write_output(tmp_path / "reviews", verb, stage=verb)
    assert (tmp_path / "reviews/table").read_text() == "review pull"


def test_failed_text_write_leaves_nothing(tmp_path, monkeypatch):
    write_text(tmp_path / "a.md", "old")

    def full(partial, _):
        assert partial.read_text() == "new"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.md", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.md", "old")]


def test_missing_manifest(tmp_path):
    with pytest.raises(IndusCotError, match="the stage has not finished"):
        read_manifest(tmp_path)


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a full disk cannot be made here: mounting a tmpfs is not allowed")
    yield folder
    # Unmount lazily: PyTorch keeps the unwritten file open as long as its exception exists.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("how", ["text", "shards", "table"])
def test_full_disk_keeps_the_old_output(tiny_disk, how):
    import polars as pl

    write_output(tiny_disk / "out", "one")
    full = pytest.raises(IndusCotError, match=r"the disk is full; nothing was changed")
    with full, stage_output(tiny_disk / "out", **FACTS) as output:
        if how == "text":
            (output.path / "table").write_bytes(bytes(8_000_000))
        elif how == "shards":
            with ShardWriter(output.path) as writer:
                for number in range(20):
                    writer.add(str(number), os.urandom(1_000_000))
        else:
            pl.DataFrame({"a": [os.urandom(1000) for _ in range(8000)]}).write_parquet(output.path / "a.parquet")
    assert (tiny_disk / "out/table").read_text() == "one"
    assert not (tiny_disk / ".out.partial").exists()


@pytest.mark.parametrize("by", ["python", "torch"])
def test_full_disk_keeps_resumable_work(tiny_disk, by):
    import torch

    other = tiny_disk / "other"
    other.write_bytes(bytes(1_000_000))
    kept = pytest.raises(
        IndusCotError, match=r"the disk is full; nothing was changed, and the finished part is kept in"
    )
    with kept, stage_output(tiny_disk / "out", resumable=True, **FACTS) as output:
        (output.path / "checkpoint").write_text("hours")
        if by == "torch":
            torch.save(torch.zeros(1_000_000), output.path / "next")
        else:
            (output.path / "next").write_bytes(bytes(4_000_000))
    other.unlink()
    with stage_output(tiny_disk / "out", resumable=True, **FACTS) as output:
        assert (output.path / "checkpoint").read_text() == "hours"


@settings(max_examples=25, deadline=None)
@given(files=st.lists(st.binary(max_size=300), min_size=1, max_size=40))
def test_shard_round_trip(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", 500)
        patch.setattr(shards, "SHARD_BYTES", 2000)
        with ShardWriter(folder) as writer:
            places = [writer.add(str(number), data) for number, data in enumerate(files)]
    reader = ShardReader(folder)
    assert [reader.get(*place) for place in places] == files
    stored = [item for shard in sorted({shard for shard, _ in places}) for item in reader.items(shard)]
    assert stored == [(str(number), data) for number, data in enumerate(files)]


def test_closed_reader_frees_its_memory(tmp_path):
    with ShardWriter(tmp_path) as writer:
        place = writer.add("a", b"x")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps on this system")
    gc.disable()
    try:
        reader = ShardReader(tmp_path)
        reader.get(*place)
        assert str(tmp_path) in maps.read_text()
        del reader
        assert str(tmp_path) not in maps.read_text()
    finally:
        gc.enable()


def test_missing_row_or_shard(tmp_path):
    with ShardWriter(tmp_path) as writer:
        shard, _ = writer.add("a", b"x")
    reader = ShardReader(tmp_path)
    with pytest.raises(IndusCotError, match="has 1 rows, so there is no row 1; run its stage again"):
        reader.get(shard, 1)
    with pytest.raises(IndusCotError, match="missing or damaged shard"):
        reader.get("nowhere.parquet", 0)
    damaged = tmp_path / shard
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(IndusCotError, match="missing or damaged shard"):
        ShardReader(tmp_path).get(shard, 0)


def test_manifest_is_indented_json(tmp_path):
    write_output(tmp_path / "out", "one")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["stage"] == "select"


def test_file_is_written_whole(tmp_path):
    path = tmp_path / "folder" / "file"
    write_text(path, "größer\n")
    write_bytes(path, b"\x00two")
    assert path.read_bytes() == b"\x00two" and [item.name for item in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch, step):
    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    write_text(path, "old")
    monkeypatch.setattr(os, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new", private=True)
    assert path.read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["file"]


def test_full_disk_leaves_no_partial_file(tiny_disk):
    write_text(tiny_disk / "file", "old")
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tiny_disk / "file", bytes(8_000_000))
    assert (tiny_disk / "file").read_text() == "old" and not list(tiny_disk.glob(".file.*"))


def test_private_file_permissions_and_sync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_text(tmp_path / "key", "secret", private=True)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600 and len(synced) == 1
    write_text(tmp_path / "page", "public")
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) & 0o044 and len(synced) == 1


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    texts = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(tmp_path / "file", text), texts * 4))
    assert (tmp_path / "file").read_text() in texts and [item.name for item in tmp_path.iterdir()] == ["file"]

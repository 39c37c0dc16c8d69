"""Tests that an interrupted `pull` keeps the old output and leaves no partial files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from tests.helpers.layouts import PulledSet, mvtec_files, picture, pull_set, settings, write_folder, write_tar
from tests.helpers.paths import ROOT


def test_damaged_archive_keeps_the_old_output(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "set.tar", mvtec_files())
    before = pull_set(tmp_path, "mvtec_ad", source)
    kept = {path.name: path.read_bytes() for path in before.folder.iterdir()}
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(IndusCotError, match=r"set\.tar: the archive is truncated or damaged"):
        pull_set(tmp_path, "mvtec_ad", source)
    source.write_bytes(whole)
    with pytest.raises(IndusCotError, match=r"set\.tar: its sha256 is"):
        pull_set(tmp_path, "mvtec_ad", source, sha256="0" * 64)
    assert {path.name: path.read_bytes() for path in before.folder.iterdir()} == kept


SCRIPT = """
import json, sys
from pathlib import Path
from cot_builder.params import load_params
from cot_builder.stages.pull import pull
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
try:
    pull("mine", load_params("default", json.loads(sys.argv[1]), Path(sys.argv[2])), Workspace(Path(sys.argv[3])))
except IndusCotError as error:
    print(error)
    sys.exit(1)
"""


def make_command(source: Path, root: Path) -> list[str]:
    chosen = json.dumps(settings("mvtec_ad", str(source)))
    return [sys.executable, "-c", SCRIPT, chosen, str(ROOT), str(root)]


def make_blocking_source(tmp_path: Path) -> tuple[Path, Path]:
    """Make a folder whose last image is a pipe, so that a pull blocks there until the test writes to it."""
    source = write_folder(tmp_path / "mvtec", mvtec_files())
    pipe = source / "bottle" / "train" / "good" / "999.png"
    os.mkfifo(pipe)
    return source, pipe


def test_killed_pull_leaves_nothing_visible(tmp_path: Path) -> None:
    source, pipe = make_blocking_source(tmp_path)
    before = pull_set(tmp_path, "mvtec_ad", write_folder(tmp_path / "old", mvtec_files("cable")))
    with subprocess.Popen(make_command(source, tmp_path), cwd=ROOT) as process:
        # Opening the pipe waits until the pull reads from it.
        end = os.open(pipe, os.O_WRONLY)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    os.close(end)
    assert process.returncode == -signal.SIGKILL
    assert set(before.samples["category"]) == {"cable"}
    again = PulledSet(Workspace(tmp_path), "mine")
    assert set(again.samples["category"]) == {"cable"}
    pipe.unlink()
    pipe.write_bytes(picture(50))
    after = pull_set(tmp_path, "mvtec_ad", source)
    assert after.counts["by_category"] == {"bottle": 6}
    hidden = [path.name for path in after.folder.parent.iterdir() if path.name.startswith(".")]
    assert [name for name in hidden if not name.endswith(".lock")] == []


@pytest.mark.slow
def test_two_runs_at_once(tmp_path: Path) -> None:
    source, pipe = make_blocking_source(tmp_path)
    with subprocess.Popen(make_command(source, tmp_path), cwd=ROOT) as process:
        with pipe.open("wb") as file:
            with pytest.raises(IndusCotError, match="another run is writing this folder"):
                pull_set(tmp_path, "mvtec_ad", write_folder(tmp_path / "other", mvtec_files()))
            file.write(picture(50))
        assert process.wait(30) == 0


def test_a_full_disk(tmp_path: Path) -> None:
    """Pull onto a RAM disk of 300 KB, in a separate mount namespace."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare command: a full disk cannot be made here")
    disk = tmp_path / "disk"
    disk.mkdir()
    in_namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=300k none '{disk}'"
    if subprocess.run([*in_namespace, mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here: a full disk cannot be made")
    big = {f"bottle/train/good/{n:03d}.png": picture(n, 200, 200) for n in range(5)}
    source = write_folder(tmp_path / "mvtec", big)
    script = f"{mount} && \"$@\"; code=$?; ls -A '{disk}/data/pull'; exit $code"
    run = subprocess.run(
        [*in_namespace, script, "sh", *make_command(source, disk)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 1, run.stderr
    assert "the disk is full; nothing was changed. Free some space and run `indus-cot pull` again" in run.stdout
    assert "Traceback" not in run.stderr
    assert run.stdout.splitlines()[1:] in ([], [".mine.lock"])

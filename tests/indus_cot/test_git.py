"""DVC in a project without a git repository, such as one downloaded as a ZIP file."""

import subprocess
import sys
from pathlib import Path

import pytest

from indus_cot.git import allow_missing_git


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    root = tmp_path / "Prüfung mit Leerzeichen"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").touch()
    (root / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo made > out\n    outs: [out]\n")
    return root


def run_repro(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_dvc_runs_without_git(downloaded: Path) -> None:
    (downloaded / ".dvc/config.local").write_text("[cache]\n    type = copy\n")
    assert "not a git repository" in run_repro(downloaded).stderr
    allow_missing_git(downloaded)
    done = run_repro(downloaded)
    assert done.returncode == 0, done.stderr
    assert (downloaded / "out").read_text() == "made\n"
    written = (downloaded / ".dvc/config.local").read_text()
    assert "type = copy" in written
    allow_missing_git(downloaded)
    assert (downloaded / ".dvc/config.local").read_text() == written


def test_git_repository_is_left_alone(downloaded: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=downloaded.parent, check=True)
    allow_missing_git(downloaded)
    assert not (downloaded / ".dvc/config.local").exists()

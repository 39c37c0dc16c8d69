"""Installation with `make`: supported Pythons and lock files."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock", "annotation/label-studio.lock")


def dry_run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # `--dry-run` only prints the steps. Unset variables by which an outer `make test` passes its options.
    command = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def write_fake_python(folder: Path, version: str) -> Path:
    """Write a script that claims to be a Python of the given version."""
    folder.mkdir(exist_ok=True)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$2" in *sysconfig*) echo {version};; *) echo "$0";; esac\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_make_refuses_other_pythons(version: str, tmp_path: Path) -> None:
    path = write_fake_python(tmp_path, version)
    done = dry_run_make(f"PYTHON={path}", "demo")
    assert done.returncode and not done.stdout
    (line,) = done.stderr.splitlines()
    assert f"Python 3.11, 3.12 or 3.13 is needed, and {path} is {version}: install one" in line


def test_make_names_a_missing_python() -> None:
    done = dry_run_make("PYTHON=python3.99", "demo")
    assert done.returncode and "python3.99 is not found" in done.stderr


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_make_takes_supported_pythons(version: str, tmp_path: Path) -> None:
    path = write_fake_python(tmp_path / "with a space", version)
    done = dry_run_make(f"PYTHON={path}", f"VENV={tmp_path.name}", "demo")
    assert done.returncode == 0, done.stderr
    assert f'find_python.sh "{path}"' in done.stdout


@pytest.mark.parametrize("name", LOCKS)
def test_locked_packages_have_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    packages = re.findall(r"^[\w.-]+==[^\n]*", text, re.MULTILINE)
    assert packages
    assert packages == re.findall(r"^([\w.-]+==[^\n]*\\)\n +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)


def test_locks_agree_for_all_pythons() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        for package in ("opencv-python-headless", "numpy", "label-studio-sdk"):
            assert len(re.findall(rf"^{package}==[\w.]+ \\$", text, re.MULTILINE)) == 1


def test_torch_has_separate_lock() -> None:
    of_torch = re.compile(r"^(torch==|nvidia-|cuda-|triton==)", re.MULTILINE)
    assert of_torch.findall((ROOT / "requirements-torch.lock").read_text()).count("torch==") == 1
    assert not of_torch.search((ROOT / "requirements.lock").read_text() + (ROOT / "requirements-dev.lock").read_text())

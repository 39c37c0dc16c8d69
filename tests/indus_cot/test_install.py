"""What `make` installs: under which Pythons, and from which locks."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock", "annotation/label-studio.lock")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # `--dry-run` prints the steps; an outer `make test` hands on its own options.
    command = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def python(folder: Path, version: str) -> Path:
    """A stand-in that claims to be a Python of a version."""
    folder.mkdir(exist_ok=True)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$2" in *sysconfig*) echo {version};; *) echo "$0";; esac\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_make_refuses_other_pythons(version: str, tmp_path: Path) -> None:
    path = python(tmp_path, version)
    done = make(f"PYTHON={path}", "demo")
    assert done.returncode and not done.stdout
    (line,) = done.stderr.splitlines()
    assert f"Python 3.11, 3.12 or 3.13 is needed, and {path} is {version}: install one" in line


def test_make_names_a_missing_python() -> None:
    done = make("PYTHON=python3.99", "demo")
    assert done.returncode and "python3.99 is not found" in done.stderr


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_make_takes_supported_pythons(version: str, tmp_path: Path) -> None:
    path = python(tmp_path / "with a space", version)
    done = make(f"PYTHON={path}", f"VENV={tmp_path.name}", "demo")
    assert done.returncode == 0, done.stderr
    assert f'find_python.sh "{path}"' in done.stdout


@pytest.mark.parametrize("name", LOCKS)
def test_locks_have_a_hash_for_every_package(name: str) -> None:
    text = (ROOT / name).read_text()
    packages = re.findall(r"^[\w.-]+==[^\n]*", text, re.MULTILINE)
    assert packages
    assert packages == re.findall(r"^([\w.-]+==[^\n]*\\)\n +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)


def test_one_opencv_and_numpy_for_all_pythons() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        for package in ("opencv-python-headless", "numpy", "label-studio-sdk"):
            assert len(re.findall(rf"^{package}==[\w.]+ \\$", text, re.MULTILINE)) == 1


def test_torch_and_cuda_are_locked_apart() -> None:
    of_torch = re.compile(r"^(torch==|nvidia-|cuda-|triton==)", re.MULTILINE)
    assert of_torch.findall((ROOT / "requirements-torch.lock").read_text()).count("torch==") == 1
    assert not of_torch.search((ROOT / "requirements.lock").read_text() + (ROOT / "requirements-dev.lock").read_text())

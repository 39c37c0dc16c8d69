"""A copy of the product with files added, and Python run in it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT, new_project

FOUND = "found.json"
"""File in the copy in which a module leaves what it found."""


def copy_with(folder: Path, files: Mapping[str, str]) -> Path:
    """Copy the product, without its tests, into ``folder``, and write ``files`` (text by path) into the copy."""
    new_project(folder)
    for name, text in files.items():
        assert not (folder / name).exists(), f"{name} is there already"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run_module(copy: Path, module: str) -> Any:
    """Run a module of the tests over the code of ``copy``; returns what it wrote to :data:`FOUND`."""
    # The copy comes before the checkout, which has the tests, and before what is installed.
    paths = {"PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=copy, env=os.environ | ENVIRONMENT | paths, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((copy / FOUND).read_text(encoding="utf-8"))


def run_copy(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``copy``, with the copy's modules; what it printed and how it ended."""
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(copy)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )


def run_python(copy: Path, *arguments: str) -> str:
    """As :func:`run_copy`; what it printed, where it ended well."""
    done = run_copy(copy, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_command(copy: Path, *arguments: str) -> str:
    """`indus-cot` with the code of ``copy``, in it; what it prints."""
    return run_python(copy, "-m", "indus_cot", *arguments)

"""Copies the product with added files, and runs Python in the copy."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT, new_project

RESULT_FILE = "found.json"
"""File in the copy to which a module writes its results."""


def copy_with(folder: Path, files: Mapping[str, str]) -> Path:
    """Copy the product, without its tests, into ``folder``, and write ``files`` (text by path) into the copy."""
    new_project(folder)
    for name, text in files.items():
        assert not (folder / name).exists(), f"{name} exists already"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run_module(copy: Path, module: str) -> Any:
    """Run a module of the tests with the code of ``copy``; return the results that it wrote to :data:`RESULT_FILE`."""
    # The copy must come before the checkout, which has the tests, and before installed packages.
    paths = {"PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=copy, env=os.environ | ENVIRONMENT | paths, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((copy / RESULT_FILE).read_text(encoding="utf-8"))


def run_copy(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``copy`` with the copy's modules; return its output and exit code."""
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(copy)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )


def run_python(copy: Path, *arguments: str) -> str:
    """Run Python as :func:`run_copy` does, which must succeed; return its standard output."""
    done = run_copy(copy, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_command(copy: Path, *arguments: str) -> str:
    """Run `indus-cot` with the code of ``copy`` in the copy; return its standard output."""
    return run_python(copy, "-m", "indus_cot", *arguments)

"""A copy of the product's tree, to be changed and run: what a contributor's change does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT


def copy_product(folder: Path) -> Path:
    """Copy every file of the checkout but the tests to ``folder``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "bench/")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


def run_python(folder: Path, *arguments: str) -> str:
    """Run Python in a copied tree, whose packages it imports; what it prints.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

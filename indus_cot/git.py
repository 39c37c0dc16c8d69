"""Lets DVC run in a project without a git repository, such as one downloaded as a ZIP file."""

import subprocess
import sys
from pathlib import Path

from cot_builder.progress import console
from schemas.errors import IndusCotError

CONFIG = Path(".dvc/config.local")


def allow_missing_git(root: Path) -> None:
    """Configure DVC to work without git if ``root`` is in no repository; otherwise DVC would refuse to run.

    Raises:
        IndusCotError: DVC cannot write its settings.
    """
    root = root.resolve()
    if any((folder / ".git").exists() for folder in (root, *root.parents)) or not (root / ".dvc").is_dir():
        return
    config = root / CONFIG
    if config.is_file() and "no_scm" in config.read_text(encoding="utf-8"):
        return
    command = [sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise IndusCotError(
            f"{root}: no git repository, and DVC could not be configured to work without one "
            f"({' '.join(done.stderr.split())[:200]}); run `git init` here"
        )
    console.print(f"no git repository here: DVC works without one ({CONFIG}: core.no_scm)", highlight=False)

"""A project folder of its own to run the real command in, as a user would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNTRAINED = (
    "sft.steps=1", "grpo.steps=1", "grpo.group=2", "grpo.batch=2", "grpo.max_completion=32", "evaluate.policy=residual",
    "evaluate.draws=20",
)  # fmt: skip
"""Both trainings run, for one step each, and teach nothing; what is evaluated is no model."""
SMALL = (
    "synthetic.categories=6", "synthetic.parts=8", "synthetic.views=2", "synthetic.size=256", "select.samples=60",
    *UNTRAINED,
)  # fmt: skip
# One thread: the other worker has the other core.
ENVIRONMENT = {"COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
REAL = Path(os.environ.get("INDUS_COT_REAL_DATA", ROOT.parent / "shared" / "real"))


def new_project(folder: Path) -> Path:
    """Copy the checkout's files (not its data) into ``folder`` and make it a git repository, which DVC asks for."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("tests/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def command(*arguments: str, settings: tuple[str, ...] = SMALL, profile: str = "default") -> list[str]:
    """The `indus-cot` command line."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "cot_builder", "--profile", profile, *chosen, *arguments]


def run(
    project: Path, *arguments: str, settings: tuple[str, ...] = SMALL, profile: str = "default", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `indus-cot` in ``project`` and capture what it prints."""
    return subprocess.run(
        command(*arguments, settings=settings, profile=profile),
        cwd=project,
        env=os.environ | ENVIRONMENT | {"HF_DATASETS_CACHE": str(project / "hf")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )

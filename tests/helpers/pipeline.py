"""Creates project folders and runs the real command in them, as a user would."""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping
from io import StringIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from cot_builder.params import load_params
from indus_cot.app import main
from tests.helpers.paths import ROOT

PRELOADED = ("tests.helpers.pipeline", "cot_builder.stages.draft", "cot_builder.endpoint.run", "openai")

UNTRAINED = (
    "sft.steps=1", "grpo.steps=1", "grpo.group=2", "grpo.batch=2", "grpo.max_completion=32", "evaluate.policy=residual",
    "evaluate.draws=20",
)  # fmt: skip
"""Both trainings run one step each, which teaches nothing; a policy without a model is evaluated."""
SMALL = (
    "synthetic.categories=6", "synthetic.parts=8", "synthetic.views=2", "synthetic.size=256", "select.samples=60",
    *UNTRAINED,
)  # fmt: skip
# Use one thread: the other test worker uses the other core.
ENVIRONMENT = {"COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def new_project(folder: Path) -> Path:
    """Copy the checkout's files (not its data) into ``folder`` and make it a git repository, which DVC requires.

    Leave out dvc.lock, which `make demo` writes: it names data that the copy lacks.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and name != "dvc.lock" and (ROOT / name).is_file() and not name.startswith("tests/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def command(*arguments: str, settings: tuple[str, ...] = SMALL, profile: str = "default") -> list[str]:
    """Return the command line of `indus-cot`."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "indus_cot", "--profile", profile, *chosen, *arguments]


def run(
    project: Path, *arguments: str, settings: tuple[str, ...] = SMALL, profile: str = "default", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `indus-cot` in ``project`` and return its output.

    Only `repro` starts a new process, since a process takes seconds to import its modules.
    """
    if "repro" in arguments:
        return run_in_process(project, *arguments, settings=settings, profile=profile, **environment)
    line = command(*arguments, settings=settings, profile=profile)
    environment = _environment(project, environment)
    out, err = StringIO(), StringIO()
    with (
        contextlib.chdir(project),
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(line[3:])
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(line, int(code or 0), out.getvalue(), err.getvalue())


def run_in_process(
    project: Path, *arguments: str, settings: tuple[str, ...] = SMALL, profile: str = "default", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `indus-cot` in a new process, for tests that run commands at the same time or in threads."""
    line = command(*arguments, settings=settings, profile=profile)
    return subprocess.run(
        line, cwd=project, env=_environment(project, environment), capture_output=True, text=True, check=False
    )


def _environment(project: Path, more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, "HF_DATASETS_CACHE": str(project / "hf"), **more}


def make(
    project: Path, *verbs: str, settings: tuple[str, ...] = SMALL, profile: str = "default", **environment: str
) -> None:
    """Run the verbs that `repro` would run, one after the other, without DVC, which starts a process for each."""
    sets = load_params(root=project).pull
    names = {"pull": list(sets), "evaluate": [name for name, source in sets.items() if source.role == "evaluate"]}
    for verb in verbs:
        for name in names.get(verb, [""]):
            done = run(project, *filter(None, (verb, name)), settings=settings, profile=profile, **environment)
            assert done.returncode == 0, done.stdout + done.stderr


def start_forked(project: Path, *arguments: str, settings: tuple[str, ...] = SMALL, **environment: str) -> BaseProcess:
    """Start `indus-cot` in a process that a test can kill; fork it from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    line = command(*arguments, settings=settings)[3:]
    process = context.Process(target=_run_forked, args=(project, line, os.environ | ENVIRONMENT | environment))
    process.start()
    return process


def _run_forked(project: Path, line: list[str], environment: dict[str, str]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    os.chdir(project)
    os.environ.update(environment)
    main(line)

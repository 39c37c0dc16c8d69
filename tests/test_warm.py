"""The server that `indus-cot repro` starts its stages from: a stage behaves as if DVC had started it itself."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from label_studio_server import poll

from cot_builder import warm

Waiting = tuple["subprocess.Popen[str]", psutil.Process, socket.socket]
WAITS = """
import os, subprocess, sys, time
while not os.path.exists(os.environ["INDUS_COT_WARM"]):
    time.sleep(0.05)
sys.exit(subprocess.run([sys.executable, "-m", "cot_builder", "params"]).returncode)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[psutil.Process]:
    """It listens, and every command of a test is told of it."""
    path = Path(warm.start())
    (process,) = (child for child in psutil.Process().children() if str(path) in child.cmdline())
    poll(path.exists, 300)
    os.environ[warm.VARIABLE] = str(path)
    yield process
    del os.environ[warm.VARIABLE]
    process.kill()
    process.wait()
    shutil.rmtree(path.parent)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cot_builder", *arguments]


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments), cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = Path(__file__).parent.parent
    for name in ("params.yaml", "profiles"):
        (tmp_path / name).symlink_to(root / name)
    return tmp_path


@pytest.fixture
def waiting(server: psutil.Process, project: Path) -> Iterator[Waiting]:
    """A command whose stage waits for an answer that does not come; the stage; the connection it waits at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mvtec.tar"
        command = subprocess.Popen(
            _command("--set", f"pull.mvtec_ad.source={url}", "pull", "mvtec_ad"),
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = listener.accept()
        connection.settimeout(60)
        (stage,) = server.children()
        yield command, stage, connection
        command.kill()
        command.wait()


def test_a_stage_has_the_folder_streams_environment_and_exit_code_of_its_command(server, project):
    done = _run(project, "params", INDUS_COT_SET="run.seed=11")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"seed": 11' in (project / "data/params.json").read_text()
    refused = _run(project, "pull", "nothing")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: pull nothing: not in the pull section")
    assert _run(project, "no-such-verb").returncode == 2
    assert "usage" in _run(project, "pull", "--help").stdout.lower()


def test_who_kills_the_command_kills_its_stage(waiting):
    command, stage, connection = waiting
    command.kill()
    while connection.recv(4096):
        pass
    stage.wait(60)


def test_a_stage_that_is_killed_is_told_as_a_shell_would(waiting):
    command, stage, _ = waiting
    stage.kill()
    assert command.wait(60) == 128 + signal.SIGKILL


def test_ctrl_c_ends_the_stage_with_its_own_word(waiting):
    command, stage, _ = waiting
    for process in (command, stage):
        process.send_signal(signal.SIGINT)
    _, told = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "interrupted" in told


def test_without_a_server_a_command_runs_by_itself(project):
    done = _run(project, "params", **{warm.VARIABLE: str(project / "nobody")})
    assert done.returncode == 0
    assert (project / "data/params.json").is_file()


def test_repro_hands_its_stages_over_and_its_server_ends_with_it(project):
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=project, check=True)
    (project / "waits.py").write_text(WAITS)
    (project / "dvc.yaml").write_text(
        f"stages:\n  waits:\n    cmd: echo $INDUS_COT_WARM > socket; {sys.executable} waits.py\n    always_changed: true\n"
    )
    done = _run(project, "--set", "run.seed=12", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"seed": 12' in (project / "data/params.json").read_text()
    path = Path((project / "socket").read_text().strip())
    poll(lambda: not path.parent.exists())

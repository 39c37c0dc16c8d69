"""Tests that `indus-cot draft` resumes after a kill, an interrupt or a used-up budget without repeated requests."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from cot_builder.endpoint.store import AnswerStore, answer_store_path
from tests.helpers.drafting import CONCURRENCY, KEY, compute_key, endpoint_settings, read_drafts, run_draft
from tests.helpers.pipeline import command, run, start_forked
from tests.helpers.scripted_teacher import answer_form
from tests.servers.chat_server import ChatServer, chat_server

KILLS = 20


def start_draft(project: Path, server: ChatServer, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("draft", settings=endpoint_settings(server, "teacher.judge_readings=1", *more)),
        cwd=project,
        env=os.environ | {"OPENAI_API_KEY": KEY, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def list_stored_keys(project: Path, bodies: list[dict[str, Any]]) -> set[str]:
    answers = AnswerStore(answer_store_path(project))
    kept = {key for body in bodies if answers.has(key := compute_key(body))}
    answers.close()
    return kept


@pytest.mark.slow
def test_random_kills_repeat_no_request(project: Path, tmp_path: Path) -> None:
    calm = Path(shutil.copytree(project, tmp_path / "calm", symlinks=True))
    with chat_server(answer_form) as server:
        assert run_draft(calm, server, more=("teacher.judge_readings=1",)).returncode == 0
        whole = len(server.requests)
    dice = random.Random(5)
    running: BaseProcess | None = None
    countdown = 0

    def killing(body: dict[str, Any]) -> dict[str, Any]:
        # Kill when a request arrives, so that kills happen between all steps of the run.
        nonlocal countdown
        countdown -= 1
        if countdown == 0 and running is not None:
            running.kill()
        return answer_form(body)

    kills = 0
    with chat_server(killing, latency_s=0.005) as server:
        while kills < KILLS:
            before, answered = len(server.requests), len(server.answered)
            stored = list_stored_keys(project, server.requests)
            countdown = dice.randint(1, max(2, whole // KILLS))
            judged = endpoint_settings(server, "teacher.judge_readings=1")
            running = start_forked(project, "draft", settings=judged, OPENAI_API_KEY=KEY)
            running.join()
            if running.exitcode == 0:
                break
            assert running.exitcode == -signal.SIGKILL
            kills += 1
            new = server.requests[before:]
            assert not {compute_key(body) for body in new} & stored
            lost = {compute_key(body) for body in server.answered[answered:]} - list_stored_keys(project, new)
            assert len(lost) <= CONCURRENCY
        countdown = 0
        stored = list_stored_keys(project, server.requests)
        before = len(server.requests)
        ran = run_draft(project, server, more=("teacher.judge_readings=1",))
        assert ran.returncode == 0, ran.stderr
        assert not {compute_key(body) for body in server.requests[before:]} & stored
    assert kills >= KILLS // 2
    assert read_drafts(project).equals(read_drafts(calm))


def test_ctrl_c_keeps_requests_in_flight(project: Path) -> None:
    running: subprocess.Popen[str] | None = None
    interrupted = False

    def interrupting(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal interrupted
        if len(server.requests) >= 20 and running is not None and not interrupted:
            interrupted = True
            running.send_signal(signal.SIGINT)
        return answer_form(body)

    with chat_server(interrupting, latency_s=0.05) as server:
        running = start_draft(project, server)
        _, stderr = running.communicate(timeout=60)
        assert running.returncode == 130, stderr
        assert "stopping" in stderr
        assert stderr.splitlines()[-2:] == [
            "stopped; all answers are stored: run the same command to continue",
            "interrupted; no incomplete output was left behind",
        ]
        assert "Traceback" not in stderr
        stored = list_stored_keys(project, server.requests)
        assert stored == {compute_key(body) for body in server.requests}
        before = len(server.requests)
        assert not (project / "data/draft").exists()
        assert run_draft(project, server, more=("teacher.judge_readings=1",)).returncode == 0
        assert not {compute_key(body) for body in server.requests[before:]} & stored


def test_higher_budget_resumes_the_run(project: Path) -> None:
    with chat_server(answer_form) as server:
        stopped = run_draft(project, server, more=("budget.tokens=30000",))
        assert stopped.returncode == 1
        assert "budget limit reached" in stopped.stderr
        assert "budget.tokens=" in stopped.stderr
        assert 0 < server.tokens <= 30000
        assert not (project / "data/draft").exists()
        ran = run_draft(project, server)
        assert ran.returncode == 0, ran.stderr
        assert len({json.dumps(body, sort_keys=True) for body in server.requests}) == len(server.requests) - 24


def test_second_endpoint_run_is_refused(project: Path) -> None:
    begun, release = threading.Event(), threading.Event()

    def holding(body: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        assert release.wait(60)
        return answer_form(body)

    with chat_server(holding) as server:
        first = start_draft(project, server)
        assert begun.wait(60)
        second = run(project, "prior", settings=endpoint_settings(server), OPENAI_API_KEY=KEY)
        release.set()
        _, stderr = first.communicate(timeout=120)
    assert first.returncode == 0, stderr
    assert second.returncode == 1
    assert "another run of this project is using the endpoint" in second.stderr
    assert "Traceback" not in second.stderr

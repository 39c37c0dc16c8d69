"""Faults between the command and a real Label Studio: one clear message, no data lost or duplicated, easy to resume."""

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import jwt
import polars as pl
import psutil
import pytest

import annotation.pull
import annotation.push
from annotation.project import MODEL_VERSION, QUEUE_TAB
from cot_builder.corpus.reviews import read_reviews
from cot_builder.storage.workspace import Workspace
from indus_cot.app import main
from schemas.sample import SAMPLE
from tests.helpers.pipeline import command, run_in_process
from tests.helpers.review_project import Project, Result, change_draft, edit_result, find_draft_ids
from tests.servers.fault_proxy import Fault, Proxy, run_proxy
from tests.servers.label_studio_server import STOP_S, Server

BATCH = 3
LEAK = "The ground truth mask says there is a scratch on it."


@pytest.fixture
def weather(project: Project) -> Iterator[Proxy]:
    """A proxy for everything that the project's commands send. The priors are pushed already."""
    project.run_ok("review", "push", "--priors")
    with run_proxy(project.server.url) as between:
        project.settings = (*project.settings, f"review.url={between.url}")
        yield between


def run_here(project: Project, *verb: str, token: str = "", url: str = "") -> tuple[int, str]:
    """Run the command in this process, since a new one takes seconds; return its exit code and output."""
    settings = (*project.settings, f"review.url={url}") if url else project.settings
    chosen = [part for setting in settings for part in ("--set", setting)]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(project.folder):
        patch.setenv("LABEL_STUDIO_API_KEY", token or project.server.token)
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            pytest.raises(SystemExit) as ended,
        ):
            main([*chosen, *verb])
    return int(ended.value.code or 0), output.getvalue()


def run_failing(project: Project, *verb: str, token: str = "", url: str = "") -> str:
    """Run a command that must fail with one message and exit code 1; return its output."""
    code, text = run_here(project, *verb, token=token, url=url)
    assert code == 1, text
    assert text.count("error: ") == 1 and "Traceback" not in text and "<html" not in text, text
    return " ".join(text.split())


def run_ok(project: Project, *verb: str) -> str:
    """Run a command that must succeed; return its output."""
    code, text = run_here(project, *verb)
    assert code == 0, text
    return text


def check_project_is_complete(project: Project) -> None:
    """Check that there is one project, queue and storage, one task per draft, and one prediction per task."""
    titles = [item.title for item in project.client.projects.list(title=project.title)]
    assert sorted(titles) == [project.title, f"{project.title} · priors"]
    tasks = project.tasks()
    assert sorted(tasks) == project.drafts()["draft_id"].to_list()
    predictions = project.client.predictions.list(project=project.number)
    assert sorted(prediction.task for prediction in predictions) == sorted(task["id"] for task in tasks.values())
    assert {prediction.model_version for prediction in predictions} == {MODEL_VERSION}
    views = project.client.views.list(project=project.number)
    assert [dict(view.data)["title"] for view in views] == [QUEUE_TAB]
    assert len(project.client.import_storage.local.list(project=project.number)) == 1
    drafts = project.drafts().height
    assert f"0 tasks new, 0 updated, 0 repaired, {drafts} unchanged, 0 withdrawn" in run_ok(project, "review", "push")


def test_post_requests_are_not_retried(project: Project, weather: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Import one task per request, so that every push leaves enough tasks for the next.
    monkeypatch.setattr(annotation.push, "IMPORT_BATCH", 1)
    requests = (("/projects/$", 0), ("/views", 0), ("/localfiles", 0), ("/import", 0), ("/import", 1))
    # A request with a lost answer was executed, so it comes last.
    faults: tuple[Fault, ...] = ("cut", 502, "lost")
    for (path, passed), fault in itertools.product(requests, faults):
        weather.clear()
        plan = weather.at("POST", path, fault, after=passed, times=9)
        assert "Run the same command again" in run_failing(project, "review", "push")
        assert plan.hits == 1, (path, fault, weather.seen)
    weather.clear()
    run_ok(project, "review", "push")
    check_project_is_complete(project)


def test_repeatable_requests_are_retried(project: Project, weather: Proxy) -> None:
    project.run_ok("review", "push")
    accepted, leaking = find_draft_ids(project)[:2]
    project.review(accepted)
    project.review(leaking, edit_result("think_0", text=[LEAK]), "fixed")
    change_draft(project, accepted)
    requests = [("GET", "/api/projects"), ("GET", "/api/tasks"), ("GET", "/export"), ("GET", "/api/predictions")]
    requests += [("DELETE", "/api/annotations"), ("DELETE", "/api/predictions"), ("PATCH", "/api/tasks")]
    faults: tuple[Fault, ...] = ("cut", 502, "lost", 500, "lost", "lost", "lost")
    plans = [weather.at(*request, fault) for request, fault in zip(requests, faults, strict=True)]
    printed = run_ok(project, "review", "push")
    assert "1 updated" in printed and "1 reviews of changed drafts set aside" in printed
    assert [plan.hits for plan in plans] == [1] * len(plans), weather.seen
    assert project.reviews()[accepted].verdict == "accepted"
    assert LEAK in json.dumps(project.get_prefill(project.tasks()[leaking]["id"]))
    assert "leak:" in project.tasks()[leaking]["data"]["returned"]
    check_project_is_complete(project)


def test_server_error_midway_is_one_message(project: Project, weather: Proxy) -> None:
    refusals = {500: "answers 500", 401: "refuses the token", 403: "answers 403"}
    for verb in ("push", "pull"):
        for status, words in refusals.items():
            weather.at("POST|GET", "/import|/export", status, times=9)
            assert words in run_failing(project, "review", verb)
            weather.clear()
        run_ok(project, "review", verb)
        assert len(project.reviews()) == (verb == "pull")
        if verb == "push":
            project.review(find_draft_ids(project)[0])
    check_project_is_complete(project)


def test_interrupted_pull_changes_nothing(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    accepted, leaking = find_draft_ids(project)[:2]
    project.review(accepted)
    run_ok(project, "review", "pull")
    project.review(leaking, edit_result("think_0", text=[LEAK]), "fixed")
    before = (project.folder / "data/review/reviews.parquet").read_bytes()
    weather.at("GET", f"/{project.number}/export", "half", times=9)
    assert "cannot be reached" in run_failing(project, "review", "pull")
    assert (project.folder / "data/review/reviews.parquet").read_bytes() == before
    weather.clear()
    weather.at("POST", "/api/predictions", "lost")
    run_failing(project, "review", "pull")
    assert "2 in all" in run_ok(project, "review", "pull")
    check_sent_back_once(project, leaking)
    check_project_is_complete(project)


def test_correction_during_pull_is_kept(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    leaking = find_draft_ids(project)[0]
    said = project.review(leaking, edit_result("think_0", text=[LEAK]), "fixed")
    task = project.tasks()[leaking]
    better = edit_result("think_0", text=["In better words, look at this."])(task["annotations"][0]["result"])
    at = weather.at("GET", f"/annotations/{said}", lambda: project.client.annotations.update(id=said, result=better))
    assert "0 sent back" in run_ok(project, "review", "pull")
    assert at.hits == 1 and project.reviews()[leaking].problems
    assert [item["id"] for item in project.tasks()[leaking]["annotations"]] == [said]
    run_ok(project, "review", "pull")
    assert project.reviews()[leaking].verdict == "fixed" and not project.reviews()[leaking].problems


def test_review_during_export_is_pulled_next(project: Project, weather: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ok(project, "review", "push")
    both = find_draft_ids(project)[:2]
    said = {project.tasks()[uid]["id"]: project.review(uid) for uid in both}
    run_ok(project, "review", "pull")
    result = {task["id"]: task["annotations"][0]["result"] for uid, task in project.tasks().items() if uid in both}
    for number in said.values():
        project.client.annotations.update(id=number, lead_time=20.0)

    def edit_reviews() -> None:
        """Edit the reviews in the order of the export: before and after the one that is being read."""
        for task in [int(found[1]) for path in weather.seen if (found := re.search(r"/export.*=(\d+)$", path))]:
            replace_first_thought = edit_result("think_0", text=["In other words, look at this."])(result[task])
            project.client.annotations.update(id=said[task], result=replace_first_thought)

    # Export one task per request.
    monkeypatch.setattr(annotation.pull, "EXPORT_BATCH", 1)
    plan = weather.at("GET", r"/export.*=\d+$", edit_reviews, after=1)
    run_ok(project, "review", "pull")
    assert plan.hits == 1 and sum(bool(project.reviews()[uid].changes) for uid in both) == 1, weather.seen
    run_ok(project, "review", "pull")
    assert all(project.reviews()[uid].changes for uid in both)


def test_unread_project_is_reported(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    project.review(find_draft_ids(project)[0])
    alone = project.settings
    project.settings = (*alone, f"review.annotators=[{project.server.email}]")
    run_ok(project, "review", "push")
    assert f"not read: the project '{project.title}'" in run_ok(project, "review", "pull")
    assert not project.reviews()
    project.settings = alone
    run_ok(project, "review", "pull")
    assert len(project.reviews()) == 1
    project.settings = (*alone, f"review.annotators=[{project.server.email}]")
    assert "not read" not in run_ok(project, "review", "pull")


def test_correction_of_deselected_sample_is_refused(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    gone, there = find_draft_ids(project)[:2]
    project.review(gone, edit_result("think_0", text=["In better words, look at this."]), "fixed")
    project.review(there)
    image = project.drafts().filter(pl.col("draft_id") == gone)["sample_id"][0]
    path = project.folder / "data/select/sample.parquet"
    SAMPLE.write(SAMPLE.read(path).filter(pl.col("sample_id") != image), path)
    run_ok(project, "review", "pull")
    assert "no longer among the selected" in project.reviews()[gone].problems[0]
    assert project.reviews()[there].verdict == "accepted"


def check_sent_back_once(project: Project, uid: str) -> None:
    """Check that the page shows the reason and the reviewer's text, and that the table has the review once."""
    task = project.tasks()[uid]
    assert task["annotations"] == []
    assert "leak:" in task["data"]["returned"]
    assert LEAK in json.dumps(project.get_prefill(task["id"]))
    assert [row.draft_id for row in read_reviews(Workspace(project.folder))].count(uid) == 1


def kill_server(server: Server) -> None:
    """Kill all processes of the server at once, as in a crash."""
    assert server.process is not None
    for process in psutil.Process(server.process.pid).children(recursive=True):
        process.kill()
    server.process.wait(STOP_S)


def test_push_continues_after_server_crash(project: Project, weather: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation.push, "IMPORT_BATCH", BATCH)
    weather.at("POST", "/import", lambda: kill_server(project.server), after=1)
    run_failing(project, "review", "push")
    assert "cannot be reached" in run_failing(project, "review", "push", url=project.server.url)
    project.server.start()
    assert len(project.tasks()) == BATCH
    assert f"{BATCH} unchanged" in run_ok(project, "review", "push")
    check_project_is_complete(project)


def test_pull_waits_for_restarting_server(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    accepted, leaking = find_draft_ids(project)[:2]
    project.review(accepted)
    project.review(leaking, edit_result("think_0", text=[LEAK]), "fixed")
    starts = threading.Thread(target=project.server.start)

    def restart() -> None:
        kill_server(project.server)
        starts.start()

    weather.at("GET", "/export", restart)
    printed = run_ok(project, "review", "pull")
    starts.join()
    assert "2 in all" in printed
    check_sent_back_once(project, leaking)
    check_project_is_complete(project)


KILLABLE_COMMAND = "import annotation.push as p; p.IMPORT_BATCH = {batch}; from indus_cot.app import main; main()"


def run_and_kill(project: Project, weather: Proxy, verb: str, after: int) -> None:
    """Run the command and kill it with SIGKILL at its request number ``after``."""
    weather.clear()
    line = command("review", verb, settings=project.settings)
    line[1:3] = ["-c", KILLABLE_COMMAND.format(batch=BATCH)]
    environment = os.environ | {"LABEL_STUDIO_API_KEY": project.server.token}
    started: list[subprocess.Popen[bytes]] = []
    weather.at(".*", "", lambda: [process.kill() for process in started], after=after)
    with subprocess.Popen(line, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL) as process:
        started.append(process)
    assert process.returncode == -9, "the command ended before it was killed"
    weather.clear()


def test_killed_push_is_completed_by_next(project: Project, weather: Proxy) -> None:
    moments = random.Random(10).sample(range(5, 16), 2)
    for moment in sorted(moments):
        run_and_kill(project, weather, "push", moment)
    run_ok(project, "review", "push")
    check_project_is_complete(project)


def test_killed_pull_is_completed_by_next(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    accepted, *leaking = find_draft_ids(project)[:3]
    project.review(accepted)
    for uid in leaking:
        project.review(uid, edit_result("think_0", text=[LEAK]), "fixed")
    moments = random.Random(6).sample(range(3, 14), 2)
    for moment in sorted(moments):
        run_and_kill(project, weather, "pull", moment)
    run_ok(project, "review", "pull")
    assert sorted(project.reviews()) == sorted([accepted, *leaking]), moments
    for uid in leaking:
        check_sent_back_once(project, uid)
    check_project_is_complete(project)


def test_invalid_token_is_one_message(project: Project) -> None:
    key = {"Authorization": f"Token {project.server.token}"}
    with httpx.Client(base_url=project.server.url, headers=key) as http:
        enabled = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        http.post("/api/jwt/settings", json=enabled).raise_for_status()
        token = http.post("/api/token/").raise_for_status().json()["token"]
        assert run_here(project, "review", "push", token=token)[0] == 0
        http.post("/api/token/blacklist/", json={"refresh": token}).raise_for_status()
    for refused in (token, jwt.encode({"exp": 1}, "a key of thirty-two bytes or more")):
        assert "refuses the token" in run_failing(project, "review", "push", token=refused)
    check_project_is_complete(project)


def test_missing_images_are_restored_or_named(project: Project) -> None:
    served = project.server.images / "review"
    shutil.rmtree(served, ignore_errors=True)
    tables = ("sample.parquet", "supervision.parquet")
    shards = [path for path in (project.folder / "data/pull").rglob("*.parquet") if path.name not in tables]
    assert shards
    for path in shards:
        path.rename(path.with_suffix(".away"))
    assert "missing or damaged shard" in run_failing(project, "review", "push")
    for path in shards:
        path.with_suffix(".away").rename(path)
    run_ok(project, "review", "push")
    files = {path: path.read_bytes() for path in served.rglob("*.*")}
    for path in files:
        path.unlink()
    check_project_is_complete(project)
    assert {path: path.read_bytes() for path in served.rglob("*.*")} == files


def test_simultaneous_pushes_share_project(project: Project, weather: Proxy, drafted: Path, tmp_path: Path) -> None:
    other = Project(Path(shutil.copytree(drafted, tmp_path / "other", symlinks=True)), project.server)
    pushed: list[subprocess.CompletedProcess[str]] = []
    token = project.server.token

    def push_other() -> None:
        pushed.append(
            run_in_process(other.folder, "review", "push", settings=other.settings, LABEL_STUDIO_API_KEY=token)
        )

    weather.at("POST", "/projects/$", push_other)
    run_ok(project, "review", "push")
    assert pushed[0].returncode == 0, pushed[0].stderr
    check_project_is_complete(project)
    twins = [
        {"data": task["data"], "predictions": [{"result": project.get_prefill(task["id"])}]}
        for task in project.tasks().values()
    ]
    # The tasks that the other push would have sent, had it listed the tasks before this push created them.
    project.client.projects.import_tasks(id=project.number, request=twins)
    assert f"{len(twins)} repaired" in run_ok(project, "review", "push")
    check_project_is_complete(project)


def test_pull_continues_after_full_disk(project: Project, tmp_path: Path) -> None:
    project.run_ok("review", "push")
    first, second = find_draft_ids(project)[:2]
    project.review(first)
    project.run_ok("review", "pull")
    project.review(second, edit_result("think_0", text=[LEAK]), "fixed")
    data = project.folder / "data"
    kept = data.rename(tmp_path / "kept")
    data.mkdir()
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) // 2**20 + 8
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(data)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a full disk cannot be made here: mounting a tmpfs is not allowed")
    try:
        shutil.copytree(kept, data, symlinks=True, dirs_exist_ok=True)
        filler = data / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for folder in ("prior_review", "review"):
            printed = run_failing(project, "review", "pull")
            assert f"data/{folder}: the disk is full; nothing was changed" in printed
            assert "`indus-cot review pull` again" in printed
            if folder == "prior_review":
                # Without this project the pull starts with the drafts.
                project.client.projects.delete(id=project.get_number(f"{project.title} · priors"))
        assert list(project.reviews()) == [first]
        assert project.tasks()[second]["annotations"], "a review is sent back only after it is stored"
        filler.unlink()
        assert "1 new or changed, 2 in all" in run_ok(project, "review", "pull")
        check_sent_back_once(project, second)
        run_ok(project, "review", "push", "--priors")
        check_project_is_complete(project)
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_deleted_project_loses_no_review(project: Project) -> None:
    project.run_ok("review", "push")
    first, second = find_draft_ids(project)[:2]
    project.review(first)
    project.run_ok("review", "pull")
    project.client.projects.delete(id=project.number)
    assert "run `indus-cot review push` first" in run_failing(project, "review", "pull")
    project.run_ok("review", "push")
    project.review(second)
    assert "1 new or changed, 2 in all" in run_ok(project, "review", "pull")
    assert {uid: row.verdict for uid, row in project.reviews().items()} == {first: "accepted", second: "accepted"}
    check_project_is_complete(project)


def use_other_layout(result: Result) -> Result:
    """Return results of another layout: unknown names and types, and known names of a wrong type."""
    return [
        {"id": "a", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["car"]}},
        {"id": "b", "from_name": "boxes", "to_name": "image", "type": "rectanglelabels",
         "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["car"]}},
        {"id": "c", "from_name": "shape", "to_name": "image", "type": "rectangle",
         "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0}},
        {"id": "d", "from_name": "think_0", "to_name": "image", "type": "choices", "value": {"choices": ["car"]}},
    ]  # fmt: skip


def clear_result(result: Result) -> Result:
    return []


@pytest.mark.parametrize("edit", [use_other_layout, clear_result])
def test_annotation_of_other_layout_is_sent_back(project: Project, edit: Callable[[Result], Result]) -> None:
    project.run_ok("review", "push")
    uid = find_draft_ids(project)[0]
    project.review(uid, edit)
    assert "1 sent back" in run_ok(project, "review", "pull")
    assert project.reviews()[uid].problems
    assert project.tasks()[uid]["annotations"] == []
    project.run_ok("review", "push")
    project.review(uid)
    run_ok(project, "review", "pull")
    assert [row.problems == [] for row in read_reviews(Workspace(project.folder))] == [False, True]


def test_review_during_push_is_kept(project: Project, weather: Proxy) -> None:
    run_ok(project, "review", "push")
    withdrawn, doubled = find_draft_ids(project)[:2]
    tasks = project.tasks()
    twin = {"data": tasks[doubled]["data"], "predictions": [{"result": project.get_prefill(tasks[doubled]["id"])}]}
    project.client.projects.import_tasks(id=project.number, request=[twin])
    listed = project.client.tasks.list(project=project.number, fields="all")
    double = max(task.id for task in listed)
    path = project.folder / "data/draft/trajectory.parquet"
    left = project.drafts().filter(pl.col("draft_id") != withdrawn)
    left.write_parquet(path)
    ids: list[int] = []

    def submit() -> None:
        for task in (tasks[withdrawn]["id"], double):
            words = [
                {"id": "c", "from_name": "comment", "to_name": "image", "type": "textarea", "value": {"text": [LEAK]}}
            ]
            ids.append(project.client.annotations.create(id=task, result=words, lead_time=1.0).id)

    weather.at(".*", "/api/tasks/[0-9]+", submit)
    run_ok(project, "review", "push")
    assert len(ids) == 2
    run_ok(project, "review", "pull")
    read = {row.review_id: row.result for row in read_reviews(Workspace(project.folder))}
    assert sorted(read) == sorted(f"{project.number}/{number}" for number in ids)
    assert all(LEAK in result for result in read.values())
    run_ok(project, "review", "push")
    check_project_is_complete(project)

"""Bad weather between the command and a real Label Studio: one clear message, nothing doubled or lost, mended next."""

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
from tests.helpers.pipeline import apart, command
from tests.helpers.review_project import Project, Result, change_draft, put, uids
from tests.servers.fault_proxy import Fault, Proxy, run_proxy
from tests.servers.label_studio_server import STOP_S, Server

BATCH = 3
LEAK = "The ground truth mask says there is a scratch on it."


@pytest.fixture
def weather(project: Project) -> Iterator[Proxy]:
    """Everything the project's commands send goes through it; the priors are there already."""
    project.ok("review", "push", "--priors")
    with run_proxy(project.server.url) as between:
        project.settings = (*project.settings, f"review.url={between.url}")
        yield between


def told(project: Project, *verb: str, token: str = "", url: str = "") -> tuple[int, str]:
    """Exit code and everything a user sees, of the command run here: a process of its own takes seconds."""
    settings = (*project.settings, f"review.url={url}") if url else project.settings
    chosen = [part for setting in settings for part in ("--set", setting)]
    seen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(project.folder):
        patch.setenv("LABEL_STUDIO_API_KEY", token or project.server.token)
        with (
            contextlib.redirect_stdout(seen),
            contextlib.redirect_stderr(seen),
            pytest.raises(SystemExit) as ended,
        ):
            main([*chosen, *verb])
    return int(ended.value.code or 0), seen.getvalue()


def fails(project: Project, *verb: str, token: str = "", url: str = "") -> str:
    """The one message of a command that ends with exit code 1."""
    code, text = told(project, *verb, token=token, url=url)
    assert code == 1, text
    assert text.count("error: ") == 1 and "Traceback" not in text and "<html" not in text, text
    return " ".join(text.split())


def works(project: Project, *verb: str) -> str:
    code, text = told(project, *verb)
    assert code == 0, text
    return text


def whole(project: Project) -> None:
    """One project, queue and storage; one task a draft; one prediction a task."""
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
    assert f"0 tasks new, 0 updated, 0 repaired, {drafts} unchanged, 0 withdrawn" in works(project, "review", "push")


def test_what_was_perhaps_done_is_not_sent_again_and_not_done_twice(
    project: Project, weather: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One at a time: every push leaves enough of them for the next.
    monkeypatch.setattr(annotation.push, "IMPORT_BATCH", 1)
    requests = (("/projects/$", 0), ("/views", 0), ("/localfiles", 0), ("/import", 0), ("/import", 1))
    # What is lost was done: it comes last.
    faults: tuple[Fault, ...] = ("cut", 502, "lost")
    for (path, passed), fault in itertools.product(requests, faults):
        weather.clear()
        plan = weather.at("POST", path, fault, after=passed, times=9)
        assert "Run the same command again" in fails(project, "review", "push")
        assert plan.hits == 1, (path, fault, weather.seen)
    weather.clear()
    works(project, "review", "push")
    whole(project)


def test_what_can_be_sent_twice_is(project: Project, weather: Proxy) -> None:
    project.ok("review", "push")
    accepted, leaking = uids(project)[:2]
    project.review(accepted)
    project.review(leaking, put("think_0", text=[LEAK]), "fixed")
    change_draft(project, accepted)
    requests = [("GET", "/api/projects"), ("GET", "/api/tasks"), ("GET", "/export"), ("GET", "/api/predictions")]
    requests += [("DELETE", "/api/annotations"), ("DELETE", "/api/predictions"), ("PATCH", "/api/tasks")]
    faults: tuple[Fault, ...] = ("cut", 502, "lost", 500, "lost", "lost", "lost")
    plans = [weather.at(*request, fault) for request, fault in zip(requests, faults, strict=True)]
    said = works(project, "review", "push")
    assert "1 updated" in said and "1 reviews of changed drafts set aside" in said
    assert [plan.hits for plan in plans] == [1] * len(plans), weather.seen
    assert project.reviews()[accepted].verdict == "accepted"
    assert LEAK in json.dumps(project.prefilled(project.tasks()[leaking]["id"]))
    assert "leak:" in project.tasks()[leaking]["data"]["returned"]
    whole(project)


def test_what_the_server_refuses_in_the_middle_is_one_message(project: Project, weather: Proxy) -> None:
    refusals = {500: "answers 500", 401: "refuses the token", 403: "answers 403"}
    for verb in ("push", "pull"):
        for status, words in refusals.items():
            weather.at("POST|GET", "/import|/export", status, times=9)
            assert words in fails(project, "review", verb)
            weather.clear()
        works(project, "review", verb)
        assert len(project.reviews()) == (verb == "pull")
        if verb == "push":
            project.review(uids(project)[0])
    whole(project)


def test_a_pull_that_is_cut_off_changes_nothing_and_the_next_one_brings_all(project: Project, weather: Proxy) -> None:
    works(project, "review", "push")
    accepted, leaking = uids(project)[:2]
    project.review(accepted)
    works(project, "review", "pull")
    project.review(leaking, put("think_0", text=[LEAK]), "fixed")
    before = (project.folder / "data/review/reviews.parquet").read_bytes()
    weather.at("GET", f"/{project.number}/export", "half", times=9)
    assert "cannot be reached" in fails(project, "review", "pull")
    assert (project.folder / "data/review/reviews.parquet").read_bytes() == before
    weather.clear()
    weather.at("POST", "/api/predictions", "lost")
    fails(project, "review", "pull")
    assert "2 in all" in works(project, "review", "pull")
    sent_back_once(project, leaking)
    whole(project)


def test_what_an_expert_corrects_while_it_is_pulled_is_not_deleted(project: Project, weather: Proxy) -> None:
    works(project, "review", "push")
    leaking = uids(project)[0]
    said = project.review(leaking, put("think_0", text=[LEAK]), "fixed")
    task = project.tasks()[leaking]
    better = put("think_0", text=["In better words, look at this."])(task["annotations"][0]["result"])
    at = weather.at("GET", f"/annotations/{said}", lambda: project.client.annotations.update(id=said, result=better))
    assert "0 sent back" in works(project, "review", "pull")
    assert at.hits == 1 and project.reviews()[leaking].problems
    assert [item["id"] for item in project.tasks()[leaking]["annotations"]] == [said]
    works(project, "review", "pull")
    assert project.reviews()[leaking].verdict == "fixed" and not project.reviews()[leaking].problems


def test_what_is_said_while_an_export_goes_on_is_read_by_the_next(
    project: Project, weather: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(project, "review", "push")
    both = uids(project)[:2]
    said = {project.tasks()[uid]["id"]: project.review(uid) for uid in both}
    works(project, "review", "pull")
    result = {task["id"]: task["annotations"][0]["result"] for uid, task in project.tasks().items() if uid in both}
    for number in said.values():
        project.client.annotations.update(id=number, lead_time=20.0)

    def think_again() -> None:
        """In the order of the export: what it has read is older than what it is about to read."""
        for task in [int(found[1]) for path in weather.seen if (found := re.search(r"/export.*=(\d+)$", path))]:
            reworded = put("think_0", text=["In other words, look at this."])(result[task])
            project.client.annotations.update(id=said[task], result=reworded)

    # One task an export.
    monkeypatch.setattr(annotation.pull, "EXPORT_BATCH", 1)
    plan = weather.at("GET", r"/export.*=\d+$", think_again, after=1)
    works(project, "review", "pull")
    assert plan.hits == 1 and sum(bool(project.reviews()[uid].changes) for uid in both) == 1, weather.seen
    works(project, "review", "pull")
    assert all(project.reviews()[uid].changes for uid in both)


def test_what_was_said_in_a_project_that_is_named_no_more_is_told(project: Project, weather: Proxy) -> None:
    works(project, "review", "push")
    project.review(uids(project)[0])
    alone = project.settings
    project.settings = (*alone, f"review.annotators=[{project.server.email}]")
    works(project, "review", "push")
    assert f"not read: the project '{project.title}'" in works(project, "review", "pull")
    assert not project.reviews()
    project.settings = alone
    works(project, "review", "pull")
    assert len(project.reviews()) == 1
    project.settings = (*alone, f"review.annotators=[{project.server.email}]")
    assert "not read" not in works(project, "review", "pull")


def test_a_correction_of_what_is_no_longer_selected_goes_back_and_stops_nothing(
    project: Project, weather: Proxy
) -> None:
    works(project, "review", "push")
    gone, there = uids(project)[:2]
    project.review(gone, put("think_0", text=["In better words, look at this."]), "fixed")
    project.review(there)
    image = project.drafts().filter(pl.col("draft_id") == gone)["sample_id"][0]
    path = project.folder / "data/select/sample.parquet"
    SAMPLE.write(SAMPLE.read(path).filter(pl.col("sample_id") != image), path)
    works(project, "review", "pull")
    assert "no longer among the selected" in project.reviews()[gone].problems[0]
    assert project.reviews()[there].verdict == "accepted"


def sent_back_once(project: Project, uid: str) -> None:
    """The page shows the reason and the reviewer's words; the table holds the review once."""
    task = project.tasks()[uid]
    assert task["annotations"] == []
    assert "leak:" in task["data"]["returned"]
    assert LEAK in json.dumps(project.prefilled(task["id"]))
    assert [row.draft_id for row in read_reviews(Workspace(project.folder))].count(uid) == 1


def kill(server: Server) -> None:
    """As a crash: no process of the server has time for a last word."""
    assert server.process is not None
    for process in psutil.Process(server.process.pid).children(recursive=True):
        process.kill()
    server.process.wait(STOP_S)


def test_a_server_that_crashes_during_an_import_gets_the_rest_from_the_next_push(
    project: Project, weather: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation.push, "IMPORT_BATCH", BATCH)
    weather.at("POST", "/import", lambda: kill(project.server), after=1)
    fails(project, "review", "push")
    assert "cannot be reached" in fails(project, "review", "push", url=project.server.url)
    project.server.start()
    assert len(project.tasks()) == BATCH
    assert f"{BATCH} unchanged" in works(project, "review", "push")
    whole(project)


def test_a_pull_waits_for_a_server_that_restarts(project: Project, weather: Proxy) -> None:
    works(project, "review", "push")
    accepted, leaking = uids(project)[:2]
    project.review(accepted)
    project.review(leaking, put("think_0", text=[LEAK]), "fixed")
    starts = threading.Thread(target=project.server.start)

    def restart() -> None:
        kill(project.server)
        starts.start()

    weather.at("GET", "/export", restart)
    said = works(project, "review", "pull")
    starts.join()
    assert "2 in all" in said
    sent_back_once(project, leaking)
    whole(project)


KILLED = "import annotation.push as p; p.IMPORT_BATCH = {batch}; from indus_cot.app import main; main()"


def killed(project: Project, weather: Proxy, verb: str, after: int) -> None:
    """Run the command and kill it, as kill -9 does, at its request number ``after``."""
    weather.clear()
    line = command("review", verb, settings=project.settings)
    line[1:3] = ["-c", KILLED.format(batch=BATCH)]
    environment = os.environ | {"LABEL_STUDIO_API_KEY": project.server.token}
    started: list[subprocess.Popen[bytes]] = []
    weather.at(".*", "", lambda: [process.kill() for process in started], after=after)
    with subprocess.Popen(line, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL) as process:
        started.append(process)
    assert process.returncode == -9, "the command ended before it was killed"
    weather.clear()


def test_a_push_killed_at_any_moment_is_finished_by_the_next(project: Project, weather: Proxy) -> None:
    moments = random.Random(10).sample(range(5, 16), 2)
    for moment in sorted(moments):
        killed(project, weather, "push", moment)
    works(project, "review", "push")
    whole(project)


def test_a_pull_killed_at_any_moment_is_finished_by_the_next(project: Project, weather: Proxy) -> None:
    works(project, "review", "push")
    accepted, *leaking = uids(project)[:3]
    project.review(accepted)
    for uid in leaking:
        project.review(uid, put("think_0", text=[LEAK]), "fixed")
    moments = random.Random(6).sample(range(3, 14), 2)
    for moment in sorted(moments):
        killed(project, weather, "pull", moment)
    works(project, "review", "pull")
    assert sorted(project.reviews()) == sorted([accepted, *leaking]), moments
    for uid in leaking:
        sent_back_once(project, uid)
    whole(project)


def test_a_token_that_was_revoked_or_has_expired_is_one_message(project: Project) -> None:
    key = {"Authorization": f"Token {project.server.token}"}
    with httpx.Client(base_url=project.server.url, headers=key) as http:
        enabled = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        http.post("/api/jwt/settings", json=enabled).raise_for_status()
        token = http.post("/api/token/").raise_for_status().json()["token"]
        assert told(project, "review", "push", token=token)[0] == 0
        http.post("/api/token/blacklist/", json={"refresh": token}).raise_for_status()
    for refused in (token, jwt.encode({"exp": 1}, "a key of thirty-two bytes or more")):
        assert "refuses the token" in fails(project, "review", "push", token=refused)
    whole(project)


def test_images_that_are_gone_are_named_or_written_again(project: Project) -> None:
    served = project.server.images / "review"
    shutil.rmtree(served, ignore_errors=True)
    tables = ("sample.parquet", "supervision.parquet")
    shards = [path for path in (project.folder / "data/pull").rglob("*.parquet") if path.name not in tables]
    assert shards
    for path in shards:
        path.rename(path.with_suffix(".away"))
    assert "missing or damaged shard" in fails(project, "review", "push")
    for path in shards:
        path.with_suffix(".away").rename(path)
    works(project, "review", "push")
    files = {path: path.read_bytes() for path in served.rglob("*.*")}
    for path in files:
        path.unlink()
    whole(project)
    assert {path: path.read_bytes() for path in served.rglob("*.*")} == files


def test_two_checkouts_that_push_at_once_make_one_project(
    project: Project, weather: Proxy, drafted: Path, tmp_path: Path
) -> None:
    other = Project(Path(shutil.copytree(drafted, tmp_path / "other", symlinks=True)), project.server)
    pushed: list[subprocess.CompletedProcess[str]] = []
    token = project.server.token

    def push_too() -> None:
        pushed.append(apart(other.folder, "review", "push", settings=other.settings, LABEL_STUDIO_API_KEY=token))

    weather.at("POST", "/projects/$", push_too)
    works(project, "review", "push")
    assert pushed[0].returncode == 0, pushed[0].stderr
    whole(project)
    twins = [
        {"data": task["data"], "predictions": [{"result": project.prefilled(task["id"])}]}
        for task in project.tasks().values()
    ]
    # What the other push would have sent, had it listed the tasks before they were there.
    project.client.projects.import_tasks(id=project.number, request=twins)
    assert f"{len(twins)} repaired" in works(project, "review", "push")
    whole(project)


def test_a_full_disk_leaves_the_reviews_and_the_next_pull_brings_the_rest(project: Project, tmp_path: Path) -> None:
    project.ok("review", "push")
    first, second = uids(project)[:2]
    project.review(first)
    project.ok("review", "pull")
    project.review(second, put("think_0", text=[LEAK]), "fixed")
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
            said = fails(project, "review", "pull")
            assert f"data/{folder}: the disk is full; nothing was changed" in said
            assert "`indus-cot review pull` again" in said
            if folder == "prior_review":
                # Without it the pull begins with the drafts.
                project.client.projects.delete(id=project.numbered(f"{project.title} · priors"))
        assert list(project.reviews()) == [first]
        assert project.tasks()[second]["annotations"], "it is not sent back before it is written down"
        filler.unlink()
        assert "1 new or changed, 2 in all" in works(project, "review", "pull")
        sent_back_once(project, second)
        works(project, "review", "push", "--priors")
        whole(project)
    finally:
        subprocess.run(["umount", str(data)], check=True)


def test_a_project_deleted_by_hand_before_a_pull_loses_no_review(project: Project) -> None:
    project.ok("review", "push")
    first, second = uids(project)[:2]
    project.review(first)
    project.ok("review", "pull")
    project.client.projects.delete(id=project.number)
    assert "run `indus-cot review push` first" in fails(project, "review", "pull")
    project.ok("review", "push")
    project.review(second)
    assert "1 new or changed, 2 in all" in works(project, "review", "pull")
    assert {uid: row.verdict for uid, row in project.reviews().items()} == {first: "accepted", second: "accepted"}
    whole(project)


def alien(result: Result) -> Result:
    """What another layout may give: names and kinds the page does not know, and known names of another kind."""
    return [
        {"id": "a", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["car"]}},
        {"id": "b", "from_name": "boxes", "to_name": "image", "type": "rectanglelabels",
         "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["car"]}},
        {"id": "c", "from_name": "shape", "to_name": "image", "type": "rectangle",
         "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0}},
        {"id": "d", "from_name": "think_0", "to_name": "image", "type": "choices", "value": {"choices": ["car"]}},
    ]  # fmt: skip


def none(result: Result) -> Result:
    return []


@pytest.mark.parametrize("edit", [alien, none])
def test_an_annotation_of_another_layout_goes_back_with_a_reason(
    project: Project, edit: Callable[[Result], Result]
) -> None:
    project.ok("review", "push")
    uid = uids(project)[0]
    project.review(uid, edit)
    assert "1 sent back" in works(project, "review", "pull")
    assert project.reviews()[uid].problems
    assert project.tasks()[uid]["annotations"] == []
    project.ok("review", "push")
    project.review(uid)
    works(project, "review", "pull")
    assert [row.problems == [] for row in read_reviews(Workspace(project.folder))] == [False, True]


def test_what_is_submitted_while_a_push_runs_is_not_deleted(project: Project, weather: Proxy) -> None:
    works(project, "review", "push")
    withdrawn, doubled = uids(project)[:2]
    tasks = project.tasks()
    twin = {"data": tasks[doubled]["data"], "predictions": [{"result": project.prefilled(tasks[doubled]["id"])}]}
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
    works(project, "review", "push")
    assert len(ids) == 2
    works(project, "review", "pull")
    read = {row.review_id: row.result for row in read_reviews(Workspace(project.folder))}
    assert sorted(read) == sorted(f"{project.number}/{number}" for number in ids)
    assert all(LEAK in result for result in read.values())
    works(project, "review", "push")
    whole(project)

"""Bad weather between the command and a real Label Studio: one clear message, nothing doubled or lost, mended next."""

import contextlib
import io
import json
from collections.abc import Iterator

import pytest

import annotation.push
from annotation.project import QUEUE
from cot_builder.cli import main
from tests.bad_weather import Fault, Proxy, proxy
from tests.review_project import Project, change_draft, put, uids

pytestmark = pytest.mark.xdist_group("label_studio")
BATCH = 3
LEAK = "The ground truth mask says there is a scratch on it."


@pytest.fixture
def weather(project: Project) -> Iterator[Proxy]:
    """Everything the project's commands send goes through it."""
    with proxy(project.server.url) as between:
        project.settings = (*project.settings, f"review.url={between.url}")
        yield between


def told(project: Project, *verb: str, token: str = "") -> tuple[int, str]:
    """Exit code and everything a user sees, of the command run here: a process of its own takes seconds."""
    chosen = [part for setting in project.settings for part in ("--set", setting)]
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


def fails(project: Project, *verb: str, token: str = "") -> str:
    """The one message of a command that ends with exit code 1."""
    code, text = told(project, *verb, token=token)
    assert code == 1, text
    assert text.count("error: ") == 1 and "Traceback" not in text and "<html" not in text, text
    return " ".join(text.split())


def works(project: Project, *verb: str) -> str:
    code, text = told(project, *verb)
    assert code == 0, text
    return text


def whole(project: Project) -> None:
    """One project, queue and storage; one task a draft; one prediction a task."""
    projects = list(project.client.projects.list(title=project.folder.parent.name))
    assert len(projects) == 1
    tasks = project.tasks()
    assert sorted(tasks) == project.drafts()["draft_id"].to_list()
    for task in tasks.values():
        project.prefilled(task["id"])
    views = project.client.views.list(project=project.number)
    assert [dict(view.data)["title"] for view in views] == [QUEUE]
    assert len(project.client.import_storage.local.list(project=project.number)) == 1
    drafts = project.drafts().height
    assert f"0 tasks new, 0 updated, 0 repaired, {drafts} unchanged, 0 withdrawn" in works(project, "review", "push")


@pytest.mark.parametrize("fault", ["lost", "cut", 502])
def test_what_was_perhaps_done_is_not_sent_again_and_not_done_twice(
    project: Project, weather: Proxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation.push, "AT_ONCE", BATCH)
    for path, passed in (("/projects/$", 0), ("/views", 0), ("/localfiles", 0), ("/import", 0), ("/import", 1)):
        weather.clear()
        plan = weather.at("POST", path, fault, after=passed, times=9)
        assert "Run the same command again" in fails(project, "review", "push")
        assert plan.met == 1, (path, weather.seen)
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
    assert [plan.met for plan in plans] == [1] * len(plans), weather.seen
    assert project.reviews()[accepted].verdict == "accepted"
    assert LEAK in json.dumps(project.prefilled(project.tasks()[leaking]["id"]))
    assert "leak:" in project.tasks()[leaking]["data"]["returned"]
    whole(project)

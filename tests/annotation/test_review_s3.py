"""Images on S3: uploaded once, and shown to an expert in a real browser by a real Label Studio."""

import os
import re
import shutil
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from annotation import images
from schemas.errors import IndusCotError
from tests.helpers.browser import CHROMIUM
from tests.helpers.expert import LONGEST_MS
from tests.helpers.review_project import Project
from tests.servers.label_studio_server import Server, new_server
from tests.servers.s3_server import BUCKET, S3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def reader(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Label Studio with the AWS variables in its environment."""
    server = new_server(tmp_path_factory.mktemp("s3") / "server")
    server.variables = s3.variables
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_project(drafted: Path, tmp_path: Path, reader: Server, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(images, "ATTEMPTS", 2)
    s3.puts_left = float("inf")
    project = Project(Path(shutil.copytree(drafted, tmp_path / "project", symlinks=True)), reader)
    project.settings = (*project.settings, f"review.images=s3://{BUCKET}/{project.title}/shown")
    return project


def find_image_names(project: Project) -> set[str]:
    """Return the names of all images that the tasks of a project show."""
    texts: list[str] = []
    for task in project.tasks().values():
        texts += [task["data"]["image"], *(step["observation"] for step in task["data"]["steps"])]
    for task in project.tasks(f"{project.title} · priors").values():
        texts += [urlsafe_b64decode(uri).decode() for uri in re.findall(r'fileuri=([^"]+)', task["data"]["images"])]
    return set(re.findall(rf"s3://{BUCKET}/{project.title}/shown/([^\s\"]+)", " ".join(texts)))


def parse_counts(printed: str, label: str = "review push") -> dict[str, int]:
    """Parse the counts that a push prints for drafts or for priors."""
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{label}: ")]
    parts = line.partition(":")[2].partition(";")[0].split(", ")
    return {part.split()[-1]: int(part.split()[0]) for part in parts}


def test_images_are_uploaded_once(s3_project, s3):
    local = (*s3_project.settings, "review.images=local")
    s3_settings, s3_project.settings = s3_project.settings, local
    assert parse_counts(s3_project.run_ok("review", "push"))["new"] == 12
    s3_project.settings = s3_settings

    assert parse_counts(s3_project.run_ok("review", "push"))["updated"] == 12
    there = s3.names(f"{s3_project.title}/shown")
    assert len(find_image_names(s3_project)) > 12
    assert there == find_image_names(s3_project) | {"about.txt"}
    (storage,) = s3_project.client.import_storage.s3.list(project=s3_project.number)
    assert storage.prefix == f"{s3_project.title}/shown"

    upload_count = len(s3.written)
    tasks = s3_project.tasks()
    assert parse_counts(s3_project.run_ok("review", "push"))["unchanged"] == 12
    assert len(s3.written) == upload_count
    assert s3_project.tasks() == tasks
    assert len(list(s3_project.client.import_storage.s3.list(project=s3_project.number))) == 1

    changed = storage.model_dump(include={"bucket", "prefix"}) | {"presign": True, "project": s3_project.number}
    s3_project.client.import_storage.s3.update(id=storage.id, **changed)
    gone = f"{s3_project.title}/shown/{min(there - {'about.txt'})}"
    s3.client.delete_object(Bucket=BUCKET, Key=gone)
    s3_project.run_ok("review", "push")
    assert s3.written[upload_count:] == [f"/{BUCKET}/{gone}"]
    assert list(s3_project.client.import_storage.s3.list(project=s3_project.number)) == [storage]


@pytest.mark.browser
def test_expert_sees_s3_images(s3_project):
    if CHROMIUM is None:
        pytest.skip("no chromium here: install it, or say where it is in CHROMIUM")
    s3_project.run_ok("review", "push")
    s3_project.run_ok("review", "push", "--priors")
    task = max(s3_project.tasks().values(), key=lambda task: str(task["data"]["steps"]).count("<img"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.set_default_timeout(LONGEST_MS)
        page.goto(f"{s3_project.server.url}/user/login")
        page.fill("input[name=email]", s3_project.server.email)
        page.fill("input[name=password]", s3_project.server.password)
        page.press("input[name=password]", "Enter")
        page.wait_for_url(lambda url: "login" not in url)
        page.goto(f"{s3_project.server.url}/projects/{s3_project.number}/data?task={task['id']}")
        page.wait_for_selector('[name^="think_0:"]')
        page.wait_for_function("document.querySelector('.review-left img')?.naturalWidth > 0")
        observations = f"[...document.images].filter(image => image.src.includes('/tasks/{task['id']}/resolve/'))"
        wanted = str(task["data"]["steps"]).count("<img")
        # One more image: the thumbnail in the list of tasks.
        page.wait_for_function(f"{observations}.filter(image => image.naturalWidth > 0).length > {wanted}")
        address = page.evaluate(f"{observations}[0].src")
        if shot := os.environ.get("INDUS_COT_SCREENSHOT"):
            page.screenshot(path=shot)
        priors = s3_project.get_number(f"{s3_project.title} · priors")
        prior = next(iter(s3_project.client.tasks.list(project=priors)))
        assert prior.data["images"].count("<img") > 1
        page.goto(f"{s3_project.server.url}/projects/{priors}/data?task={prior.id}")
        page.wait_for_function(
            "count => [...document.querySelectorAll('.prior-images img')].filter(i => i.naturalWidth).length == count",
            arg=prior.data["images"].count("<img"),
        )
        if shot:
            page.screenshot(path=f"{shot}.priors.png")
        browser.close()
    assert parse_counts(s3_project.run_ok("review", "push", "--priors"), "review push of priors")["unchanged"] > 1
    assert httpx.get(address).status_code == 401, "images need an account"


def test_push_continues_after_s3_failure(s3_project, s3):
    upload_count = len(s3.written)
    s3.puts_left = 10
    with pytest.raises(IndusCotError, match="Run the same command again"):
        s3_project.run_ok("review", "push")
    assert len(s3.written) == upload_count + 10
    assert s3_project.title not in [item.title for item in s3_project.client.projects.list(title=s3_project.title)]

    s3.puts_left = float("inf")
    assert parse_counts(s3_project.run_ok("review", "push"))["new"] == 12
    assert s3.names(f"{s3_project.title}/shown") == find_image_names(s3_project) | {"about.txt"}
    assert len(s3.written[upload_count:]) == len(set(s3.written[upload_count:])), "an image was sent twice"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "somebody"}, "denies access"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_s3_errors_are_explained(s3_project, monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(IndusCotError, match=says):
        s3_project.run_ok("review", "push")
    assert not list(s3_project.client.projects.list(title=s3_project.title))


def test_missing_bucket_is_named(s3_project):
    s3_project.settings = (*s3_project.settings, "review.images=s3://nowhere/shown")
    done = s3_project.run("review", "push")
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith("error: s3://nowhere/shown: there is no bucket nowhere at http")


def test_server_without_bucket_access(s3_project, label_studio):
    # This server has no AWS variables in its environment.
    s3_project.server = label_studio
    s3_project.settings = (*s3_project.settings, f"review.url={label_studio.url}")
    with pytest.raises(IndusCotError, match="Label Studio cannot read s3://"):
        s3_project.run_ok("review", "push")

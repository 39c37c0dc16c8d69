"""Images on S3: put there once, and seen by an expert in a real browser through a real Label Studio."""

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
def on_s3(drafted: Path, tmp_path: Path, reader: Server, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(images, "ATTEMPTS", 2)
    s3.puts_left = float("inf")
    project = Project(Path(shutil.copytree(drafted, tmp_path / "project", symlinks=True)), reader)
    project.settings = (*project.settings, f"review.images=s3://{BUCKET}/{project.title}/shown")
    return project


def names(project: Project) -> set[str]:
    """Of the images that its tasks show."""
    texts: list[str] = []
    for task in project.tasks().values():
        texts += [task["data"]["image"], *(step["observation"] for step in task["data"]["steps"])]
    for task in project.tasks(f"{project.title} · priors").values():
        texts += [urlsafe_b64decode(uri).decode() for uri in re.findall(r'fileuri=([^"]+)', task["data"]["images"])]
    return set(re.findall(rf"s3://{BUCKET}/{project.title}/shown/([^\s\"]+)", " ".join(texts)))


def counted(printed: str, of: str = "review push") -> dict[str, int]:
    """What a push says it did with the tasks of drafts, or of priors."""
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{of}: ")]
    parts = line.partition(":")[2].partition(";")[0].split(", ")
    return {part.split()[-1]: int(part.split()[0]) for part in parts}


def test_images_are_put_there_once(on_s3, s3):
    local = (*on_s3.settings, "review.images=local")
    s3_settings, on_s3.settings = on_s3.settings, local
    assert counted(on_s3.ok("review", "push"))["new"] == 12
    on_s3.settings = s3_settings

    assert counted(on_s3.ok("review", "push"))["updated"] == 12
    there = s3.names(f"{on_s3.title}/shown")
    assert len(names(on_s3)) > 12
    assert there == names(on_s3) | {"about.txt"}
    (storage,) = on_s3.client.import_storage.s3.list(project=on_s3.number)
    assert storage.prefix == f"{on_s3.title}/shown"

    put = len(s3.written)
    tasks = on_s3.tasks()
    assert counted(on_s3.ok("review", "push"))["unchanged"] == 12
    assert len(s3.written) == put
    assert on_s3.tasks() == tasks
    assert len(list(on_s3.client.import_storage.s3.list(project=on_s3.number))) == 1

    changed = storage.model_dump(include={"bucket", "prefix"}) | {"presign": True, "project": on_s3.number}
    on_s3.client.import_storage.s3.update(id=storage.id, **changed)
    gone = f"{on_s3.title}/shown/{min(there - {'about.txt'})}"
    s3.client.delete_object(Bucket=BUCKET, Key=gone)
    on_s3.ok("review", "push")
    assert s3.written[put:] == [f"/{BUCKET}/{gone}"]
    assert list(on_s3.client.import_storage.s3.list(project=on_s3.number)) == [storage]


@pytest.mark.browser
def test_an_expert_sees_them(on_s3):
    if CHROMIUM is None:
        pytest.skip("no chromium here: install it, or say where it is in CHROMIUM")
    on_s3.ok("review", "push")
    on_s3.ok("review", "push", "--priors")
    task = max(on_s3.tasks().values(), key=lambda task: str(task["data"]["steps"]).count("<img"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.set_default_timeout(LONGEST_MS)
        page.goto(f"{on_s3.server.url}/user/login")
        page.fill("input[name=email]", on_s3.server.email)
        page.fill("input[name=password]", on_s3.server.password)
        page.press("input[name=password]", "Enter")
        page.wait_for_url(lambda url: "login" not in url)
        page.goto(f"{on_s3.server.url}/projects/{on_s3.number}/data?task={task['id']}")
        page.wait_for_selector('[name^="think_0:"]')
        page.wait_for_function("document.querySelector('.review-left img')?.naturalWidth > 0")
        observations = f"[...document.images].filter(image => image.src.includes('/tasks/{task['id']}/resolve/'))"
        wanted = str(task["data"]["steps"]).count("<img")
        # The thumbnail in the list of tasks too.
        page.wait_for_function(f"{observations}.filter(image => image.naturalWidth > 0).length > {wanted}")
        address = page.evaluate(f"{observations}[0].src")
        if shot := os.environ.get("INDUS_COT_SCREENSHOT"):
            page.screenshot(path=shot)
        priors = on_s3.numbered(f"{on_s3.title} · priors")
        prior = next(iter(on_s3.client.tasks.list(project=priors)))
        assert prior.data["images"].count("<img") > 1
        page.goto(f"{on_s3.server.url}/projects/{priors}/data?task={prior.id}")
        page.wait_for_function(
            "count => [...document.querySelectorAll('.prior-images img')].filter(i => i.naturalWidth).length == count",
            arg=prior.data["images"].count("<img"),
        )
        if shot:
            page.screenshot(path=f"{shot}.priors.png")
        browser.close()
    assert counted(on_s3.ok("review", "push", "--priors"), "review push of priors")["unchanged"] > 1
    assert httpx.get(address).status_code == 401, "without an account nothing is shown"


def test_when_s3_fails_half_way_the_next_push_goes_on(on_s3, s3):
    put = len(s3.written)
    s3.puts_left = 10
    with pytest.raises(IndusCotError, match="Run the same command again"):
        on_s3.ok("review", "push")
    assert len(s3.written) == put + 10
    assert on_s3.title not in [item.title for item in on_s3.client.projects.list(title=on_s3.title)]

    s3.puts_left = float("inf")
    assert counted(on_s3.ok("review", "push"))["new"] == 12
    assert s3.names(f"{on_s3.title}/shown") == names(on_s3) | {"about.txt"}
    assert len(s3.written[put:]) == len(set(s3.written[put:])), "an image was sent twice"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "somebody"}, "refuses"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_is_wrong_with_s3_is_said(on_s3, monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(IndusCotError, match=says):
        on_s3.ok("review", "push")
    assert not list(on_s3.client.projects.list(title=on_s3.title))


def test_a_bucket_that_is_not_there_is_said(on_s3):
    on_s3.settings = (*on_s3.settings, "review.images=s3://nowhere/shown")
    done = on_s3.run("review", "push")
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith("error: s3://nowhere/shown: there is no bucket nowhere at http")


def test_a_server_that_cannot_read_the_bucket_is_said(on_s3, label_studio):
    # That server has no AWS variables.
    on_s3.server = label_studio
    on_s3.settings = (*on_s3.settings, f"review.url={label_studio.url}")
    with pytest.raises(IndusCotError, match="Label Studio cannot read s3://"):
        on_s3.ok("review", "push")

"""Reviews to Label Studio and back against the bare SDK doing the same: one server, in turn."""

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio

from annotation import page
from annotation.masks import MaskReader
from annotation.project import PAGE_SIZE, SETTINGS
from annotation.pull import pull
from annotation.push import IMPORT_BATCH, DraftPages, push
from bench.paired import Row, paired, seconds
from cot_builder.params import Params, load_params
from cot_builder.storage.workspace import Workspace
from schemas.trajectory import DRAFT
from tests.helpers.browser import chromium
from tests.helpers.expert import Expert
from tests.helpers.pipeline import new_project, run
from tests.servers.label_studio_server import Server, new_server

TASKS = 10_000
RUNS = 3
FEW = ("synthetic.categories=3", "synthetic.parts=6", "synthetic.views=1", "synthetic.size=256", "select.samples=12")
PAGES = 20
"""Submitted pages that are measured on each side."""
STOCK = """<View>
  <Image name="image" value="$image"/>
  <Choices name="choice" toName="image"><Choice value="Yes"/><Choice value="accept"/></Choices>
</View>"""
"""As Label Studio's own template for classifying images has it."""
WHAT = f"({TASKS:,} tasks with predictions)"


@dataclass
class _Bench:
    """A project with as many drafts as there are to be tasks, and a server."""

    folder: Path
    server: Server
    names: Iterator[int] = field(default_factory=count)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder)

    @property
    def client(self) -> LabelStudio:
        return LabelStudio(base_url=self.server.url, api_key=self.server.token, timeout=300)

    def params(self, name: str) -> Params:
        settings = [*FEW, f"review.url={self.server.url}", f"review.project={name}"]
        return load_params(settings=settings, root=self.folder)

    def payload(self) -> list[dict[str, Any]]:
        """What a push to a new project sends."""
        drafts = DRAFT.records(DRAFT.read(self.workspace.draft / "trajectory.parquet"))
        pages = DraftPages(self.params("payload"), self.workspace)
        return [pages.build_import(pages.plan_page(draft, draft)) for draft in drafts]

    def bare_import(self, payload: list[Any], name: str) -> int:
        """A project with these tasks, by the SDK alone."""
        config = page.build_config(MaskReader(self.workspace).has_masks)
        made: Any = self.client.projects.create(title=name, label_config=config, **SETTINGS)
        for start in range(0, len(payload), IMPORT_BATCH):
            self.client.projects.import_tasks(id=made.id, request=payload[start : start + IMPORT_BATCH])
        return int(made.id)


@contextmanager
def _bench(size: int = TASKS) -> Iterator[_Bench]:
    place = Path(tempfile.mkdtemp(prefix="indus-cot-bench-"))
    folder = new_project(place / "project")
    done = run(folder, "repro", "assemble", settings=FEW)
    if done.returncode:
        raise RuntimeError(done.stderr)
    path = folder / "data/draft/trajectory.parquet"
    few = DRAFT.records(DRAFT.read(path))
    many = [
        few[number % len(few)].model_copy(
            update={"draft_id": f"{few[number % len(few)].sample_id}#{number}", "candidate": number}
        )
        for number in range(size)
    ]
    DRAFT.write(DRAFT.frame(many), path)
    server = new_server(place / "server")
    server.start()
    (folder / ".label-studio").mkdir(exist_ok=True)
    (folder / ".label-studio/images").symlink_to(server.images)
    os.environ["LABEL_STUDIO_API_KEY"] = server.token
    try:
        yield _Bench(folder, server)
    finally:
        server.stop()
        shutil.rmtree(place)


def review_push() -> Row:
    """A push to a new project against the import of the same tasks, made beforehand."""
    with _bench() as bench:
        payload = bench.payload()
        ratio = paired(
            lambda: push(bench.params(f"ours {next(bench.names)}"), bench.workspace),
            lambda: bench.bare_import(payload, f"theirs {next(bench.names)}"),
            RUNS,
        )
    return Row("review_push", f"review push {WHAT}", "bare SDK import", ratio, 0.9, "higher")


def review_unchanged() -> Row:
    """A push that finds nothing to do against one listing of the tasks with their data, by the SDK alone."""
    with _bench() as bench:
        params = bench.params("unchanged")
        project = push(params, bench.workspace).projects[params.review.project]

        def listing() -> list[Any]:
            # All that a push must know of the tasks; addresses as they are stored.
            columns = "id,data,total_annotations,cancelled_annotations"
            asked: dict[str, Any] = {"fields": "task_only", "include": columns, "resolve_uri": False}
            return list(bench.client.tasks.list(project=project, page_size=PAGE_SIZE, **asked))

        ratio = paired(lambda: push(params, bench.workspace), listing, RUNS)
    return Row("review_unchanged", f"unchanged review push {WHAT}", "one listing", 1 / ratio, 1.2, "lower")


def review_pull() -> Row:
    """The first pull of a project in which everything is reviewed against the bare export."""
    with _bench() as bench:
        payload = bench.payload()
        verdict = {
            "id": "v",
            "from_name": "verdict",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["accept"]},
        }
        for task in payload:
            result = [*task["predictions"][0]["result"], verdict]
            task["annotations"] = [{"result": result, "lead_time": 10.0, "completed_by": 1}]
        project = bench.bare_import(payload, "reviewed")
        params = bench.params("reviewed")

        def export() -> object:
            chunks = bench.client.projects.exports.download_sync(id=project, export_type="JSON")
            return json.loads(b"".join(chunks))

        def forget() -> None:
            shutil.rmtree(bench.workspace.review, ignore_errors=True)

        ratio = paired(lambda: pull(params, bench.workspace), export, RUNS, before=forget)
    return Row("review_pull", f"first review pull {WHAT}", "bare export", ratio, 0.9, "higher")


def review_wait() -> Row:
    """What an expert waits for from Submit until the next page can be judged, against a stock page with that image.

    Two windows of one browser, in turn.
    """
    with _bench(PAGES + 3) as bench, chromium() as browser:
        params = bench.params("ours")
        number = push(params, bench.workspace).projects[params.review.project]
        images: list[Any] = [{"data": {"image": item["data"]["image"]}} for item in bench.payload()]
        stock: Any = bench.client.projects.create(title="stock", label_config=STOCK, sampling=SETTINGS["sampling"])
        bench.client.projects.import_tasks(id=stock.id, request=images)
        ours, theirs = (Expert(browser, bench.server) for _ in range(2))
        ours.begin(number)
        theirs.begin(stock.id)
        waits: list[float] = []
        ratio = paired(
            lambda: waits.append(seconds(ours.submit)),
            theirs.submit,
            PAGES,
            before=lambda: ours.tick("accept"),
            before_theirs=lambda: theirs.tick("accept"),
        )
    # The first one warmed up.
    what = f"Submit until the next review page is ready: median {statistics.median(waits[1:]):.2f} s"
    return Row("review_wait", what, "stock page, one choice", 1 / ratio, 2.0, "lower")

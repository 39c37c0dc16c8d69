"""A project with drafts and its Label Studio server, for several test files."""

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from typer.testing import CliRunner

from annotation.project import MODEL_VERSION
from cot_builder.corpus.drafts import derive_columns
from cot_builder.corpus.reviews import read_reviews
from cot_builder.storage.workspace import Workspace
from indus_cot.app import app
from schemas.review import Review
from schemas.trajectory import DRAFT, Trajectory
from tests.helpers.pipeline import make, new_project, run
from tests.servers.label_studio_server import Server

FEW = ("synthetic.categories=3", "synthetic.parts=6", "synthetic.views=1", "synthetic.size=256", "select.samples=12")
Result = list[dict[str, Any]]


def new_drafts(folder: Path) -> Path:
    """Create a project with drafts in ``folder``."""
    project = new_project(folder)
    make(project, "pull", "select", "patch", "prior", "draft", "assemble", settings=FEW)
    return project


class Project:
    """A copy of the project with drafts, with its own project on the server."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.client = server.client()
        self.settings = (*FEW, f"review.url={server.url}", f"review.project={self.title}")
        # The server serves images only from its own folder.
        (folder / ".label-studio").mkdir()
        (folder / ".label-studio/images").symlink_to(server.images)

    def run(self, *verb: str, token: str = "", more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        key = token or self.server.token
        return run(self.folder, *verb, settings=(*self.settings, *more), LABEL_STUDIO_API_KEY=key)

    def run_ok(self, *verb: str) -> str:
        """Run a command that must succeed, in this process to save imports; return its standard output."""
        chosen = [part for setting in self.settings for part in ("--set", setting)]
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(app, [*chosen, *verb], env={"LABEL_STUDIO_API_KEY": self.server.token})
        if done.exception:
            raise done.exception
        return done.stdout

    @property
    def title(self) -> str:
        return self.folder.parent.name

    @property
    def number(self) -> int:
        return self.get_number(self.title)

    def get_number(self, title: str) -> int:
        (found,) = [item for item in self.client.projects.list(title=title) if item.title == title]
        return found.id

    def tasks(self, title: str = "") -> dict[str, Any]:
        """Return every task with its predictions and annotations, by draft."""
        number = self.get_number(title or self.title)
        exported = b"".join(
            self.client.projects.exports.download_sync(id=number, export_type="JSON", download_all_tasks=True)
        )
        found = {task["data"]["uid"]: task for task in json.loads(exported)}
        assert len(found) == len(json.loads(exported)), "a draft has two tasks"
        return found

    def get_prefill(self, task: int) -> Result:
        (prediction,) = self.client.predictions.list(task=task)
        assert prediction.model_version == MODEL_VERSION
        return [dict(item) for item in prediction.result]

    def review(self, uid: str, edit: Callable[[Result], Result] = list, verdict: str = "accept", **more: Any) -> int:
        """Submit the page of a draft as an expert would, with edits and a verdict; return the annotation's id."""
        task = self.tasks()[uid]["id"]
        result = edit(self.get_prefill(task)) + build_judgement(verdict, more.pop("reasons", ()))
        return self.client.annotations.create(id=task, result=result, lead_time=12.5, **more).id

    def reviews(self) -> dict[str, Review]:
        return {row.draft_id: row for row in read_reviews(Workspace(self.folder))}

    def drafts(self) -> pl.DataFrame:
        return DRAFT.read(self.folder / "data/draft/trajectory.parquet").sort("draft_id")

    def corpus(self) -> pl.DataFrame:
        self.run_ok("assemble")
        return pl.concat([pl.read_parquet(path) for path in (self.folder / "data/indus_cot/data").glob("*.parquet")])


def build_judgement(verdict: str, reasons: tuple[str, ...] = ()) -> Result:
    def choice(name: str, values: list[str]) -> dict[str, Any]:
        return {"id": name, "from_name": name, "to_name": "image", "type": "choices", "value": {"choices": values}}

    return [choice("verdict", [verdict]), *([choice("reasons", list(reasons))] if reasons else [])]


def edit_result(name: str, **value: Any) -> Callable[[Result], Result]:
    """Return an edit that changes the value of one result."""

    def edit(result: Result) -> Result:
        assert sum(item.get("id") == name or item["from_name"] == name for item in result) == 1, (name, result)
        return [
            item | {"value": item["value"] | value} if name in (item.get("id"), item["from_name"]) else item
            for item in result
        ]

    return edit


def reword_first_thought(trajectory: Trajectory) -> Trajectory:
    """Return the trajectory with a reworded first thought."""
    return replace_first_thought(trajectory, f"Now then. {trajectory.turns[0].thought}")


def replace_first_thought(trajectory: Trajectory, thought: str) -> Trajectory:
    """Return the trajectory with ``thought`` as its first thought."""
    first = trajectory.turns[0].model_copy(update={"thought": thought})
    return trajectory.model_copy(update={"turns": [first, *trajectory.turns[1:]]})


def change_draft(project: Project, uid: str, edit: Callable[[Trajectory], Trajectory] = reword_first_thought) -> None:
    """Change a draft, as a new run of `draft` could."""
    drafts = DRAFT.records(project.drafts())
    old = next(draft for draft in drafts if draft.draft_id == uid)
    new = old.model_copy(update=derive_columns(edit(Trajectory.model_validate_json(old.trajectory))))
    path = project.folder / "data/draft/trajectory.parquet"
    DRAFT.write(DRAFT.frame([new if draft is old else draft for draft in drafts]), path)


def find_draft_ids(project: Project, tool: str = "crop", answer: str = "Yes") -> list[str]:
    found = project.drafts().filter(pl.col("tools").list.contains(tool) & (pl.col("answer") == answer))
    assert found.height, f"no draft with {tool} and {answer}"
    return found["draft_id"].to_list()

"""Pulls reviews from Label Studio: each expert's verdict, and exactly the fields they changed."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.request_options import RequestOptions
from pydantic import ValidationError

from annotation import page
from annotation.assignment import assign_drafts, find_gold_originals
from annotation.connect import connect
from annotation.gold import is_caught
from annotation.project import (
    find_project,
    find_unnamed_projects,
    format_filter_time,
    get_last_update,
    is_unchanged_since_export,
    list_changed_tasks,
    replace_prediction,
)
from cot_builder.corpus.drafts import read_trajectory
from cot_builder.corpus.priors import read_priors
from cot_builder.corpus.reviews import read_reviews
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.output import stage_output, write_text
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace, file_hash
from cot_builder.teacher.gates import Case, run_gates
from schemas.errors import IndusCotError
from schemas.review import REVIEW, Change, Review, ReviewVerdict
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision
from schemas.trajectory import DRAFT, Draft, ToolCall, Trajectory, Turn, Verdict

STATE_FILE = "state.json"
"""File that records up to when each project was read."""
EXPORT_BATCH = 500
"""Number of tasks in one export request."""
CHANGED_MEANWHILE = "the draft was replaced while it was on the page"
NOT_SELECTED = "its image is no longer among the selected ones, so the correction can be neither checked nor used"
VERDICT_BY_CHOICE: dict[str | None, ReviewVerdict] = {"accept": "accepted", "fixed": "fixed", "reject": "rejected"}
"""The review's verdict for each choice on the page."""


class PullSummary(NamedTuple):
    """Counts of what a pull did."""

    new: int
    """New or changed reviews."""
    returned: int
    """Reviews that cannot be applied and were sent back to the expert with the reason."""
    skipped: int
    """Skipped or cancelled annotations; they are no reviews."""
    total: int
    """Reviews in the table after the pull."""
    unread: tuple[str, ...] = ()
    """Projects that were not read, although they changed: ``review.annotators`` names nobody who works there."""


@contextmanager
def hold_review_lock(workspace: Workspace) -> Iterator[None]:
    """Hold the review lock of the project. It is reentrant: a push may call a pull.

    Raises:
        IndusCotError: another push or pull of this project is running.
    """
    path = workspace.data / ".review.push-pull.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=True)
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise IndusCotError(
            f"{path}: another review push or pull of this project is running; wait for it or stop it"
        ) from None


def pull(params: Params, workspace: Workspace, client: LabelStudio | None = None) -> PullSummary:
    """Write reviews submitted since the last pull to ``data/review/reviews.parquet``.

    Edited calls are executed again, and edited trajectories must pass the gates. A review that fails goes back to the
    expert: its page shows the reason and is prefilled with the expert's edits.

    Raises:
        IndusCotError: nothing was pushed yet, or the server fails. The table is then unchanged.
    """
    with hold_review_lock(workspace):
        if client is None:
            with connect(params.review, workspace) as new_client:
                return _pull(params, workspace, new_client)
        return _pull(params, workspace, client)


class _PullProgress:
    """The reviews read so far by a running pull."""

    def __init__(self, known: Mapping[str, Review]) -> None:
        self.known = known
        self.new: dict[str, Review] = {}
        self.rejected: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        """Task and annotation of each review that cannot be applied, by review id."""
        self.skipped = 0


def _pull(params: Params, workspace: Workspace, client: LabelStudio) -> PullSummary:
    numbers = {title: find_project(client, params.review, title) for title in params.review.projects}
    projects = {title: number for title, number in numbers.items() if number is not None}
    if not projects:
        raise IndusCotError(
            f"{params.review.url}: there is no project {params.review.projects[0]!r}; run `indus-cot review push` first"
        )
    since = _load_read_until(workspace)
    people = {user.id: user.email for user in client.users.list()}
    reader = _AnnotationReader(params, workspace)
    progress = _PullProgress({row.review_id: row for row in read_reviews(workspace)})
    until = {
        number: _read_project(
            client, number, since.get(number, ""), title == params.review.adjudication, people, reader, progress
        )
        for title, number in projects.items()
    }
    table = {**progress.known, **progress.new}
    # Keep the times of projects whose annotators are no longer named.
    _write_reviews(params, workspace, since | until, table.values())
    returned = [_return_to_expert(client, *item, table[name]) for name, item in progress.rejected.items()]
    others = find_unnamed_projects(client, params.review)
    unread = tuple(title for title, number in others if get_last_update(client, number) > since.get(number, ""))
    return PullSummary(len(progress.new), sum(returned), progress.skipped, len(table), unread)


def _read_project(
    client: LabelStudio,
    project: int,
    since: str,
    adjudicates: bool,
    people: Mapping[int, str],
    reader: "_AnnotationReader",
    progress: _PullProgress,
) -> str:
    """Read the reviews of one project submitted after ``since``; return the time from which the next pull must read."""
    last_update = get_last_update(client, project)
    # On the first pull everything is new: listing the tasks would take as long as exporting them all.
    numbers = list_changed_tasks(client, project, since) if since else None
    until, unreturned = since, ""
    for task in export_tasks(client, project, numbers):
        updated = format_filter_time(datetime.fromisoformat(task["updated_at"]))
        # A task updated after the export began may have been exported before the update: read it again next time.
        until = max(until, min(updated, last_update))
        for annotation in task["annotations"]:
            if annotation["was_cancelled"]:
                progress.skipped += 1
                continue
            review = reader.read(project, adjudicates, task, annotation, people)
            if progress.known.get(review.review_id) != review:
                progress.new[review.review_id] = review
            if review.problems:
                progress.rejected[review.review_id] = (task, annotation)
                # If this run ends before the review is sent back, the next pull must read it again.
                unreturned = min(unreturned or updated, updated)
    return unreturned or until


def _write_reviews(params: Params, workspace: Workspace, until: Mapping[int, str], rows: Iterable[Review]) -> None:
    ordered = sorted(rows, key=lambda row: (row.reviewed_at, row.review_id))
    with stage_output(
        workspace.review,
        stage="review pull",
        params=params.review.model_dump(),
        inputs={"trajectory": file_hash(workspace.draft / "trajectory.parquet")},
    ) as output:
        REVIEW.write(REVIEW.frame(ordered), output.path / workspace.reviews.name)
        write_text(output.path / STATE_FILE, json.dumps({"until": until}) + "\n")
        output.counts |= {"reviews": len(ordered)} | {
            name: sum(row.verdict == name for row in ordered) for name in VERDICT_BY_CHOICE.values()
        }


def _load_read_until(workspace: Workspace) -> dict[int, str]:
    """Return up to when each project was read, by number: a new project may have the title of a deleted one."""
    path: Path = workspace.review / STATE_FILE
    if not path.is_file():
        return {}
    until = json.loads(path.read_text(encoding="utf-8"))["until"]
    return {int(number): str(time) for number, time in until.items()}


def export_tasks(client: LabelStudio, project: int, numbers: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """Yield annotated tasks with their annotations: those with the ids ``numbers``, or all if it is None."""

    def export(ids: Sequence[int]) -> list[dict[str, Any]]:
        # The SDK sends its own `ids` under a name that the server ignores; the server would then export every task.
        options = RequestOptions(additional_query_parameters={"ids[]": list(ids)})
        chunks = client.projects.exports.download_sync(id=project, export_type="JSON", request_options=options)
        return json.loads(b"".join(chunks))

    if numbers is None:
        yield from track(export([]), "review pull")
        return
    starts = range(0, len(numbers), EXPORT_BATCH)
    for start in track(starts, "review pull", len(starts)):
        yield from export(numbers[start : start + EXPORT_BATCH])


def _return_to_expert(
    client: LabelStudio, task: Mapping[str, Any], annotation: Mapping[str, Any], review: Review
) -> bool:
    """Reopen the task: the page shows the problems and is prefilled with the expert's edits, without the verdict.

    A review of a draft that is no longer on the page, or of another page, is not prefilled; it stays in the table.
    If the expert has changed the annotation since the export, leave it and return False: the next pull reads it.
    """
    if not is_unchanged_since_export(client, annotation):
        return False
    kept = [item for item in annotation["result"] if item.get("from_name") not in page.JUDGEMENT_CONTROLS]
    matches_page = any(item.get("from_name") == "draft" for item in kept)
    if matches_page and review.draft_sha256 == task["data"].get("draft_sha256"):
        replace_prediction(client, task["id"], kept, task["data"].get("priority", 0.0))
    client.tasks.update(id=str(task["id"]), data=task["data"] | {"returned": page.describe_return(review.problems)})
    client.annotations.delete(id=annotation["id"])
    return True


class _AnnotationReader:
    """Converts annotations to reviews; executes edited calls and runs the gates."""

    def __init__(self, params: Params, workspace: Workspace) -> None:
        self._params = params
        self._images = SampleImages(workspace)
        self._samples: dict[str, Sample] = {
            row.sample_id: row for row in SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
        }
        supervision = SUPERVISION.records(SUPERVISION.read(workspace.select / "supervision.parquet"))
        self._supervision: dict[str, Supervision] = {row.sample_id: row for row in supervision}
        sets = [name for name, source in params.pull.items() if source.role == "train"]
        self._priors = read_priors(workspace, sets)
        self._gold_originals: dict[str, Draft] = {}
        if params.review.annotators:
            drafts: list[Draft] = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
            self._gold_originals = find_gold_originals(assign_drafts(drafts, params.review, params.run.seed))

    def read(
        self,
        project: int,
        adjudicates: bool,
        task: Mapping[str, Any],
        annotation: Mapping[str, Any],
        people: Mapping[int, str],
    ) -> Review:
        """Convert one annotation to a review; reasons why it cannot be applied are in its ``problems``."""
        data = task["data"]
        text = str(data.get("trajectory", ""))
        digest = str(data.get("draft_sha256", ""))
        user = annotation["completed_by"]
        original = self._gold_originals.get(digest)
        base: dict[str, Any] = {
            "review_id": f"{project}/{annotation['id']}",
            "draft_id": str(data.get("uid")),
            "role": "gold" if original else "adjudication" if adjudicates else "review",
            "reviewer": people.get(user, f"user {user}"),
            "reviewed_at": to_utc(annotation["updated_at"]),
            "seconds": float(annotation["lead_time"] or 0.0),
            "result": json.dumps(annotation["result"], ensure_ascii=False),
        }
        rejection: dict[str, Any] = {
            "verdict": "rejected", "reasons": [], "evidence_rating": None, "logic_rating": None, "comment": "",
            "changes": [], "trajectory": "", "caught": None,
        }  # fmt: skip
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            reason = "the task's data was changed by hand; run `indus-cot review push` to repair it"
            return Review(
                **base, **rejection, draft_sha256=digest if len(digest) == 64 else "0" * 64, problems=[reason]
            )
        before = Trajectory.model_validate_json(text)
        reading = page.read_annotation(annotation["result"], before)
        if reading.draft_sha256 not in (None, digest):
            return Review(**base, **rejection, draft_sha256=reading.draft_sha256, problems=[CHANGED_MEANWHILE])
        after, problems = self._apply_edits(str(data.get("sample_id")), before, reading, gated=original is None)
        changes = _list_changes(before, after)
        verdict = VERDICT_BY_CHOICE.get(reading.verdict)
        if verdict is None:
            problems.append("no verdict was given")
        elif verdict != "rejected":
            verdict = "fixed" if changes else "accepted"
        elif not reading.reasons:
            problems.append("a rejection needs a reason")
        else:
            # A rejected trajectory is discarded, so it may be invalid.
            problems = []
        mask_digests: Mapping[str, str] = data.get("mask", {})
        if page.is_mask_changed(annotation["result"], mask_digests):
            pixels = page.hash_mask(annotation["result"])["pixels"]
            changes.append(Change(field="mask", before=mask_digests.get("pixels", ""), after=pixels))
        return Review(
            **base,
            draft_sha256=digest,
            verdict=verdict or "rejected",
            reasons=reading.reasons,
            evidence_rating=reading.evidence_rating,
            logic_rating=reading.logic_rating,
            comment=reading.comment,
            changes=changes,
            trajectory=text if after == before else after.model_dump_json(),
            caught=is_caught(verdict or "rejected", after.verdict, read_trajectory(original).verdict)
            if original and not problems
            else None,
            problems=problems,
        )

    def _apply_edits(
        self, sample_id: str, before: Trajectory, reading: page.Reading, *, gated: bool
    ) -> tuple[Trajectory, list[str]]:
        """Return the trajectory as the expert left it, and the problems with it; ``before`` if it is invalid.

        Without ``gated`` an edited trajectory need not pass the gates: their messages would reveal a planted mistake.
        """
        problems: list[str] = []
        turns: list[Turn] = []
        toolbox: Toolbox | None = None
        for number, (turn, thought, call) in enumerate(
            zip(before.turns, reading.thoughts, reading.calls, strict=True), 1
        ):
            if isinstance(call, str):
                problems.append(
                    f"step {number}: the call is not JSON with a known tool and its arguments: {call[:80]!r}"
                )
            elif turn.call is not None and call is None:
                if thought.strip():
                    problems.append(f"step {number}: the call is empty; to remove the step, empty its thought too")
            elif turn.call is None and call is not None:
                problems.append(
                    f"step {number}: the last step is the conclusion and cannot have a call; empty the call"
                )
            elif call == turn.call:
                turns.append(turn.model_copy(update={"thought": thought}))
            elif sample_id not in self._samples:
                return before, [NOT_SELECTED]
            else:
                assert call is not None
                toolbox = toolbox or self._build_toolbox(sample_id)
                observation, _ = toolbox.observe(call)
                turns.append(Turn(thought=thought, call=call, observation=observation))
        try:
            after = Trajectory(
                turns=turns,
                verdict=Verdict.model_validate(
                    {"answer": reading.answer, "boxes": reading.boxes, "defect_type": reading.defect_type}
                ),
            )
        except ValidationError as error:
            return before, [
                *problems,
                *(f"{_format_location(item['loc'])}{_strip_prefix(item['msg'])}" for item in error.errors()),
            ]
        if problems:
            return before, problems
        if after == before or not gated:
            return after, []
        if sample_id not in self._samples:
            return before, [NOT_SELECTED]
        case = Case(after, self._samples[sample_id], self._supervision[sample_id], self._params.draft)
        return after, [f"{violation.gate}: {violation.reason}" for violation in run_gates(case)]

    def _build_toolbox(self, sample_id: str) -> Toolbox:
        image: np.ndarray = self._images.pixels(self._samples[sample_id])
        return Toolbox(image, self._priors)


def _list_changes(before: Trajectory, after: Trajectory) -> list[Change]:
    """Return every changed field; if steps were removed, one change of all ``turns``."""
    changes: list[Change] = []

    def compare(field: str, old: Any, new: Any) -> None:
        if old != new:
            changes.append(Change(field=field, before=_format_value(old), after=_format_value(new)))

    if len(after.turns) == len(before.turns):
        for number, (old, new) in enumerate(zip(before.turns, after.turns, strict=True)):
            compare(f"turns.{number}.thought", old.thought, new.thought)
            compare(f"turns.{number}.call", old.call, new.call)
    else:
        compare("turns", [_dump_turn(turn) for turn in before.turns], [_dump_turn(turn) for turn in after.turns])
    for name in Verdict.model_fields:
        compare(f"verdict.{name}", getattr(before.verdict, name), getattr(after.verdict, name))
    return changes


def _dump_turn(turn: Turn) -> dict[str, Any]:
    return turn.model_dump(exclude={"observation"})


def _format_value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, ToolCall):
        value = value.model_dump()
    return json.dumps(value, ensure_ascii=False)


def _format_location(loc: Sequence[int | str]) -> str:
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def _strip_prefix(message: str) -> str:
    return message.removeprefix("Value error, ")


def to_utc(text: str) -> str:
    """Convert a time of the server to ISO 8601 in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="microseconds")

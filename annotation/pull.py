"""Brings reviews back from Label Studio: what each expert said, and exactly what they changed."""

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
from annotation.assignment import assign, golds
from annotation.connect import connect
from annotation.gold import caught
from annotation.project import (
    changed_since,
    filter_time,
    find_project,
    is_as_exported,
    last_touched,
    replace_prediction,
    unnamed,
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

STATE = "state.json"
"""Up to when each project has been read."""
AT_ONCE = 500
"""Tasks a request of the export."""
CHANGED_MEANWHILE = "the draft was replaced while it was on the page"
NOT_SELECTED = "its image is no longer among the selected ones, so that a correction cannot be checked nor used"
VERDICTS: dict[str | None, ReviewVerdict] = {"accept": "accepted", "fixed": "fixed", "reject": "rejected"}
"""What a choice on the page means."""


class Pulled(NamedTuple):
    """What a pull brought."""

    new: int
    returned: int
    """Reviews that cannot be applied and went back to the reviewer with the reason."""
    skipped: int
    """Annotations that were skipped or cancelled: nobody said anything."""
    total: int
    """Reviews in the table now."""
    unread: tuple[str, ...] = ()
    """Projects with annotations that were changed since they were read last, in which nobody works who is named."""


@contextmanager
def one_at_a_time(workspace: Workspace) -> Iterator[None]:
    """Hold the project's lock of the review; a pull within a push holds it twice.

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


def pull(params: Params, workspace: Workspace, client: LabelStudio | None = None) -> Pulled:
    """Read what was said since the last pull into ``data/review/reviews.parquet``.

    Edited calls are run again and the edited trajectories pass the gates; a review that fails goes back to the
    reviewer: its page shows the reason, prefilled with what they wrote.

    Raises:
        IndusCotError: nothing was pushed yet; the server fails. The table is then as it was.
    """
    with one_at_a_time(workspace):
        if client is None:
            with connect(params.review, workspace) as own:
                return _pull(params, workspace, own)
        return _pull(params, workspace, client)


class _Round:
    """One pull in the making."""

    def __init__(self, known: Mapping[str, Review]) -> None:
        self.known = known
        self.fresh: dict[str, Review] = {}
        self.refused: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.skipped = 0


def _pull(params: Params, workspace: Workspace, client: LabelStudio) -> Pulled:
    numbers = {title: find_project(client, params.review, title) for title in params.review.projects}
    projects = {title: number for title, number in numbers.items() if number is not None}
    if not projects:
        raise IndusCotError(
            f"{params.review.url}: there is no project {params.review.projects[0]!r}; run `indus-cot review push` first"
        )
    since = _since(workspace)
    people = {user.id: user.email for user in client.users.list()}
    reader = _Reader(params, workspace)
    done = _Round({row.review_id: row for row in read_reviews(workspace)})
    until = {
        number: _read(client, number, since.get(number, ""), title == params.review.adjudication, people, reader, done)
        for title, number in projects.items()
    }
    table = {**done.known, **done.fresh}
    # Projects of annotators who are named no more keep their place.
    _write(params, workspace, since | until, table.values())
    returned = [_return(client, *item, table[name]) for name, item in done.refused.items()]
    others = unnamed(client, params.review)
    unread = tuple(title for title, number in others if last_touched(client, number) > since.get(number, ""))
    return Pulled(len(done.fresh), sum(returned), done.skipped, len(table), unread)


def _read(
    client: LabelStudio,
    project: int,
    since: str,
    adjudicates: bool,
    people: Mapping[int, str],
    reader: "_Reader",
    done: _Round,
) -> str:
    """Read what was said in one project since then; up to when the next pull need not look again."""
    before = last_touched(client, project)
    # The first time everything is new: a listing beforehand would take as long as the export.
    numbers = changed_since(client, project, since) if since else None
    until, unread = since, ""
    for task in exported(client, project, numbers):
        touched = filter_time(datetime.fromisoformat(task["updated_at"]))
        # What was touched after the export began may have been exported before: the next pull looks there again.
        until = max(until, min(touched, before))
        for annotation in task["annotations"]:
            if annotation["was_cancelled"]:
                done.skipped += 1
                continue
            review = reader.read(project, adjudicates, task, annotation, people)
            if done.known.get(review.review_id) != review:
                done.fresh[review.review_id] = review
            if review.problems:
                done.refused[review.review_id] = (task, annotation)
                # Should this run end before they are sent back, the next one reads them again.
                unread = min(unread or touched, touched)
    return unread or until


def _write(params: Params, workspace: Workspace, until: Mapping[int, str], rows: Iterable[Review]) -> None:
    ordered = sorted(rows, key=lambda row: (row.reviewed_at, row.review_id))
    with stage_output(
        workspace.review,
        stage="review pull",
        params=params.review.model_dump(),
        inputs={"trajectory": file_hash(workspace.draft / "trajectory.parquet")},
    ) as output:
        REVIEW.write(REVIEW.frame(ordered), output.path / workspace.reviews.name)
        write_text(output.path / STATE, json.dumps({"until": until}) + "\n")
        output.counts |= {"reviews": len(ordered)} | {
            name: sum(row.verdict == name for row in ordered) for name in VERDICTS.values()
        }


def _since(workspace: Workspace) -> dict[int, str]:
    """Up to when each project has been read, by its number: another one of the same title is another project."""
    path: Path = workspace.review / STATE
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))["until"]
    return {int(number): str(time) for number, time in found.items()}


def exported(client: LabelStudio, project: int, numbers: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """Tasks with annotations: those of ``numbers``, or all."""

    def export(ids: Sequence[int]) -> list[dict[str, Any]]:
        # The SDK's own `ids` goes out under a name that the server does not read: it would send every task.
        options = RequestOptions(additional_query_parameters={"ids[]": list(ids)})
        chunks = client.projects.exports.download_sync(id=project, export_type="JSON", request_options=options)
        return json.loads(b"".join(chunks))

    if numbers is None:
        yield from track(export([]), "review pull")
        return
    starts = range(0, len(numbers), AT_ONCE)
    for start in track(starts, "review pull", len(starts)):
        yield from export(numbers[start : start + AT_ONCE])


def _return(client: LabelStudio, task: Mapping[str, Any], annotation: Mapping[str, Any], review: Review) -> bool:
    """Open the task again: the page shows why, and is prefilled with what the expert wrote, less the verdict.

    What was written about a draft that is no longer on the page, or on another page, stays in the table. What the
    expert has changed meanwhile stays on the page, and False is returned: the next pull reads it.
    """
    if not is_as_exported(client, annotation):
        return False
    kept = [item for item in annotation["result"] if item.get("from_name") not in page.JUDGEMENT]
    ours = any(item.get("from_name") == "draft" for item in kept)
    if ours and review.draft_sha256 == task["data"].get("draft_sha256"):
        replace_prediction(client, task["id"], kept, task["data"].get("priority", 0.0))
    client.tasks.update(id=str(task["id"]), data=task["data"] | {"returned": page.came_back(review.problems)})
    client.annotations.delete(id=annotation["id"])
    return True


class _Reader:
    """Reads annotations; holds what that takes."""

    def __init__(self, params: Params, workspace: Workspace) -> None:
        self._params = params
        self._images = SampleImages(workspace)
        self._samples: dict[str, Sample] = {
            row.sample_id: row for row in SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
        }
        truth = SUPERVISION.records(SUPERVISION.read(workspace.select / "supervision.parquet"))
        self._supervision: dict[str, Supervision] = {row.sample_id: row for row in truth}
        sets = [name for name, source in params.pull.items() if source.role == "train"]
        self._priors = read_priors(workspace, sets)
        self._golds: dict[str, Draft] = {}
        if params.review.annotators:
            drafts: list[Draft] = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
            self._golds = golds(assign(drafts, params.review, params.run.seed))

    def read(
        self,
        project: int,
        adjudicates: bool,
        task: Mapping[str, Any],
        annotation: Mapping[str, Any],
        people: Mapping[int, str],
    ) -> Review:
        """One annotation as a review; what is wrong with it is among its problems."""
        data = task["data"]
        text = str(data.get("trajectory", ""))
        digest = str(data.get("draft_sha256", ""))
        who = annotation["completed_by"]
        gold = self._golds.get(digest)
        base: dict[str, Any] = {
            "review_id": f"{project}/{annotation['id']}",
            "draft_id": str(data.get("uid")),
            "role": "gold" if gold else "adjudication" if adjudicates else "review",
            "reviewer": people.get(who, f"user {who}"),
            "reviewed_at": utc(annotation["updated_at"]),
            "seconds": float(annotation["lead_time"] or 0.0),
            "result": json.dumps(annotation["result"], ensure_ascii=False),
        }
        nothing: dict[str, Any] = {
            "verdict": "rejected", "reasons": [], "evidence_rating": None, "logic_rating": None, "comment": "",
            "changes": [], "trajectory": "", "caught": None,
        }  # fmt: skip
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            reason = "the task's data was changed by hand; run `indus-cot review push`, which mends it"
            return Review(**base, **nothing, draft_sha256=digest if len(digest) == 64 else "0" * 64, problems=[reason])
        before = Trajectory.model_validate_json(text)
        reading = page.read(annotation["result"], before)
        if reading.draft_sha256 not in (None, digest):
            return Review(**base, **nothing, draft_sha256=reading.draft_sha256, problems=[CHANGED_MEANWHILE])
        after, problems = self._after(str(data.get("sample_id")), before, reading, gated=gold is None)
        changes = _changes(before, after)
        verdict = VERDICTS.get(reading.verdict)
        if verdict is None:
            problems.append("no verdict was given")
        elif verdict != "rejected":
            verdict = "fixed" if changes else "accepted"
        elif not reading.reasons:
            problems.append("a rejection needs a reason")
        else:
            # What cannot be right need not be: it is not going to be used.
            problems = []
        mask: Mapping[str, str] = data.get("mask", {})
        if page.is_mask_changed(annotation["result"], mask):
            now = page.mask_digests(annotation["result"])["pixels"]
            changes.append(Change(field="mask", before=mask.get("pixels", ""), after=now))
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
            caught=caught(verdict or "rejected", after.verdict, read_trajectory(gold).verdict)
            if gold and not problems
            else None,
            problems=problems,
        )

    def _after(
        self, sample_id: str, before: Trajectory, reading: page.Reading, *, gated: bool
    ) -> tuple[Trajectory, list[str]]:
        """The trajectory as the expert left it, and why it cannot be used; as it was where it is no trajectory.

        Without ``gated`` an edited one need not pass the gates: they would give away a planted mistake.
        """
        problems: list[str] = []
        turns: list[Turn] = []
        box: Toolbox | None = None
        for number, (turn, thought, call) in enumerate(
            zip(before.turns, reading.thoughts, reading.calls, strict=True), 1
        ):
            if isinstance(call, str):
                problems.append(f"step {number}: the call is not JSON with a tool's name and arguments: {call[:80]!r}")
            elif turn.call is not None and call is None:
                if thought.strip():
                    problems.append(f"step {number}: its call is gone; empty its thought too to take the step out")
            elif turn.call is None and call is not None:
                problems.append(f"step {number}: the last step concludes; it can have no call")
            elif call == turn.call:
                turns.append(turn.model_copy(update={"thought": thought}))
            elif sample_id not in self._samples:
                return before, [NOT_SELECTED]
            else:
                assert call is not None
                box = box or self._toolbox(sample_id)
                observation, _ = box.observe(call)
                turns.append(Turn(thought=thought, call=call, observation=observation))
        try:
            after = Trajectory(
                turns=turns,
                verdict=Verdict.model_validate(
                    {"answer": reading.answer, "boxes": reading.boxes, "defect_type": reading.defect_type}
                ),
            )
        except ValidationError as error:
            return before, [*problems, *(f"{_place(item['loc'])}{_plain(item['msg'])}" for item in error.errors())]
        if problems:
            return before, problems
        if after == before or not gated:
            return after, []
        if sample_id not in self._samples:
            return before, [NOT_SELECTED]
        case = Case(after, self._samples[sample_id], self._supervision[sample_id], self._params.draft)
        return after, [f"{violation.gate}: {violation.reason}" for violation in run_gates(case)]

    def _toolbox(self, sample_id: str) -> Toolbox:
        image: np.ndarray = self._images.pixels(self._samples[sample_id])
        return Toolbox(image, self._priors)


def _changes(before: Trajectory, after: Trajectory) -> list[Change]:
    """Every field that differs; a step that was taken out is told as such."""
    found: list[Change] = []

    def note(field: str, old: Any, new: Any) -> None:
        if old != new:
            found.append(Change(field=field, before=_told(old), after=_told(new)))

    if len(after.turns) == len(before.turns):
        for number, (old, new) in enumerate(zip(before.turns, after.turns, strict=True)):
            note(f"turns.{number}.thought", old.thought, new.thought)
            note(f"turns.{number}.call", old.call, new.call)
    else:
        note("turns", [_brief(turn) for turn in before.turns], [_brief(turn) for turn in after.turns])
    for name in Verdict.model_fields:
        note(f"verdict.{name}", getattr(before.verdict, name), getattr(after.verdict, name))
    return found


def _brief(turn: Turn) -> dict[str, Any]:
    return turn.model_dump(exclude={"observation"})


def _told(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, ToolCall):
        value = value.model_dump()
    return json.dumps(value, ensure_ascii=False)


def _place(loc: Sequence[int | str]) -> str:
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def utc(text: str) -> str:
    """A time of the server, ISO 8601 in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="microseconds")

"""Normalcy priors to Label Studio and the experts' edits back: one project, a task a prior."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from label_studio_sdk import LabelStudio

from annotation import page, prior_page
from annotation.connect import connect
from annotation.images import ServedImages
from annotation.project import (
    Known,
    changed_since,
    ensure_project,
    filter_time,
    find_project,
    is_as_exported,
    last_touched,
    prediction,
    replace_prediction,
    tasks,
    unread,
)
from annotation.pull import CHANGED_MEANWHILE, STATE, VERDICTS, Pulled, exported, one_at_a_time, utc
from cot_builder.corpus.prior_reviews import read_prior_reviews, text_sha256
from cot_builder.corpus.priors import MACHINE_FILE, draw_samples, read_normal_samples
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.output import Output, stage_output, write_text
from cot_builder.storage.workspace import Workspace
from cot_builder.teacher.leaks import find_leaks, replace_category_name
from schemas.errors import IndusCotError
from schemas.prior import PRIOR, NormalcyPrior
from schemas.prior_review import PRIOR_REVIEW, PriorReview
from schemas.sample import Sample

LEAST, MOST = 40, 4000
"""Characters of a prior's text, as :class:`schemas.prior.NormalcyPrior` has it."""
TAG = re.compile(
    r"</?(?:think|call_tool|tool_call|tool_response|observation|image|location|type|answer)\b", re.IGNORECASE
)
"""What a trajectory is written in: in the text of an observation it would end it."""
ROLES = {"train": "training pool", "evaluate": "evaluation set, never read in training"}


class PushedPriors(NamedTuple):
    """What a push of priors did."""

    project: int
    created: int
    updated: int
    repaired: int
    """Tasks whose prediction was gone, and second tasks of one prior."""
    unchanged: int
    withdrawn: int
    """Tasks of priors that are no more, and that nobody had reviewed."""
    set_aside: int
    """Reviews of texts that have changed; they stay in the table of reviews."""


def push_priors(client: LabelStudio, params: Params, workspace: Workspace, images: ServedImages) -> PushedPriors:
    """Bring the project of the priors to the state of ``data/prior``: the texts before the experts' edits.

    The caller holds the lock of the review. Those of the training pool come first.

    Raises:
        IndusCotError: there are no priors; a text does not fit the page; the server fails.
    """
    rows: list[NormalcyPrior] = PRIOR.records(PRIOR.read(workspace.prior / MACHINE_FILE))
    if unknown := sorted({row.source_set for row in rows} - params.pull.keys()):
        raise IndusCotError(
            f"prior holds the set {unknown[0]}, which pull no longer names; run `indus-cot repro prior`"
        )
    project = ensure_project(
        client, params.review, params.review.priors, images,
        config=prior_page.config(), instruction=prior_page.INSTRUCTION,
    )  # fmt: skip
    there: dict[str, list[Known]] = defaultdict(list)
    for known in tasks(client, project):
        there[str(known.data.get("uid"))].append(known)
    current = {row.prior_id: text_sha256(row.text) for row in rows}
    if any(
        known.annotations and (len(several) > 1 or known.data.get("prior_sha256") != current.get(uid))
        for uid, several in there.items()
        for known in several
    ):
        # What was said of the old text is kept before its task shows the new one.
        pull_priors(client, params, workspace)
    read = {review.review_id for review in read_prior_reviews(workspace)}
    pages = _Pages(params, workspace, images, project)
    images.upload([sample for row in rows for sample in pages.shown(row)], ())
    tally: Counter[str] = Counter()
    created: list[dict[str, Any]] = []
    queue = sorted(rows, key=lambda row: (-pages.priority(row), row.prior_id))
    for row in track(queue, f"review push: {params.review.priors}", len(queue)):
        found = sorted(there.pop(row.prior_id, []), key=lambda known: (-known.annotations, known.id))
        for double in found[1:]:
            if not unread(client, project, double, read):
                client.tasks.delete(id=str(double.id))
                tally["repaired"] += 1
        if found:
            tally[_update(client, project, found[0], row, pages, tally, read)] += 1
        else:
            created.append({"data": pages.data(row), "predictions": [prediction(_filled(row), pages.priority(row))]})
    if created:
        client.projects.import_tasks(id=project, request=cast(Any, created))
    for known in (known for several in there.values() for known in several):
        # A task somebody has reviewed stays: it is their work.
        if not known.annotations and not unread(client, project, known, read):
            client.tasks.delete(id=str(known.id))
            tally["withdrawn"] += 1
    counts = {name: tally[name] for name in PushedPriors._fields if name not in ("project", "created")}
    return PushedPriors(project=project, created=len(created), **counts)


def push(params: Params, workspace: Workspace) -> PushedPriors:
    """:func:`push_priors` with a connection and the lock of its own."""
    with one_at_a_time(workspace), connect(params.review, workspace) as client:
        return push_priors(client, params, workspace, ServedImages(workspace, params.review))


def pull(params: Params, workspace: Workspace) -> Pulled:
    """:func:`pull_priors` with a connection and the lock of its own."""
    with one_at_a_time(workspace), connect(params.review, workspace) as client:
        return pull_priors(client, params, workspace)


def pull_priors(client: LabelStudio, params: Params, workspace: Workspace) -> Pulled:
    """Read what was said since the last pull into ``data/prior_review/priors.parquet``.

    A text that cannot be taken goes back to the expert: the page shows why, prefilled with what they wrote. Where
    no priors were pushed, nothing is brought. The caller holds the lock of the review.

    Raises:
        IndusCotError: the server fails. The table is then as it was.
    """
    known = {row.review_id: row for row in read_prior_reviews(workspace)}
    project = find_project(client, params.review, params.review.priors)
    if project is None:
        return Pulled(new=0, returned=0, skipped=0, total=len(known))
    since = _since(workspace)
    start = since.get(project, "")
    people = {user.id: str(user.email) for user in client.users.list()}
    before, until, unread, skipped = last_touched(client, project), start, "", 0
    fresh: dict[str, PriorReview] = {}
    refused: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for task in exported(client, project, changed_since(client, project, start) if start else None):
        touched = filter_time(datetime.fromisoformat(task["updated_at"]))
        # What was touched after the export began may have been exported before: the next pull looks there again.
        until = max(until, min(touched, before))
        for annotation in task["annotations"]:
            if annotation["was_cancelled"]:
                skipped += 1
                continue
            review = _read(project, task, annotation, people)
            if known.get(review.review_id) != review:
                fresh[review.review_id] = review
            if review.problems:
                refused[review.review_id] = (task, annotation)
                # Should this run end before they are sent back, the next one reads them again.
                unread = min(unread or touched, touched)
    table = {**known, **fresh}
    _write(params, workspace, since | {project: unread or until}, table.values())
    returned = [_return(client, *item, table[name]) for name, item in refused.items()]
    return Pulled(new=len(fresh), returned=sum(returned), skipped=skipped, total=len(table))


class _Pages:
    """Priors as tasks."""

    def __init__(self, params: Params, workspace: Workspace, images: ServedImages, project: int) -> None:
        self._params = params
        self._images = images
        self._project = project
        self._groups = read_normal_samples(params, workspace, Output(workspace.prior))

    def priority(self, row: NormalcyPrior) -> float:
        """1 for a prior of the training pool, which trajectories quote; 0 for one of an evaluation set."""
        return float(self._role(row) == "train")

    def shown(self, row: NormalcyPrior) -> list[Sample]:
        """The normal images on its page."""
        group = self._groups.get((row.source_set, row.category, row.view), [])
        drawn = draw_samples(group, self._params.prior.max_images, self._params.run.seed)
        # An image that does not decode was not measured.
        return [item for item in drawn if item.image_sha256 in set(row.image_sha256)][: prior_page.SHOWN_IMAGES]

    def data(self, row: NormalcyPrior) -> dict[str, Any]:
        """A task's data."""
        pictures = [
            prior_page.Shown(self._images.sample_among_others(item, self._project), item.width, item.height)
            for item in self.shown(row)
        ]
        data = prior_page.task(row, text_sha256(row.text), ROLES[self._role(row)], pictures)
        return data | {"priority": self.priority(row)}

    def _role(self, row: NormalcyPrior) -> str:
        return self._params.pull[row.source_set].role


def _filled(row: NormalcyPrior) -> list[dict[str, Any]]:
    """What prefills the page."""
    result = prior_page.prefill(text_sha256(row.text), row.text)
    prior_page.check(result)
    return result


def _update(
    client: LabelStudio,
    project: int,
    known: Known,
    row: NormalcyPrior,
    pages: _Pages,
    tally: Counter[str],
    read: Collection[str],
) -> str:
    """Bring one task up to date; returns what had to be done. ``read`` has the reviews that were pulled."""
    wanted = pages.data(row)
    changed = known.data.get("prior_sha256") != wanted["prior_sha256"]
    if not changed:
        # Why a review came back stays on the page until the text changes.
        wanted["returned"] = known.data.get("returned", "")
    elif known.annotations:
        for annotation in client.annotations.list(id=known.id):
            if annotation.was_cancelled or f"{project}/{annotation.id}" in read:
                client.annotations.delete(id=annotation.id)
                tally["set_aside"] += 1
    if changed or not known.filled:
        replace_prediction(client, known.id, _filled(row), pages.priority(row))
    if known.data != wanted:
        client.tasks.update(id=str(known.id), data=wanted)
        return "updated"
    return "unchanged" if known.filled else "repaired"


def _read(
    project: int, task: Mapping[str, Any], annotation: Mapping[str, Any], people: Mapping[int, str]
) -> PriorReview:
    """One annotation as a review; what is wrong with it is among its problems."""
    data, who = task["data"], annotation["completed_by"]
    before = str(data.get("text", ""))
    reading = prior_page.read(annotation["result"])
    after = " ".join(reading.text.split())
    problems: list[str] = []
    verdict = VERDICTS.get(reading.verdict)
    if text_sha256(before) != data.get("prior_sha256"):
        problems.append("the task's data was changed by hand; run `indus-cot review push`, which mends it")
    elif reading.text_sha256 not in (None, text_sha256(before)):
        problems.append(CHANGED_MEANWHILE)
    elif verdict is None:
        problems.append("no verdict was given")
    elif verdict == "rejected":
        if not reading.reason.strip():
            problems.append("a rejection needs a reason")
    elif after == " ".join(before.split()):
        verdict, after = "accepted", before
    else:
        category = str(data.get("uid")).partition("/")[2].rpartition("/")[0]
        verdict, problems = "fixed", text_problems(after, category)
    return PriorReview(
        review_id=f"{project}/{annotation['id']}",
        prior_id=str(data.get("uid")),
        text_sha256=text_sha256(before),
        reviewer=people.get(who, f"user {who}"),
        reviewed_at=utc(annotation["updated_at"]),
        seconds=float(annotation["lead_time"] or 0.0),
        verdict=verdict or "rejected",
        before=before,
        after=after,
        reason=reading.reason,
        comment=reading.comment,
        result=json.dumps(annotation["result"], ensure_ascii=False),
        problems=problems,
    )


def text_problems(text: str, category: str) -> list[str]:
    """Why a text cannot be the prior of ``category``; empty if it can."""
    found = []
    if not LEAST <= len(text) <= MOST:
        found.append(f"the text has {len(text)} characters, {LEAST} to {MOST} are due")
    if tag := TAG.search(text):
        found.append(f"the text says {tag[0]!r}, which is a tag of the trajectories")
    if control := re.search(r"[\x00-\x1f]", text):
        found.append(f"the text holds the control character {control[0]!r}")
    if said := find_leaks(replace_category_name(text, category)):
        found.append(f"the text says {said[0]!r}, which speaks of the truth of a sample")
    return found


def _return(client: LabelStudio, task: Mapping[str, Any], annotation: Mapping[str, Any], review: PriorReview) -> bool:
    """Open the task again: the page shows why, and is prefilled with what the expert wrote, less the verdict.

    What was written about a text that is no longer on the page, or on another page, stays in the table. What the
    expert has changed meanwhile stays on the page, and False is returned: the next pull reads it.
    """
    if not is_as_exported(client, annotation):
        return False
    kept = [item for item in annotation["result"] if item.get("from_name") not in prior_page.JUDGEMENT]
    ours = any(item.get("from_name") == "prior" for item in kept)
    if ours and CHANGED_MEANWHILE not in review.problems and review.text_sha256 == task["data"].get("prior_sha256"):
        replace_prediction(client, task["id"], kept, task["data"].get("priority", 0.0))
    client.tasks.update(id=str(task["id"]), data=task["data"] | {"returned": page.came_back(review.problems)})
    client.annotations.delete(id=annotation["id"])
    return True


def _write(params: Params, workspace: Workspace, until: Mapping[int, str], rows: Iterable[PriorReview]) -> None:
    ordered = sorted(rows, key=lambda row: (row.reviewed_at, row.review_id))
    with stage_output(
        workspace.prior_review, stage="review pull", params=params.review.model_dump(), inputs={}
    ) as output:
        PRIOR_REVIEW.write(PRIOR_REVIEW.frame(ordered), output.path / workspace.prior_reviews.name)
        write_text(output.path / STATE, json.dumps({"until": until}) + "\n")
        output.counts |= {"reviews": len(ordered)} | {
            name: sum(row.verdict == name for row in ordered) for name in VERDICTS.values()
        }


def _since(workspace: Workspace) -> dict[int, str]:
    """Up to when the project has been read, by its number: another one of the same title is another project."""
    path: Path = workspace.prior_review / STATE
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))["until"]
    return {int(number): str(time) for number, time in found.items()}

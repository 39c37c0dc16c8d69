"""Pushes normalcy priors to Label Studio and pulls the experts' edits: one project, one task for each prior."""

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
    KnownTask,
    build_prediction,
    ensure_project,
    find_project,
    format_filter_time,
    get_last_update,
    has_unread_review,
    is_unchanged_since_export,
    list_changed_tasks,
    list_tasks,
    replace_prediction,
)
from annotation.pull import (
    CHANGED_MEANWHILE,
    STATE_FILE,
    VERDICT_BY_CHOICE,
    PullSummary,
    export_tasks,
    hold_review_lock,
    to_utc,
)
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

MIN_CHARACTERS, MAX_CHARACTERS = 40, 4000
"""Limits of the length of a prior's text, as in :class:`schemas.prior.NormalcyPrior`."""
TRAJECTORY_TAG = re.compile(
    r"</?(?:think|call_tool|tool_call|tool_response|observation|image|location|type|answer)\b", re.IGNORECASE
)
"""Tags of the trajectory format: inside the text of an observation they would end the observation."""
ROLE_LABELS = {"train": "training pool", "evaluate": "evaluation set, never read in training"}


class PriorPushSummary(NamedTuple):
    """Counts of what a push of priors did."""

    project: int
    created: int
    updated: int
    repaired: int
    """Tasks whose prediction was missing, and duplicate tasks of one prior."""
    unchanged: int
    withdrawn: int
    """Deleted tasks: their priors no longer exist, and nobody has reviewed them."""
    set_aside: int
    """Reviews removed from the server because their text has changed; they stay in the table of reviews."""


def push_priors(client: LabelStudio, params: Params, workspace: Workspace, images: ServedImages) -> PriorPushSummary:
    """Update the project of the priors to match ``data/prior``, with the texts before the experts' edits.

    Priors of the training pool come first. The caller must hold the review lock.

    Raises:
        IndusCotError: there are no priors, a text does not fit the page, or the server fails.
    """
    rows: list[NormalcyPrior] = PRIOR.records(PRIOR.read(workspace.prior / MACHINE_FILE))
    if unknown := sorted({row.source_set for row in rows} - params.pull.keys()):
        raise IndusCotError(
            f"{workspace.prior / MACHINE_FILE}: holds priors of the set {unknown[0]}, which `pull` in params.yaml no "
            "longer names; run `indus-cot repro prior`"
        )
    project = ensure_project(
        client, params.review, params.review.priors, images,
        config=prior_page.build_config(), instruction=prior_page.INSTRUCTION,
    )  # fmt: skip
    known_tasks: dict[str, list[KnownTask]] = defaultdict(list)
    for known in list_tasks(client, project):
        known_tasks[str(known.data.get("uid"))].append(known)
    current = {row.prior_id: text_sha256(row.text) for row in rows}
    if any(
        known.annotations and (len(duplicates) > 1 or known.data.get("prior_sha256") != current.get(uid))
        for uid, duplicates in known_tasks.items()
        for known in duplicates
    ):
        # Save reviews of the old text before its task shows the new one.
        pull_priors(client, params, workspace)
    pulled = {review.review_id for review in read_prior_reviews(workspace)}
    pages = _PriorPages(params, workspace, images, project)
    images.upload([sample for row in rows for sample in pages.select_images(row)], ())
    tally: Counter[str] = Counter()
    created: list[dict[str, Any]] = []
    queue = sorted(rows, key=lambda row: (-pages.get_priority(row), row.prior_id))
    for row in track(queue, f"review push: {params.review.priors}", len(queue)):
        matches = sorted(known_tasks.pop(row.prior_id, []), key=lambda known: (-known.annotations, known.id))
        for duplicate in matches[1:]:
            if not has_unread_review(client, project, duplicate, pulled):
                client.tasks.delete(id=str(duplicate.id))
                tally["repaired"] += 1
        if matches:
            tally[_update_task(client, project, matches[0], row, pages, tally, pulled)] += 1
        else:
            created.append(
                {
                    "data": pages.build_data(row),
                    "predictions": [build_prediction(_build_prefill(row), pages.get_priority(row))],
                }
            )
    if created:
        client.projects.import_tasks(id=project, request=cast(Any, created))
    for known in (known for duplicates in known_tasks.values() for known in duplicates):
        # Keep reviewed tasks: they are an expert's work.
        if not known.annotations and not has_unread_review(client, project, known, pulled):
            client.tasks.delete(id=str(known.id))
            tally["withdrawn"] += 1
    counts = {name: tally[name] for name in PriorPushSummary._fields if name not in ("project", "created")}
    return PriorPushSummary(project=project, created=len(created), **counts)


def push(params: Params, workspace: Workspace) -> PriorPushSummary:
    """Take the review lock, connect and call :func:`push_priors`."""
    with hold_review_lock(workspace), connect(params.review, workspace) as client:
        return push_priors(client, params, workspace, ServedImages(workspace, params.review))


def pull(params: Params, workspace: Workspace) -> PullSummary:
    """Take the review lock, connect and call :func:`pull_priors`."""
    with hold_review_lock(workspace), connect(params.review, workspace) as client:
        return pull_priors(client, params, workspace)


def pull_priors(client: LabelStudio, params: Params, workspace: Workspace) -> PullSummary:
    """Write reviews submitted since the last pull to ``data/prior_review/priors.parquet``.

    An invalid text goes back to the expert: the page shows the reason and is prefilled with the expert's text. If no
    priors were pushed, nothing is pulled. The caller must hold the review lock.

    Raises:
        IndusCotError: the server fails. The table is then unchanged.
    """
    known = {row.review_id: row for row in read_prior_reviews(workspace)}
    project = find_project(client, params.review, params.review.priors)
    if project is None:
        return PullSummary(new=0, returned=0, skipped=0, total=len(known))
    since = _load_read_until(workspace)
    start = since.get(project, "")
    people = {user.id: str(user.email) for user in client.users.list()}
    last_update, until, unreturned, skipped = get_last_update(client, project), start, "", 0
    new: dict[str, PriorReview] = {}
    rejected: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for task in export_tasks(client, project, list_changed_tasks(client, project, start) if start else None):
        updated = format_filter_time(datetime.fromisoformat(task["updated_at"]))
        # A task updated after the export began may have been exported before the update: read it again next time.
        until = max(until, min(updated, last_update))
        for annotation in task["annotations"]:
            if annotation["was_cancelled"]:
                skipped += 1
                continue
            review = _parse_review(project, task, annotation, people)
            if known.get(review.review_id) != review:
                new[review.review_id] = review
            if review.problems:
                rejected[review.review_id] = (task, annotation)
                # If this run ends before the review is sent back, the next pull must read it again.
                unreturned = min(unreturned or updated, updated)
    table = {**known, **new}
    _write_reviews(params, workspace, since | {project: unreturned or until}, table.values())
    returned = [_return_to_expert(client, *item, table[name]) for name, item in rejected.items()]
    return PullSummary(new=len(new), returned=sum(returned), skipped=skipped, total=len(table))


class _PriorPages:
    """Builds the tasks of priors."""

    def __init__(self, params: Params, workspace: Workspace, images: ServedImages, project: int) -> None:
        self._params = params
        self._images = images
        self._project = project
        self._groups = read_normal_samples(params, workspace, Output(workspace.prior))

    def get_priority(self, row: NormalcyPrior) -> float:
        """Return 1 for a prior of the training pool, which trajectories quote, and 0 for one of an evaluation set."""
        return float(self._get_role(row) == "train")

    def select_images(self, row: NormalcyPrior) -> list[Sample]:
        """Return the normal images for the page of a prior."""
        group = self._groups.get((row.source_set, row.category, row.view), [])
        drawn = draw_samples(group, self._params.prior.max_images, self._params.run.seed)
        # Show only measured images: those that cannot be decoded were not measured.
        return [item for item in drawn if item.image_sha256 in set(row.image_sha256)][: prior_page.MAX_SHOWN_IMAGES]

    def build_data(self, row: NormalcyPrior) -> dict[str, Any]:
        """Return the data of a task."""
        pictures = [
            prior_page.PageImage(self._images.sample_url_in_html(item, self._project), item.width, item.height)
            for item in self.select_images(row)
        ]
        data = prior_page.build_task(row, text_sha256(row.text), ROLE_LABELS[self._get_role(row)], pictures)
        return data | {"priority": self.get_priority(row)}

    def _get_role(self, row: NormalcyPrior) -> str:
        return self._params.pull[row.source_set].role


def _build_prefill(row: NormalcyPrior) -> list[dict[str, Any]]:
    """Return the checked results that prefill the page."""
    result = prior_page.build_prefill(text_sha256(row.text), row.text)
    prior_page.check_prefill(result)
    return result


def _update_task(
    client: LabelStudio,
    project: int,
    known: KnownTask,
    row: NormalcyPrior,
    pages: _PriorPages,
    tally: Counter[str],
    pulled: Collection[str],
) -> str:
    """Update one task and return what was done. ``pulled`` holds the ids of all pulled reviews."""
    wanted = pages.build_data(row)
    changed = known.data.get("prior_sha256") != wanted["prior_sha256"]
    if not changed:
        # The page shows why a review was sent back until the text changes.
        wanted["returned"] = known.data.get("returned", "")
    elif known.annotations:
        for annotation in client.annotations.list(id=known.id):
            if annotation.was_cancelled or f"{project}/{annotation.id}" in pulled:
                client.annotations.delete(id=annotation.id)
                tally["set_aside"] += 1
    if changed or not known.has_prediction:
        replace_prediction(client, known.id, _build_prefill(row), pages.get_priority(row))
    if known.data != wanted:
        client.tasks.update(id=str(known.id), data=wanted)
        return "updated"
    return "unchanged" if known.has_prediction else "repaired"


def _parse_review(
    project: int, task: Mapping[str, Any], annotation: Mapping[str, Any], people: Mapping[int, str]
) -> PriorReview:
    """Convert one annotation to a review; reasons why it cannot be applied are in its ``problems``."""
    data, user = task["data"], annotation["completed_by"]
    before = str(data.get("text", ""))
    reading = prior_page.read_annotation(annotation["result"])
    after = " ".join(reading.text.split())
    problems: list[str] = []
    verdict = VERDICT_BY_CHOICE.get(reading.verdict)
    if text_sha256(before) != data.get("prior_sha256"):
        problems.append("the task's data was changed by hand; run `indus-cot review push` to repair it")
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
        verdict, problems = "fixed", find_text_problems(after, category)
    return PriorReview(
        review_id=f"{project}/{annotation['id']}",
        prior_id=str(data.get("uid")),
        text_sha256=text_sha256(before),
        reviewer=people.get(user, f"user {user}"),
        reviewed_at=to_utc(annotation["updated_at"]),
        seconds=float(annotation["lead_time"] or 0.0),
        verdict=verdict or "rejected",
        before=before,
        after=after,
        reason=reading.reason,
        comment=reading.comment,
        result=json.dumps(annotation["result"], ensure_ascii=False),
        problems=problems,
    )


def find_text_problems(text: str, category: str) -> list[str]:
    """Return why a text is invalid as the prior of ``category``; empty if it is valid."""
    problems = []
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
        problems.append(f"the text has {len(text)} characters, {MIN_CHARACTERS} to {MAX_CHARACTERS} are allowed")
    if tag := TRAJECTORY_TAG.search(text):
        problems.append(f"the text contains {tag[0]!r}, which is a tag of the trajectories; remove it")
    if control := re.search(r"[\x00-\x1f]", text):
        problems.append(f"the text contains the control character {control[0]!r}; remove it")
    if leaked := find_leaks(replace_category_name(text, category)):
        problems.append(f"the text says {leaked[0]!r}, which reveals the ground truth of a sample; remove it")
    return problems


def _return_to_expert(
    client: LabelStudio, task: Mapping[str, Any], annotation: Mapping[str, Any], review: PriorReview
) -> bool:
    """Reopen the task: the page shows the problems and is prefilled with the expert's text, without the verdict.

    A review of a text that is no longer on the page, or of another page, is not prefilled; it stays in the table.
    If the expert has changed the annotation since the export, leave it and return False: the next pull reads it.
    """
    if not is_unchanged_since_export(client, annotation):
        return False
    kept = [item for item in annotation["result"] if item.get("from_name") not in prior_page.JUDGEMENT_CONTROLS]
    matches_page = any(item.get("from_name") == "prior" for item in kept)
    if (
        matches_page
        and CHANGED_MEANWHILE not in review.problems
        and review.text_sha256 == task["data"].get("prior_sha256")
    ):
        replace_prediction(client, task["id"], kept, task["data"].get("priority", 0.0))
    client.tasks.update(id=str(task["id"]), data=task["data"] | {"returned": page.describe_return(review.problems)})
    client.annotations.delete(id=annotation["id"])
    return True


def _write_reviews(params: Params, workspace: Workspace, until: Mapping[int, str], rows: Iterable[PriorReview]) -> None:
    ordered = sorted(rows, key=lambda row: (row.reviewed_at, row.review_id))
    with stage_output(
        workspace.prior_review, stage="review pull", params=params.review.model_dump(), inputs={}
    ) as output:
        PRIOR_REVIEW.write(PRIOR_REVIEW.frame(ordered), output.path / workspace.prior_reviews.name)
        write_text(output.path / STATE_FILE, json.dumps({"until": until}) + "\n")
        output.counts |= {"reviews": len(ordered)} | {
            name: sum(row.verdict == name for row in ordered) for name in VERDICT_BY_CHOICE.values()
        }


def _load_read_until(workspace: Workspace) -> dict[int, str]:
    """Return up to when each project was read, by number: a new project may have the title of a deleted one."""
    path: Path = workspace.prior_review / STATE_FILE
    if not path.is_file():
        return {}
    until = json.loads(path.read_text(encoding="utf-8"))["until"]
    return {int(number): str(time) for number, time in until.items()}

"""Pushes drafts to Label Studio: one task for each draft and project. A second push changes nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from threading import Event
from typing import Any, NamedTuple, cast

from label_studio_sdk import LabelStudio

from annotation import page
from annotation.adjudication import describe_reviews, find_disagreements
from annotation.assignment import Assignment, assign_drafts
from annotation.connect import connect
from annotation.images import ServedImages
from annotation.masks import MaskReader
from annotation.project import (
    KnownTask,
    build_prediction,
    check_accounts,
    ensure_project,
    has_unread_review,
    list_tasks,
    replace_prediction,
)
from annotation.pull import hold_review_lock, pull
from annotation.queue import QueuePosition, rank_draft
from cot_builder.corpus.drafts import read_trajectory
from cot_builder.corpus.reviews import decide_drafts, read_reviews
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE, Sample
from schemas.trajectory import DRAFT, Draft

IMPORT_BATCH = 500
"""Number of tasks in one import request."""
KEPT_FIELDS = ("returned", "mask")
"""Fields of a task's data that do not come from the draft and stay until the draft changes."""


class PushSummary(NamedTuple):
    """Counts of what a push did."""

    projects: dict[str, int]
    """Numbers of the projects by title."""
    created: int
    updated: int
    repaired: int
    """Tasks whose prediction was missing, and duplicate tasks of one draft."""
    unchanged: int
    withdrawn: int
    """Deleted tasks: their project no longer needs them, and nobody has reviewed them."""
    set_aside: int
    """Reviews removed from the server because their draft has changed; they stay in the table of reviews."""
    elsewhere: int
    """Drafts assigned to another annotator after somebody had already decided on them."""
    to_settle: int
    """Drafts that wait for adjudication."""


@dataclass(frozen=True)
class _RequiredPage:
    """A page that a project must have."""

    pages: "DraftPages"
    shown: Draft
    position: QueuePosition
    reasons: Sequence[str]
    """Why the draft is in the queue."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """The task's data without the fields of :data:`KEPT_FIELDS`."""
        return self.pages.build_data(self)


def push(params: Params, workspace: Workspace) -> PushSummary:
    """Update the projects and their tasks to match ``data/draft`` and the reviews pulled so far.

    Raises:
        IndusCotError: there are no drafts, an annotator has no account, a prediction does not fit the page, or the
            server fails.
    """
    draft_table = DRAFT.read(workspace.draft / "trajectory.parquet")
    pages = DraftPages(params, workspace)
    request_sent = Event()
    with (
        hold_review_lock(workspace),
        connect(params.review, workspace, request_sent.set) as client,
        ThreadPoolExecutor(1) as list_thread,
    ):
        listed = list_thread.submit(_prepare_projects, client, params, pages)
        # Build the pages while the server lists its tasks: the listing dominates if nothing has changed.
        drafts: list[Draft] = DRAFT.records(draft_table)
        pages.check_samples(drafts)
        assigned = assign_drafts(drafts, params.review, params.run.seed)
        current = {draft.draft_id: draft for draft in drafts}
        # The adjudication project has no entry here: it may hold any current draft.
        shown = {title: {item.draft.draft_id: item.shown for item in items} for title, items in assigned.items()}
        pages.upload([*drafts, *(item.shown for items in assigned.values() for item in items)])
        required = {
            title: {item.draft.draft_id: pages.plan_page(item.draft, item.shown) for item in items}
            for title, items in assigned.items()
        }
        for item in chain.from_iterable(items.values() for items in required.values()):
            if listed.done():
                break
            _ = item.data
        projects, known_tasks = listed.result()
        if any(_would_lose_review(tasks, shown.get(title, current)) for title, tasks in known_tasks.items()):
            # Save reviews of the old draft before its task shows the new one.
            pull(params, workspace, client)
        reviews = read_reviews(workspace)
        decided = set(decide_drafts(reviews))
        disagreements = find_disagreements(reviews)
        tally: Counter[str] = Counter()
        due: dict[str, list[_RequiredPage]] = {}
        for title, items in assigned.items():
            pending = [item for item in items if not _is_decided_elsewhere(item, title, known_tasks, decided, params)]
            tally["elsewhere"] += len(items) - len(pending)
            due[title] = [required[title][item.draft.draft_id] for item in pending]
        to_settle = [draft for draft in drafts if draft.draft_sha256 in disagreements]
        if params.review.annotators:
            due[params.review.adjudication] = [
                pages.plan_page(draft, draft, describe_reviews(disagreements[draft.draft_sha256]))
                for draft in to_settle
            ]
        pulled = {row.review_id for row in reviews}
        for title, project_pages in due.items():
            tally += _update_project(
                client, title, projects[title], known_tasks[title], project_pages, pages, pulled, request_sent
            )
    counts = {name: tally[name] for name in PushSummary._fields if name not in ("projects", "to_settle")}
    return PushSummary(projects=projects, to_settle=len(to_settle), **counts)


class DraftPages:
    """Builds the tasks of drafts."""

    def __init__(self, params: Params, workspace: Workspace) -> None:
        samples = SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
        self._samples: dict[str, Sample] = {row.sample_id: row for row in samples}
        self._params = params
        self.images = ServedImages(workspace, params.review)
        self.masks = MaskReader(workspace)

    def check_samples(self, drafts: Iterable[Draft]) -> None:
        """Check that the sample of every draft is still selected.

        Raises:
            IndusCotError: the samples of some drafts are not.
        """
        if unknown := [draft.draft_id for draft in drafts if draft.sample_id not in self._samples]:
            raise IndusCotError(
                f"data/draft has {len(unknown)} drafts whose samples are no longer in data/select, the first is "
                f"{unknown[0]}; run `indus-cot draft` again"
            )

    def upload(self, drafts: Sequence[Draft]) -> None:
        """Upload the images of all these pages to where Label Studio serves them from."""
        samples = {draft.sample_id: self._samples[draft.sample_id] for draft in drafts}
        self.images.upload(samples.values(), {digest: None for draft in drafts for digest in draft.observations})

    def plan_page(self, draft: Draft, shown: Draft, opinions: Sequence[str] = ()) -> _RequiredPage:
        """Return the page of ``draft`` that shows ``shown``.

        Its position in the queue is that of ``draft``, so that a planted mistake in ``shown`` does not change it.
        ``opinions`` are the reviews of experts who disagree, for the adjudicator.
        """
        position = rank_draft(draft, self._params.review, self._params.run.seed)
        reasons = [*position.reasons.values(), *(["drawn at random"] if position.audit else [])] or ["next in line"]
        if opinions:
            reasons = [f"experts disagree: {', '.join(opinions)}"]
        return _RequiredPage(self, shown, position, reasons)

    def build_data(self, required: _RequiredPage) -> dict[str, Any]:
        """Return the data of a task without the fields of :data:`KEPT_FIELDS`."""
        draft, sample = required.shown, self._samples[required.shown.sample_id]
        urls = {digest: self.images.observation_url(digest) for digest in draft.observations}
        trajectory = read_trajectory(draft)
        image_url = self.images.sample_url(sample)
        data = page.build_task(draft, trajectory, sample.category, sample.view, image_url, urls, required.reasons)
        # Include the trajectory: a pull compares the annotation with it, even if there is a newer draft by then.
        return data | {
            "trajectory": draft.trajectory,
            "sample_id": draft.sample_id,
            "priority": required.position.priority,
            "audit": required.position.audit,
        }

    def build_prefill(self, draft: Draft) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the results that prefill the page of ``draft``, and the digests of its mask."""
        trajectory, sample = read_trajectory(draft), self._samples[draft.sample_id]
        mask = self.masks.read(sample)
        result = page.build_prefill(draft.draft_sha256, trajectory, sample.width, sample.height, mask)
        page.check_prefill(result, trajectory, masks=self.masks.has_masks)
        return result, page.hash_mask(result, mask)

    def build_import(self, required: _RequiredPage) -> dict[str, Any]:
        """Return a task for the import: its data, and the prediction that prefills its page."""
        result, digests = self.build_prefill(required.shown)
        prediction = build_prediction(result, required.position.priority)
        return {"data": required.data | {"mask": digests}, "predictions": [prediction]}


def _prepare_projects(
    client: LabelStudio, params: Params, pages: DraftPages
) -> tuple[dict[str, int], dict[str, dict[str, list[KnownTask]]]]:
    """Create or update the projects; return their numbers by title, and the tasks of each by draft."""
    check_accounts(client, params.review)
    projects: dict[str, int] = {}
    known_tasks: dict[str, dict[str, list[KnownTask]]] = {}
    for title in params.review.projects:
        projects[title] = ensure_project(
            client, params.review, title, pages.images, config=page.build_config(pages.masks.has_masks)
        )
        known_tasks[title] = defaultdict(list)
        for known in list_tasks(client, projects[title]):
            known_tasks[title][str(known.data.get("uid"))].append(known)
    return projects, known_tasks


def _would_lose_review(tasks: Mapping[str, Sequence[KnownTask]], shown: Mapping[str, Draft]) -> bool:
    """Return whether the push would remove a review: its draft has changed, or its task is a duplicate."""
    return any(
        known.annotations
        and (len(duplicates) > 1 or _get_draft_sha256(known) != getattr(shown.get(uid), "draft_sha256", None))
        for uid, duplicates in tasks.items()
        for known in duplicates
    )


def _is_decided_elsewhere(
    item: Assignment, title: str, known_tasks: Mapping[str, Mapping[str, Any]], decided: set[str], params: Params
) -> bool:
    """Return whether somebody decided on a draft before this annotator got it; it needs no second review."""
    is_new = item.draft.draft_id not in known_tasks[title]
    return bool(params.review.annotators) and is_new and not item.shared and item.shown.draft_sha256 in decided


def _get_draft_sha256(known: KnownTask) -> str:
    return str(known.data.get("draft_sha256"))


def _update_project(
    client: LabelStudio,
    title: str,
    project: int,
    known_tasks: dict[str, list[KnownTask]],
    required: Sequence[_RequiredPage],
    pages: DraftPages,
    pulled: set[str],
    request_sent: Event,
) -> Counter[str]:
    """Update the tasks of one project; return counts of what was done.

    Args:
        client: Connection to the server.
        title: Title of the project.
        project: Number of the project.
        known_tasks: Its tasks on the server, by draft.
        required: The pages that it must have.
        pages: Builds tasks.
        pulled: Ids of all pulled reviews.
        request_sent: Set whenever the client sends a request.
    """
    tally: Counter[str] = Counter()
    created: list[_RequiredPage] = []
    queue = sorted(required, key=lambda item: (-item.position.priority, item.shown.draft_id))
    for item in track(queue, f"review push: {title}", len(queue)):
        matches = sorted(known_tasks.pop(item.shown.draft_id, []), key=lambda known: (-known.annotations, known.id))
        for duplicate in matches[1:]:
            if not has_unread_review(client, project, duplicate, pulled):
                client.tasks.delete(id=str(duplicate.id))
                tally["repaired"] += 1
        if matches:
            tally += _update_task(client, project, matches[0], item, pages, pulled)
        else:
            created.append(item)
    if created:
        _import_tasks(client, title, project, created, pages, request_sent)
    tally["created"] = len(created)
    for duplicates in known_tasks.values():
        for known in duplicates:
            # Keep reviewed tasks: they are an expert's work.
            if not known.annotations and not has_unread_review(client, project, known, pulled):
                client.tasks.delete(id=str(known.id))
                tally["withdrawn"] += 1
    return tally


def _import_tasks(
    client: LabelStudio, title: str, project: int, new: Sequence[_RequiredPage], pages: DraftPages, request_sent: Event
) -> None:
    """Import new tasks in batches; build a batch while the server processes the one before it."""
    with ThreadPoolExecutor(1) as importing:
        sent: Future[Any] | None = None
        batch: list[dict[str, Any]] = []
        for number, item in enumerate(track(new, f"review push: {title}, new", len(new)), start=1):
            batch.append(pages.build_import(item))
            if len(batch) == IMPORT_BATCH or number == len(new):
                if sent:
                    sent.result()
                request_sent.clear()
                sent = importing.submit(client.projects.import_tasks, id=project, request=cast(Any, batch))
                sent.add_done_callback(lambda _: request_sent.set())
                batch = []
                # Wait until the SDK has encoded the batch: building pages at the same time would slow both down.
                request_sent.wait()
        if sent:
            sent.result()


def _update_task(
    client: LabelStudio, project: int, known: KnownTask, required: _RequiredPage, pages: DraftPages, pulled: set[str]
) -> Counter[str]:
    """Update one task; return counts of what was done."""
    tally: Counter[str] = Counter()
    wanted = dict(required.data)
    changed = _get_draft_sha256(known) != required.shown.draft_sha256
    if changed or not known.has_prediction:
        result, wanted["mask"] = pages.build_prefill(required.shown)
    if not changed:
        # The page shows why a review was sent back until the draft changes.
        wanted |= {name: known.data[name] for name in KEPT_FIELDS if name in known.data}
    if changed and known.annotations:
        for annotation in client.annotations.list(id=known.id):
            if annotation.was_cancelled or f"{project}/{annotation.id}" in pulled:
                client.annotations.delete(id=annotation.id)
                tally["set_aside"] += 1
    if changed or not known.has_prediction:
        replace_prediction(client, known.id, result, required.position.priority)
    elif known.data.get("priority") != required.position.priority:
        for item in client.predictions.list(task=known.id):
            client.predictions.update(id=item.id, score=-required.position.priority)
    if known.data != wanted:
        client.tasks.update(id=str(known.id), data=wanted)
        tally["updated"] += 1
    else:
        tally["unchanged" if known.has_prediction else "repaired"] += 1
    return tally

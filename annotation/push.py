"""Sends drafts to Label Studio: one task a draft and project; run twice, it changes nothing."""

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
from annotation.adjudication import disagreements, told
from annotation.assignment import Assigned, assign
from annotation.connect import connect
from annotation.images import ServedImages
from annotation.masks import Masks
from annotation.project import Known, check_accounts, ensure_project, prediction, replace_prediction, tasks, unread
from annotation.pull import one_at_a_time, pull
from annotation.queue import Place, place
from cot_builder.corpus.drafts import read_trajectory
from cot_builder.corpus.reviews import decide_drafts, read_reviews
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE, Sample
from schemas.trajectory import DRAFT, Draft

AT_ONCE = 500
"""Tasks a request of the import."""
KEPT = ("returned", "mask")
"""What a task's data hold that was not in the draft, and that stays until the draft changes."""


class Pushed(NamedTuple):
    """What a push did."""

    projects: dict[str, int]
    """Numbers of the projects by title."""
    created: int
    updated: int
    repaired: int
    """Tasks whose prediction was gone, and second tasks of one draft."""
    unchanged: int
    withdrawn: int
    """Tasks that a project need not hold any more, and that nobody had reviewed."""
    set_aside: int
    """Reviews of drafts that have changed; they stay in the table of reviews."""
    elsewhere: int
    """Drafts that somebody had decided on before they became another annotator's."""
    to_settle: int
    """Drafts that wait for adjudication."""


@dataclass(frozen=True)
class _Due:
    """A page that a project must hold."""

    pages: "Pages"
    shown: Draft
    where: Place
    why: Sequence[str]
    """Why it is in the queue."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """The task's data, without what :data:`KEPT` names."""
        return self.pages.data(self)


def push(params: Params, workspace: Workspace) -> Pushed:
    """Bring the projects and their tasks to the state of ``data/draft`` and of the reviews pulled so far.

    Raises:
        IndusCotError: there are no drafts; an annotator has no account; a prediction does not fit the page; the
            server fails.
    """
    read = DRAFT.read(workspace.draft / "trajectory.parquet")
    pages = Pages(params, workspace)
    sending = Event()
    with (
        one_at_a_time(workspace),
        connect(params.review, workspace, sending.set) as client,
        ThreadPoolExecutor(1) as listing,
    ):
        listed = listing.submit(_there, client, params, pages)
        # Read and made while the server lists its tasks, which is what takes time when nothing has changed.
        drafts: list[Draft] = DRAFT.records(read)
        pages.check(drafts)
        assigned = assign(drafts, params.review, params.run.seed)
        current = {draft.draft_id: draft for draft in drafts}
        # In the project of disagreements any draft may stand, as it is now.
        shown = {title: {item.draft.draft_id: item.shown for item in items} for title, items in assigned.items()}
        pages.upload([*drafts, *(item.shown for items in assigned.values() for item in items)])
        made = {
            title: {item.draft.draft_id: pages.due(item.draft, item.shown) for item in items}
            for title, items in assigned.items()
        }
        for item in chain.from_iterable(items.values() for items in made.values()):
            if listed.done():
                break
            _ = item.data
        projects, there = listed.result()
        if any(_overtaken(found, shown.get(title, current)) for title, found in there.items()):
            # What was said of the old draft is kept before its task shows the new one.
            pull(params, workspace, client)
        reviews = read_reviews(workspace)
        decided = set(decide_drafts(reviews))
        disagreed = disagreements(reviews)
        tally: Counter[str] = Counter()
        due: dict[str, list[_Due]] = {}
        for title, items in assigned.items():
            mine = [item for item in items if not _elsewhere(item, title, there, decided, params)]
            tally["elsewhere"] += len(items) - len(mine)
            due[title] = [made[title][item.draft.draft_id] for item in mine]
        to_settle = [draft for draft in drafts if draft.draft_sha256 in disagreed]
        if params.review.annotators:
            due[params.review.adjudication] = [
                pages.due(draft, draft, told(disagreed[draft.draft_sha256])) for draft in to_settle
            ]
        pulled = {row.review_id for row in reviews}
        for title, pages_due in due.items():
            tally += _bring(client, title, projects[title], there[title], pages_due, pages, pulled, sending)
    counts = {name: tally[name] for name in Pushed._fields if name not in ("projects", "to_settle")}
    return Pushed(projects=projects, to_settle=len(to_settle), **counts)


class Pages:
    """Drafts as tasks."""

    def __init__(self, params: Params, workspace: Workspace) -> None:
        samples = SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
        self._samples: dict[str, Sample] = {row.sample_id: row for row in samples}
        self._params = params
        self.images = ServedImages(workspace, params.review)
        self.masks = Masks(workspace)

    def check(self, drafts: Iterable[Draft]) -> None:
        """Check that every draft's sample is here.

        Raises:
            IndusCotError: one is not.
        """
        if unknown := [draft.draft_id for draft in drafts if draft.sample_id not in self._samples]:
            raise IndusCotError(
                f"draft holds {len(unknown)} samples that select no longer has, {unknown[0]} first; draft again"
            )

    def upload(self, drafts: Sequence[Draft]) -> None:
        """Put the images of all these pages where Label Studio serves them from."""
        samples = {draft.sample_id: self._samples[draft.sample_id] for draft in drafts}
        self.images.upload(samples.values(), {digest: None for draft in drafts for digest in draft.observations})

    def due(self, draft: Draft, shown: Draft, said: Sequence[str] = ()) -> _Due:
        """The page of ``draft``: its place in the queue is that of the draft, whatever is planted in what is shown."""
        where = place(draft, self._params.review, self._params.run.seed)
        why = [*where.why.values(), *(["drawn at random"] if where.audit else [])] or ["next in line"]
        return _Due(self, shown, where, [f"experts disagree: {', '.join(said)}"] if said else why)

    def data(self, due: _Due) -> dict[str, Any]:
        """A task's data, without what :data:`KEPT` names."""
        draft, sample = due.shown, self._samples[due.shown.sample_id]
        urls = {digest: self.images.observation(digest) for digest in draft.observations}
        trajectory = read_trajectory(draft)
        data = page.task(draft, trajectory, sample.category, sample.view, self.images.sample(sample), urls, due.why)
        # The draft itself too: what an expert changed is told by it, even when a new one is here by then.
        return data | {
            "trajectory": draft.trajectory,
            "sample_id": draft.sample_id,
            "priority": due.where.priority,
            "audit": due.where.audit,
        }

    def filled(self, draft: Draft) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """What prefills the page of ``draft``, and the digests of its mask."""
        trajectory, sample = read_trajectory(draft), self._samples[draft.sample_id]
        mask = self.masks.of(sample)
        result = page.prefill(draft.draft_sha256, trajectory, sample.width, sample.height, mask)
        page.check(result, trajectory, masks=self.masks.any)
        return result, page.mask_digests(result, mask)

    def new(self, due: _Due) -> dict[str, Any]:
        """A task as it is imported: what the page shows, and the prediction that prefills it."""
        result, digest = self.filled(due.shown)
        return {"data": due.data | {"mask": digest}, "predictions": [prediction(result, due.where.priority)]}


def _there(
    client: LabelStudio, params: Params, pages: Pages
) -> tuple[dict[str, int], dict[str, dict[str, list[Known]]]]:
    """The projects, made or brought up to date, by title, and what tasks each has by draft."""
    check_accounts(client, params.review)
    projects: dict[str, int] = {}
    there: dict[str, dict[str, list[Known]]] = {}
    for title in params.review.projects:
        projects[title] = ensure_project(
            client, params.review, title, pages.images, config=page.config(pages.masks.any)
        )
        there[title] = defaultdict(list)
        for known in tasks(client, projects[title]):
            there[title][str(known.data.get("uid"))].append(known)
    return projects, there


def _overtaken(found: Mapping[str, Sequence[Known]], shown: Mapping[str, Draft]) -> bool:
    """Whether a review of a draft that has changed, or of a doubled task, is about to leave the page."""
    return any(
        known.annotations and (len(several) > 1 or _sha256(known) != getattr(shown.get(uid), "draft_sha256", None))
        for uid, several in found.items()
        for known in several
    )


def _elsewhere(
    item: Assigned, title: str, there: Mapping[str, Mapping[str, Any]], decided: set[str], params: Params
) -> bool:
    """Whether somebody decided on a draft before it became this annotator's: nobody need look at it again."""
    new = item.draft.draft_id not in there[title]
    return bool(params.review.annotators) and new and not item.shared and item.shown.draft_sha256 in decided


def _sha256(known: Known) -> str:
    return str(known.data.get("draft_sha256"))


def _bring(
    client: LabelStudio,
    title: str,
    project: int,
    there: dict[str, list[Known]],
    due: Sequence[_Due],
    pages: Pages,
    read: set[str],
    sending: Event,
) -> Counter[str]:
    """Bring the tasks of one project up to date; what had to be done.

    ``read`` has the reviews that were pulled, and ``sending`` is set by every request.
    """
    tally: Counter[str] = Counter()
    created: list[_Due] = []
    queue = sorted(due, key=lambda item: (-item.where.priority, item.shown.draft_id))
    for item in track(queue, f"review push: {title}", len(queue)):
        found = sorted(there.pop(item.shown.draft_id, []), key=lambda known: (-known.annotations, known.id))
        for double in found[1:]:
            if not unread(client, project, double, read):
                client.tasks.delete(id=str(double.id))
                tally["repaired"] += 1
        if found:
            tally += _update(client, project, found[0], item, pages, read)
        else:
            created.append(item)
    if created:
        _import(client, title, project, created, pages, sending)
    tally["created"] = len(created)
    for several in there.values():
        for known in several:
            # A task somebody has reviewed stays: it is their work.
            if not known.annotations and not unread(client, project, known, read):
                client.tasks.delete(id=str(known.id))
                tally["withdrawn"] += 1
    return tally


def _import(client: LabelStudio, title: str, project: int, new: Sequence[_Due], pages: Pages, sending: Event) -> None:
    with ThreadPoolExecutor(1) as importing:
        sent: Future[Any] | None = None
        made: list[dict[str, Any]] = []
        for number, item in enumerate(track(new, f"review push: {title}, new", len(new)), start=1):
            # Made while the server takes in the last ones.
            made.append(pages.new(item))
            if len(made) == AT_ONCE or number == len(new):
                if sent:
                    sent.result()
                sending.clear()
                sent = importing.submit(client.projects.import_tasks, id=project, request=cast(Any, made))
                sent.add_done_callback(lambda _: sending.set())
                made = []
                # The SDK is long about encoding them: two threads of one interpreter would only slow each other down.
                sending.wait()
        if sent:
            sent.result()


def _update(client: LabelStudio, project: int, known: Known, due: _Due, pages: Pages, read: set[str]) -> Counter[str]:
    """Bring one task up to date."""
    tally: Counter[str] = Counter()
    wanted = dict(due.data)
    changed = _sha256(known) != due.shown.draft_sha256
    if changed or not known.filled:
        result, wanted["mask"] = pages.filled(due.shown)
    if not changed:
        # Why a review came back stays on the page until the draft changes.
        wanted |= {name: known.data[name] for name in KEPT if name in known.data}
    if changed and known.annotations:
        for annotation in client.annotations.list(id=known.id):
            if annotation.was_cancelled or f"{project}/{annotation.id}" in read:
                client.annotations.delete(id=annotation.id)
                tally["set_aside"] += 1
    if changed or not known.filled:
        replace_prediction(client, known.id, result, due.where.priority)
    elif known.data.get("priority") != due.where.priority:
        for item in client.predictions.list(task=known.id):
            client.predictions.update(id=item.id, score=-due.where.priority)
    if known.data != wanted:
        client.tasks.update(id=str(known.id), data=wanted)
        tally["updated"] += 1
    else:
        tally["unchanged" if known.filled else "repaired"] += 1
    return tally

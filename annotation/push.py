"""Sends drafts to Label Studio: one task a draft; run twice, it changes nothing."""

from collections import defaultdict
from typing import Any, NamedTuple, cast

from label_studio_sdk import LabelStudio

from annotation import page
from annotation.connect import connect
from annotation.images import ServedImages
from annotation.project import MODEL_VERSION, Known, ensure_project, replace_prediction, tasks
from annotation.pull import one_at_a_time, pull
from annotation.queue import place
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.stages.draft import read_trajectory
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE, Sample
from schemas.trajectory import DRAFT, Draft

AT_ONCE = 500
"""Tasks a request of the import."""


class Pushed(NamedTuple):
    """What a push did."""

    project: int
    created: int
    updated: int
    repaired: int
    """Tasks whose prediction was gone, and second tasks of one draft."""
    unchanged: int
    withdrawn: int
    """Tasks of drafts that are no more, and that nobody had reviewed."""
    set_aside: int
    """Reviews of drafts that have changed; they stay in the table of reviews."""


def push(params: Params, workspace: Workspace) -> Pushed:
    """Bring the project and its tasks to the state of ``data/draft``.

    Raises:
        IndusCotError: there are no drafts; a prediction does not fit the page; the server fails.
    """
    drafts: list[Draft] = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
    samples: dict[str, Sample] = {
        row.sample_id: row for row in SAMPLE.records(SAMPLE.read(workspace.select / "sample.parquet"))
    }
    if unknown := [draft.draft_id for draft in drafts if draft.sample_id not in samples]:
        raise IndusCotError(
            f"draft holds {len(unknown)} samples that select no longer has, {unknown[0]} first; draft again"
        )
    images = ServedImages(workspace)
    with one_at_a_time(workspace), connect(params.review, workspace) as client:
        project = ensure_project(client, params.review, images)
        there: dict[str, list[Known]] = defaultdict(list)
        for known in tasks(client, project):
            there[str(known.data.get("uid"))].append(known)
        current = {draft.draft_id: draft for draft in drafts}
        reviewed = [
            known
            for uid, several in there.items()
            for known in several
            if known.annotations
            and (len(several) > 1 or _sha256(known) != getattr(current.get(uid), "draft_sha256", None))
        ]
        if reviewed:
            # What was said of the old draft is kept before its task shows the new one.
            pull(params, workspace, client)
        queue = sorted(
            drafts, key=lambda draft: (-place(draft, params.review, params.run.seed).priority, draft.draft_id)
        )
        created: list[dict[str, Any]] = []
        tally = dict.fromkeys(("updated", "repaired", "unchanged", "withdrawn", "set_aside"), 0)
        for draft in track(queue, "review push", len(queue)):
            data = _data(draft, samples[draft.sample_id], images, params)
            found = sorted(there.pop(draft.draft_id, []), key=lambda item: (-item.annotations, item.id))
            for double in found[1:]:
                client.tasks.delete(id=str(double.id))
                tally["repaired"] += 1
            if found:
                tally[_update(client, found[0], data, draft, samples[draft.sample_id], tally)] += 1
            else:
                created.append(_new(data, draft, samples[draft.sample_id]))
        for start in track(range(0, len(created), AT_ONCE), "review push: new tasks", -(-len(created) // AT_ONCE)):
            client.projects.import_tasks(id=project, request=cast(Any, created[start : start + AT_ONCE]))
        for several in there.values():
            for known in several:
                # A task somebody has reviewed stays: it is their work.
                if not known.annotations:
                    client.tasks.delete(id=str(known.id))
                    tally["withdrawn"] += 1
    return Pushed(project=project, created=len(created), **tally)


def new_task(draft: Draft, sample: Sample, images: ServedImages, params: Params) -> dict[str, Any]:
    """A task as it is imported: what the page shows, and the prediction that prefills it."""
    return _new(_data(draft, sample, images, params), draft, sample)


def _new(data: dict[str, Any], draft: Draft, sample: Sample) -> dict[str, Any]:
    return {"data": data, "predictions": [_prediction(draft, sample)]}


def _sha256(known: Known) -> str:
    return str(known.data.get("draft_sha256"))


def _update(
    client: LabelStudio, known: Known, data: dict[str, Any], draft: Draft, sample: Sample, tally: dict[str, int]
) -> str:
    """Bring one task up to date; returns what had to be done."""
    changed = _sha256(known) != draft.draft_sha256
    # Why a review came back stays on the page until the draft changes.
    wanted = data if changed else data | {"returned": known.data.get("returned", data["returned"])}
    if changed:
        for annotation in client.annotations.list(id=known.id) if known.annotations else []:
            client.annotations.delete(id=annotation.id)
            tally["set_aside"] += 1
        replace_prediction(client, known.id, _prediction(draft, sample)["result"])
    elif not known.predictions:
        replace_prediction(client, known.id, _prediction(draft, sample)["result"])
    if known.data != wanted:
        client.tasks.update(id=str(known.id), data=wanted)
        return "updated"
    return "unchanged" if known.predictions else "repaired"


def _data(draft: Draft, sample: Sample, images: ServedImages, params: Params) -> dict[str, Any]:
    where = place(draft, params.review, params.run.seed)
    why = [*where.why.values(), *(["drawn at random"] if where.audit else [])]
    shown = {digest: images.observation(digest) for digest in draft.observations}
    data = page.task(
        draft,
        read_trajectory(draft),
        sample.category,
        sample.view,
        images.sample(sample),
        shown,
        why or ["next in line"],
    )
    # The draft itself too: what an expert changed is told by it, even when a new one is here by then.
    return data | {
        "trajectory": draft.trajectory,
        "sample_id": draft.sample_id,
        "priority": where.priority,
        "audit": where.audit,
    }


def _prediction(draft: Draft, sample: Sample) -> dict[str, Any]:
    trajectory = read_trajectory(draft)
    result = page.prefill(draft.draft_sha256, trajectory, sample.width, sample.height)
    page.check(result, trajectory)
    return {"model_version": MODEL_VERSION, "result": result}

"""The project in Label Studio and its tasks, as they are there."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from math import ceil
from typing import Any, NamedTuple
from urllib.parse import urljoin

from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from annotation.connect import reason
from annotation.images import Bucket, Folder, ServedImages
from cot_builder.params import Review
from schemas.errors import IndusCotError

MODEL_VERSION = "draft"
"""Names the predictions that prefill a page."""
QUEUE = "Review queue"
PAGE_SIZE = 1000
PAGES_AT_ONCE = 2
SETTINGS: dict[str, Any] = {
    "show_collab_predictions": True,
    "model_version": MODEL_VERSION,
    "maximum_annotations": 1,
    # By the score of the predictions, lowest first: with it, Label All Tasks follows the queue.
    "sampling": "Uncertainty sampling",
    "show_skip_button": True,
    "enable_empty_annotation": False,
    "skip_queue": "REQUEUE_FOR_OTHERS",
}
CANNOT_READ = (400, 500)
"""Answers of the server to a storage it cannot read; the latter where it has no credentials at all."""
INSTRUCTION = (
    "Read the steps from top to bottom. Everything is prefilled and can be edited: thoughts, calls (edit the JSON, or "
    "move the blue rectangle), the red boxes, answer and type. Then say accept, fixed or reject. An edited call is run "
    "again when the reviews are pulled. Coordinates are 0 to 1000 of the whole image."
)


class Known(NamedTuple):
    """A task as the server has it."""

    id: int
    data: dict[str, Any]
    filled: bool
    """A prediction fills its page."""
    annotations: int


def find_project(client: LabelStudio, params: Review, title: str) -> int | None:
    """The number of the project with this title, or None.

    Raises:
        IndusCotError: there are several.
    """
    found = _titled(client, title)
    if len(found) > 1:
        raise IndusCotError(
            f"{params.url}: {len(found)} projects are called {title!r} "
            f"({', '.join(map(str, found))}); rename all but the one to use, or set review.project"
        )
    return found[0] if found else None


def unnamed(client: LabelStudio, params: Review) -> list[tuple[str, int]]:
    """Titles and numbers of review projects with annotations in which nobody of ``review.annotators`` is asked.

    They are of annotators who are named no more, or of the time before any was named, or after.
    """
    known = {*params.projects, params.priors}
    listed: Iterable[Any] = client.projects.list(title=params.project)
    return [
        (item.title, item.id)
        for item in listed
        if (item.title == params.project or item.title.startswith(f"{params.project} · "))
        and item.title not in known
        and item.total_annotations_number
    ]


def _titled(client: LabelStudio, title: str) -> list[int]:
    listed: Iterable[Any] = client.projects.list(title=title)
    return [item.id for item in listed if item.title == title]


def ensure_project(
    client: LabelStudio,
    params: Review,
    title: str,
    images: ServedImages,
    *,
    config: str,
    instruction: str = INSTRUCTION,
) -> int:
    """The number of a project, made or brought back to what it must be: layout, settings, queue, image storage.

    ``config``: the layout of its page, XML.
    """
    number = find_project(client, params, title)
    if number is None:
        made: Any = client.projects.create(title=title, label_config=config, expert_instruction=instruction, **SETTINGS)
        number = int(made.id)
        if number != min(_titled(client, title)):
            # A push from another checkout made one at the same moment: the first one is both's.
            client.projects.delete(id=number)
            return ensure_project(client, params, title, images, config=config, instruction=instruction)
    else:
        there = client.projects.get(id=number)
        different: dict[str, Any] = {name: value for name, value in SETTINGS.items() if getattr(there, name) != value}
        if there.label_config != config:
            different["label_config"] = config
        if different:
            client.projects.update(id=number, **different)
    if not any(view.data and view.data.get("title") == QUEUE for view in map(_view, client.views.list(project=number))):
        client.views.create(project=number, data={"title": QUEUE, "ordering": ["-tasks:data.priority"]})
    _ensure_storage(client, number, images.store)
    return number


def _ensure_storage(client: LabelStudio, project: int, store: Folder | Bucket) -> None:
    """Let the project serve the images of ``store``; it is never synchronised: tasks come from a push.

    The server reads a bucket with the AWS credentials of its own environment: none are kept in its database.
    """
    title = "images of the review"
    if isinstance(store, Folder):
        store.folder.mkdir(parents=True, exist_ok=True)
        path = str(store.folder.resolve())
        if not any(item.path == path for item in client.import_storage.local.list(project=project)):
            client.import_storage.local.create(project=project, path=path, use_blob_urls=True, title=title)
        return
    wanted: dict[str, Any] = {"bucket": store.bucket, "prefix": store.prefix, "region_name": store.region}
    # The server hands the images on: presigned, a page shows none unless the bucket has a rule for CORS.
    wanted["presign"] = False
    listed: Iterable[Any] = client.import_storage.s3.list(project=project)
    there = {item.id: {name: getattr(item, name) for name in wanted} for item in listed}
    if wanted in there.values():
        return
    try:
        # An address names a bucket, and the first storage of that bucket answers it.
        same = [number for number, found in there.items() if found["bucket"] == store.bucket]
        if same:
            client.import_storage.s3.update(id=same[0], project=project, **wanted)
        else:
            client.import_storage.s3.create(project=project, title=title, use_blob_urls=True, **wanted)
    except ApiError as error:
        if error.status_code not in CANNOT_READ:
            raise
        raise IndusCotError(
            f"Label Studio cannot read {store.url} ({reason(error)}). Its own environment needs the AWS variables or "
            "profile that push has: start it with them, and push again"
        ) from error


def check_accounts(client: LabelStudio, params: Review) -> None:
    """Check that every annotator can log in.

    Raises:
        IndusCotError: one has no account; the message has the address where they make theirs.
    """
    accounts = {str(user.email).lower() for user in client.users.list()}
    if missing := [name for name in params.annotators if name.lower() not in accounts]:
        invited = client.organizations.invites.get_invite_link().invite_url
        raise IndusCotError(
            f"review.annotators: no account of {', '.join(missing)} at {params.url}; have them sign up at "
            f"{urljoin(params.url, invited)}, and push again"
        )


def _view(view: Any) -> Any:
    data = view.data if isinstance(view.data, dict) else view.data.dict() if view.data else None
    return view.model_copy(update={"data": data})


def tasks(client: LabelStudio, project: int) -> Iterator[Known]:
    """Every task of the project."""
    columns = "id,data,total_annotations,cancelled_annotations"
    # The server's own count of them is not always right after one was deleted.
    unfilled = set(
        _ids(
            client,
            project,
            [{"filter": "filter:tasks:predictions", "operator": "empty", "type": "Number", "value": "true"}],
        )
    )
    for item in _listed(client, project, include=columns, resolve_uri=False):
        annotations = (item.total_annotations or 0) + (item.cancelled_annotations or 0)
        yield Known(item.id, dict(item.data or {}), item.id not in unfilled, annotations)


def changed_since(client: LabelStudio, project: int, since: str) -> list[int]:
    """Ids of the tasks with annotations that were touched at ``since`` or later; as :func:`filter_time` gives it."""
    items: list[Mapping[str, Any]] = [
        {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0},
        {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime", "value": since},
    ]
    return _ids(client, project, items)


def last_touched(client: LabelStudio, project: int) -> str:
    """When any task of the project was last touched, as :func:`filter_time` gives it; empty where it has none."""
    query = json.dumps({"ordering": ["-tasks:updated_at"]})
    found: Any = client.tasks.list(
        project=project, fields="task_only", page=1, page_size=1, include="id,updated_at", query=query
    )
    return filter_time(found.items[0].updated_at) if found.items else ""


def is_as_exported(client: LabelStudio, annotation: Mapping[str, Any]) -> bool:
    """Whether nobody has changed or deleted an annotation since it was exported."""
    try:
        now = client.annotations.get(id=annotation["id"])
    except ApiError as error:
        if error.status_code != 404:
            raise
        return False
    return bool(now.updated_at == datetime.fromisoformat(annotation["updated_at"]))


def _ids(client: LabelStudio, project: int, items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids of the tasks that pass all these filters of the data manager."""
    query = json.dumps({"filters": {"conjunction": "and", "items": items}})
    return [item.id for item in _listed(client, project, include="id", query=query)]


def _listed(client: LabelStudio, project: int, **asked: Any) -> Iterator[Any]:
    """Tasks of the project, page by page; the server makes a page while the one before it is read."""

    def page(number: int) -> Any:
        return client.tasks.list(project=project, fields="task_only", page=number, page_size=PAGE_SIZE, **asked)

    first = page(1)
    yield from first.items
    with ThreadPoolExecutor(PAGES_AT_ONCE) as pool:
        # Of the length the first one has: a server may allow fewer than were asked for.
        for following in pool.map(page, range(2, ceil(first.response.total / max(len(first.items), 1)) + 1)):
            yield from following.items


def filter_time(time: datetime) -> str:
    """ISO 8601 in UTC with microseconds and a Z, the only form the server's filters read."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def prediction(result: Sequence[dict[str, Any]], priority: float) -> dict[str, Any]:
    """What prefills a page, with the score that gives its task a place in the queue."""
    return {"model_version": MODEL_VERSION, "score": -priority, "result": list(result)}


def replace_prediction(client: LabelStudio, task: int, result: Sequence[dict[str, Any]], priority: float) -> None:
    """Let ``result`` prefill the page of ``task`` from now on."""
    old = [item.id for item in client.predictions.list(task=task)]
    client.predictions.create(task=task, **prediction(result, priority))
    for number in old:
        client.predictions.delete(id=number)


def unread(client: LabelStudio, project: int, known: Known, read: Collection[str]) -> bool:
    """Whether an expert has submitted the page since the tasks were listed: the next pull reads it.

    ``read`` has the reviews that were pulled, as ``<project>/<annotation>``.
    """
    return any(
        not item.was_cancelled and f"{project}/{item.id}" not in read for item in client.annotations.list(id=known.id)
    )

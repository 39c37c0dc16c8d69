"""Creates, updates and lists review projects and their tasks in Label Studio."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from math import ceil
from typing import Any, NamedTuple
from urllib.parse import urljoin

from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from annotation.connect import describe_error
from annotation.images import BucketStore, FolderStore, ServedImages
from cot_builder.params import Review
from schemas.errors import IndusCotError

MODEL_VERSION = "draft"
"""Model version of the predictions that prefill a page."""
QUEUE_TAB = "Review queue"
PAGE_SIZE = 1000
PARALLEL_PAGES = 2
SETTINGS: dict[str, Any] = {
    "show_collab_predictions": True,
    "model_version": MODEL_VERSION,
    "maximum_annotations": 1,
    # Order tasks by the score of their predictions, lowest first, so that Label All Tasks follows the queue.
    "sampling": "Uncertainty sampling",
    "show_skip_button": True,
    "enable_empty_annotation": False,
    "skip_queue": "REQUEUE_FOR_OTHERS",
}
UNREADABLE_STATUSES = (400, 500)
"""Statuses that the server returns for a storage it cannot read; 500 if it has no credentials at all."""
INSTRUCTION = (
    "Read the steps from top to bottom. Everything is prefilled and can be edited: thoughts, tool calls (edit the JSON "
    "or move the blue rectangle), the red boxes, answer and type. Then choose accept, fixed or reject. An edited call "
    "is executed again when the reviews are pulled. Coordinates are 0 to 1000 of the whole image."
)


class KnownTask(NamedTuple):
    """A task on the server."""

    id: int
    data: dict[str, Any]
    has_prediction: bool
    """True if a prediction prefills its page."""
    annotations: int
    """Number of annotations, including cancelled ones."""


def find_project(client: LabelStudio, params: Review, title: str) -> int | None:
    """Return the number of the project with this title; None if there is none.

    Raises:
        IndusCotError: several projects have the title.
    """
    numbers = _find_by_title(client, title)
    if len(numbers) > 1:
        raise IndusCotError(
            f"{params.url}: {len(numbers)} projects have the title {title!r} "
            f"({', '.join(map(str, numbers))}); rename all but the one to use, or set review.project"
        )
    return numbers[0] if numbers else None


def find_unnamed_projects(client: LabelStudio, params: Review) -> list[tuple[str, int]]:
    """Return titles and numbers of annotated review projects that belong to nobody in ``review.annotators``.

    They belong to former annotators, or date from a time with (or without) ``annotators``, unlike now.
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


def _find_by_title(client: LabelStudio, title: str) -> list[int]:
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
    """Create a project, or restore its page layout, settings, queue tab and image storage; return its number.

    Args:
        client: Connection to the server.
        params: Parameters of the review.
        title: Title of the project.
        images: The images that its pages show.
        config: Layout of its page, XML.
        instruction: Text for the experts; set only when the project is created.
    """
    number = find_project(client, params, title)
    if number is None:
        created: Any = client.projects.create(
            title=title, label_config=config, expert_instruction=instruction, **SETTINGS
        )
        number = int(created.id)
        if number != min(_find_by_title(client, title)):
            # A push from another checkout created the project at the same moment: both use the first one.
            client.projects.delete(id=number)
            return ensure_project(client, params, title, images, config=config, instruction=instruction)
    else:
        current = client.projects.get(id=number)
        different: dict[str, Any] = {name: value for name, value in SETTINGS.items() if getattr(current, name) != value}
        if current.label_config != config:
            different["label_config"] = config
        if different:
            client.projects.update(id=number, **different)
    if not any(
        view.data and view.data.get("title") == QUEUE_TAB
        for view in map(_normalize_view, client.views.list(project=number))
    ):
        client.views.create(project=number, data={"title": QUEUE_TAB, "ordering": ["-tasks:data.priority"]})
    _ensure_storage(client, number, images.store)
    return number


def _ensure_storage(client: LabelStudio, project: int, store: FolderStore | BucketStore) -> None:
    """Let the project serve the images of ``store``. The storage is never synchronised: only a push creates tasks.

    The server reads a bucket with the AWS credentials of its own environment; none are stored in its database.
    """
    title = "images of the review"
    if isinstance(store, FolderStore):
        store.folder.mkdir(parents=True, exist_ok=True)
        path = str(store.folder.resolve())
        if not any(item.path == path for item in client.import_storage.local.list(project=project)):
            client.import_storage.local.create(project=project, path=path, use_blob_urls=True, title=title)
        return
    wanted: dict[str, Any] = {"bucket": store.bucket, "prefix": store.prefix, "region_name": store.region}
    # Let the server deliver the images: with presigned addresses a page shows none unless the bucket has a CORS rule.
    wanted["presign"] = False
    listed: Iterable[Any] = client.import_storage.s3.list(project=project)
    current = {item.id: {name: getattr(item, name) for name in wanted} for item in listed}
    if wanted in current.values():
        return
    try:
        # An address names only the bucket, and Label Studio uses the first storage of that bucket.
        same = [number for number, item in current.items() if item["bucket"] == store.bucket]
        if same:
            client.import_storage.s3.update(id=same[0], project=project, **wanted)
        else:
            client.import_storage.s3.create(project=project, title=title, use_blob_urls=True, **wanted)
    except ApiError as error:
        if error.status_code not in UNREADABLE_STATUSES:
            raise
        raise IndusCotError(
            f"Label Studio cannot read {store.url} ({describe_error(error)}). Its own environment needs the AWS "
            "variables or profile that push uses: restart the server with them, then run `indus-cot review push` again"
        ) from error


def check_accounts(client: LabelStudio, params: Review) -> None:
    """Check that every annotator can log in.

    Raises:
        IndusCotError: an annotator has no account; the message holds the sign-up link.
    """
    accounts = {str(user.email).lower() for user in client.users.list()}
    if missing := [name for name in params.annotators if name.lower() not in accounts]:
        link = client.organizations.invites.get_invite_link().invite_url
        raise IndusCotError(
            f"review.annotators: no account of {', '.join(missing)} at {params.url}; have them sign up at "
            f"{urljoin(params.url, link)}, then push again"
        )


def _normalize_view(view: Any) -> Any:
    """Return the view with its ``data`` as a dictionary; the SDK may return a model."""
    data = view.data if isinstance(view.data, dict) else view.data.dict() if view.data else None
    return view.model_copy(update={"data": data})


def list_tasks(client: LabelStudio, project: int) -> Iterator[KnownTask]:
    """Yield every task of the project."""
    columns = "id,data,total_annotations,cancelled_annotations"
    # The server's own count of predictions is not always right after one was deleted.
    without_prediction = set(
        _list_task_ids(
            client,
            project,
            [{"filter": "filter:tasks:predictions", "operator": "empty", "type": "Number", "value": "true"}],
        )
    )
    for item in _iterate_tasks(client, project, include=columns, resolve_uri=False):
        annotations = (item.total_annotations or 0) + (item.cancelled_annotations or 0)
        yield KnownTask(item.id, dict(item.data or {}), item.id not in without_prediction, annotations)


def list_changed_tasks(client: LabelStudio, project: int, since: str) -> list[int]:
    """Return ids of annotated tasks updated at ``since`` or later; ``since`` comes from :func:`format_filter_time`."""
    items: list[Mapping[str, Any]] = [
        {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0},
        {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime", "value": since},
    ]
    return _list_task_ids(client, project, items)


def get_last_update(client: LabelStudio, project: int) -> str:
    """Return when a task of the project was last updated, in the filter's format; empty if there are no tasks."""
    query = json.dumps({"ordering": ["-tasks:updated_at"]})
    page: Any = client.tasks.list(
        project=project, fields="task_only", page=1, page_size=1, include="id,updated_at", query=query
    )
    return format_filter_time(page.items[0].updated_at) if page.items else ""


def is_unchanged_since_export(client: LabelStudio, annotation: Mapping[str, Any]) -> bool:
    """Return whether an annotation was neither changed nor deleted since it was exported."""
    try:
        now = client.annotations.get(id=annotation["id"])
    except ApiError as error:
        if error.status_code != 404:
            raise
        return False
    return bool(now.updated_at == datetime.fromisoformat(annotation["updated_at"]))


def _list_task_ids(client: LabelStudio, project: int, items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return ids of the tasks that pass all these filters of the data manager."""
    query = json.dumps({"filters": {"conjunction": "and", "items": items}})
    return [item.id for item in _iterate_tasks(client, project, include="id", query=query)]


def _iterate_tasks(client: LabelStudio, project: int, **arguments: Any) -> Iterator[Any]:
    """Yield the tasks of the project; pages are requested ahead of the one that is read."""

    def page(number: int) -> Any:
        return client.tasks.list(project=project, fields="task_only", page=number, page_size=PAGE_SIZE, **arguments)

    first = page(1)
    yield from first.items
    with ThreadPoolExecutor(PARALLEL_PAGES) as pool:
        # Compute the number of pages from the length of the first: a server may limit the page size.
        for following in pool.map(page, range(2, ceil(first.response.total / max(len(first.items), 1)) + 1)):
            yield from following.items


def format_filter_time(time: datetime) -> str:
    """Format a time as ISO 8601 in UTC with microseconds and a Z, the only format the server's filters accept."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def build_prediction(result: Sequence[dict[str, Any]], priority: float) -> dict[str, Any]:
    """Return the prediction that prefills a page; its score sorts the task into the queue."""
    return {"model_version": MODEL_VERSION, "score": -priority, "result": list(result)}


def replace_prediction(client: LabelStudio, task: int, result: Sequence[dict[str, Any]], priority: float) -> None:
    """Replace the predictions of ``task`` by one with ``result``, which prefills the page."""
    old = [item.id for item in client.predictions.list(task=task)]
    client.predictions.create(task=task, **build_prediction(result, priority))
    for number in old:
        client.predictions.delete(id=number)


def has_unread_review(client: LabelStudio, project: int, known: KnownTask, pulled: Collection[str]) -> bool:
    """Return whether an expert has submitted the page since the tasks were listed; the next pull reads it.

    ``pulled`` holds the ids of all pulled reviews, as ``<project>/<annotation>``.
    """
    return any(
        not item.was_cancelled and f"{project}/{item.id}" not in pulled for item in client.annotations.list(id=known.id)
    )

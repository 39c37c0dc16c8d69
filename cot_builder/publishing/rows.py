"""Rows of `sft` and `rl`: what a row of the corpus must be to leave, and its columns as they leave."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from cot_builder.benchmarks.licences import combine_row_licences
from cot_builder.inspection.rendering import prompt, render_messages
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.params import Params
from cot_builder.publishing.configs import SUPERVISION_COLUMNS, Config, schema
from cot_builder.publishing.sources import Source
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.supervision import SUPERVISION
from schemas.trajectory import Trajectory


@dataclass(frozen=True)
class RowContext:
    """What every published row is made with."""

    params: Params
    workspace: Workspace
    sources: Mapping[str, Source]
    expression: str
    """What must not leave, as :func:`cot_builder.publishing.secrets.build_pattern` has it."""
    salt: bytes
    licences: Mapping[str, str]
    """Of the texts and images of each set together, as an identifier of the Hub."""
    tools: str
    """JSON of the schemas of this version's tools."""
    source_paths: Mapping[str, str]
    """Of each sample within its benchmark; says what is wrong with it, so no text may hold it."""


def make_row_context(
    params: Params, workspace: Workspace, sources: Mapping[str, Source], expression: str, salt: bytes
) -> RowContext:
    """The context of a publication of the project as it is now."""
    return RowContext(
        params,
        workspace,
        sources,
        expression,
        salt,
        {name: combine_row_licences(params.publish.licence, source.facts.licence) for name, source in sources.items()},
        json.dumps(tool_schemas()),
        _read_source_paths(workspace),
    )


def check_row(context: RowContext, row: Mapping[str, Any], where: str) -> Trajectory:
    """The trajectory of a row, once its chat is what the trajectory renders to, and no more.

    Raises:
        IndusCotError: it is something else; nobody has reviewed it, and that is required; it tells the truth.
    """
    if row["source_set"] not in context.sources:
        raise IndusCotError(f"{where}: is of the unknown set {row['source_set']}")
    if context.params.publish.require_review and row["review_status"] == "auto":
        raise IndusCotError(
            f"{where}: no person has looked at it, and publish.require_review is true; review it "
            "(`indus-cot review push`) or set assemble.review to reviewed, which leaves such rows out"
        )
    try:
        trajectory = Trajectory.model_validate_json(row["trajectory"])
        chat = json.loads(row["messages"])
    except (ValidationError, ValueError):
        raise IndusCotError(f"{where}: messages or trajectory hold no JSON of theirs; assemble again") from None
    if chat != render_messages(trajectory, row["category"], row["view"]):
        raise IndusCotError(
            f"{where}, messages: {_describe_mismatch(chat)}; nothing was published. Run `indus-cot verify`"
        )
    verdict = trajectory.verdict
    if (row["answer"], [tuple(box) for box in row["boxes"]], row["defect_type"]) != (
        verdict.answer, [tuple(box) for box in verdict.boxes], verdict.defect_type
    ):  # fmt: skip
        raise IndusCotError(
            f"{where}: answer, boxes or defect_type are not those of its trajectory; nothing was published. Run "
            "`indus-cot verify`"
        )
    if row["tools"] != context.tools and json.loads(row["tools"]) != json.loads(context.tools):
        raise IndusCotError(f"{where}, tools: are not the tools of this version; run `indus-cot repro assemble`")
    check_without_path(context, row, row["messages"], f"{where}, messages")
    return trajectory


def check_without_path(context: RowContext, row: Mapping[str, Any], text: str, where: str) -> None:
    """Refuse a text with the path of the benchmark's image, which says what is wrong with it.

    Raises:
        IndusCotError: the path is in it.
    """
    if (path := context.source_paths.get(row["sample_id"])) and path in text:
        raise IndusCotError(
            f"{where}: hold the supervision field source_path, which students must not see; reject the draft in review"
        )


def make_references(
    row: Mapping[str, Any], trajectory: Trajectory, names: Sequence[str], images: pa.ListScalar | None, where: str
) -> list[dict[str, Any]]:
    """How to make each image of a row again.

    Raises:
        IndusCotError: the row has another number of images than its trajectory.
    """
    digests = [
        (turn.observation.image_sha256, number)
        for number, turn in enumerate(trajectory.turns, 1)
        if turn.observation and turn.observation.image_sha256
    ]
    if len(names) != len(digests) + 1:
        raise IndusCotError(f"{where}: has {len(names)} images for {len(digests)} observations; assemble again")
    file = row["image_sha256"]
    # Only a region is a file of our own making, whose hash nothing recorded.
    first = hashlib.sha256(images[0]["bytes"].as_py()).hexdigest() if images is not None else file
    kind = "file" if images is None else "region"
    made = [
        {"sha256": first, "kind": kind, "turn": None, "path": names[0], "file_sha256": file, "box": row["region"] or []}
    ]
    return made + [
        make_observation_reference(sha, turn, name, file) for (sha, turn), name in zip(digests, names[1:], strict=True)
    ]


def make_observation_reference(digest: str, turn: int, path: str, file: str) -> dict[str, Any]:
    """How to make the image again that the call of a turn returned."""
    return {"sha256": digest, "kind": "observation", "turn": turn, "path": path, "file_sha256": file, "box": []}


def make_learner_tables(
    context: RowContext,
    batch: pa.RecordBatch,
    rows: Sequence[Mapping[str, Any]],
    references: Sequence[list[dict[str, Any]]],
) -> dict[Config, pa.Table]:
    """The rows of `sft` and `rl` of a batch of the corpus.

    Args:
        context: Of the publication.
        batch: Of the corpus.
        rows: The same without images.
        references: How to make the images of each row again.
    """
    images = batch.column("images")
    embedded = [context.sources[row["source_set"]].embedded for row in rows]
    obtained = [context.sources[row["source_set"]].obtain for row in rows]
    shared: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names if name != "image"}
    shared |= {
        "licence": [context.licences[row["source_set"]] for row in rows],
        "image_licence": batch.column("licence"),
    }
    sft = {"images": _select_embedded(images, embedded), "references": references, "obtain": obtained}
    rl = {
        "prompt": [render_prompt_json(row["category"], row["view"]) for row in rows],
        "image": _take_first_images(images, embedded),
        "references": [found[:1] for found in references],
        "obtain": obtained,
    }
    return {"sft": _make_table("sft", shared | sft), "rl": _make_table("rl", shared | rl)}


@cache
def render_prompt_json(category: str, view: str) -> str:
    """JSON of the messages that ask for an inspection."""
    return json.dumps(prompt(category, view), ensure_ascii=False)


def _select_embedded(images: pa.Array, embedded: Sequence[bool]) -> pa.Array:
    """The lists of images, empty where a row's are published by reference."""
    if all(embedded):
        return images
    if not any(embedded):
        return pa.array([[]] * len(images), images.type)
    none = pa.array([[]], images.type)
    return pa.concat_arrays([images.slice(i, 1) if inside else none for i, inside in enumerate(embedded)])


def _take_first_images(images: pa.ListArray, embedded: Sequence[bool]) -> pa.ChunkedArray:
    """The first image of each row, where it lies: one chunk a row, nothing is copied."""
    flat, starts = images.values, images.offsets.to_pylist()
    none = pa.nulls(1, flat.type)
    chunks = [flat.slice(start, 1) if inside else none for start, inside in zip(starts, embedded, strict=False)]
    return pa.chunked_array(chunks, flat.type)


def _make_table(config: Config, columns: Mapping[str, Any]) -> pa.Table:
    due = schema(config)
    return pa.Table.from_arrays([_cast(columns[item.name], item.type) for item in due], schema=due)


def _cast(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Values as an array of ``kind``; a list of texts may become JSON."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if isinstance(values, list):
        values = pa.array(values, storage)
    if values.type == kind:
        return values
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, values.cast(storage))
    return values.cast(kind)


def _describe_mismatch(chat: Any) -> str:
    """What in a chat is not of a trajectory's rendering, for a refusal."""
    for number, message in enumerate(chat if isinstance(chat, list) else []):
        fields = set(message) if isinstance(message, dict) else set()
        if told := sorted(fields & SUPERVISION_COLUMNS):
            return f"message {number} has the supervision field {', '.join(told)}, which students must not see"
        if other := sorted(fields - {"role", "content", "tool_calls", "name"}):
            return f"message {number} has the unknown field {', '.join(other)}"
    return "are not what the trajectory renders to"


def _read_source_paths(workspace: Workspace) -> dict[str, str]:
    path = workspace.select / "supervision.parquet"
    if not path.is_file():
        return {}
    return dict(SUPERVISION.read(path).select("sample_id", "source_path").iter_rows())

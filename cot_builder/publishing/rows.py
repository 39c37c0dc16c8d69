"""Rows of `sft` and `rl`: checks of a corpus row before it is published, and its published columns."""

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
    """Shared inputs of all published rows."""

    params: Params
    workspace: Workspace
    sources: Mapping[str, Source]
    expression: str
    """Regular expression of texts that must not be published, see :func:`.secrets.build_pattern`."""
    salt: bytes
    licences: Mapping[str, str]
    """Combined licence of texts and images by set, as an identifier of the Hub."""
    tools: str
    """Tool schemas of this version, as JSON."""
    source_paths: Mapping[str, str]
    """Path of each sample in its benchmark. It reveals the label, so no text may contain it."""


def make_row_context(
    params: Params, workspace: Workspace, sources: Mapping[str, Source], expression: str, salt: bytes
) -> RowContext:
    """Build the context for the project's current state."""
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
    """Check a row and return its trajectory; its chat must be exactly the rendering of the trajectory.

    Raises:
        IndusCotError: the chat differs; a required review is missing; a text reveals supervision.
    """
    if row["source_set"] not in context.sources:
        raise IndusCotError(f"{where}: unknown set {row['source_set']}")
    if context.params.publish.require_review and row["review_status"] == "auto":
        raise IndusCotError(
            f"{where}: not reviewed, although publish.require_review is true; review it "
            "(`indus-cot review push`) or set assemble.review to reviewed, which leaves such rows out"
        )
    try:
        trajectory = Trajectory.model_validate_json(row["trajectory"])
        chat = json.loads(row["messages"])
    except (ValidationError, ValueError):
        raise IndusCotError(
            f"{where}: `messages` or `trajectory` is not valid JSON; run `indus-cot assemble`"
        ) from None
    if chat != render_messages(trajectory, row["category"], row["view"]):
        raise IndusCotError(
            f"{where}, messages: {_describe_mismatch(chat)}; nothing was published. Run `indus-cot verify`"
        )
    verdict = trajectory.verdict
    if (row["answer"], [tuple(box) for box in row["boxes"]], row["defect_type"]) != (
        verdict.answer, [tuple(box) for box in verdict.boxes], verdict.defect_type
    ):  # fmt: skip
        raise IndusCotError(
            f"{where}: answer, boxes or defect_type differ from its trajectory; nothing was published. Run "
            "`indus-cot verify`"
        )
    if row["tools"] != context.tools and json.loads(row["tools"]) != json.loads(context.tools):
        raise IndusCotError(f"{where}, tools: differ from the tools of this version; run `indus-cot repro assemble`")
    check_without_path(context, row, row["messages"], f"{where}, messages")
    return trajectory


def check_without_path(context: RowContext, row: Mapping[str, Any], text: str, where: str) -> None:
    """Refuse a text that contains the benchmark's path of its image, because the path reveals the label.

    Raises:
        IndusCotError: the text contains the path.
    """
    if (path := context.source_paths.get(row["sample_id"])) and path in text:
        raise IndusCotError(
            f"{where}: hold the supervision field source_path, which students must not see; reject the draft in review"
        )


def make_references(
    row: Mapping[str, Any], trajectory: Trajectory, names: Sequence[str], images: pa.ListScalar | None, where: str
) -> list[dict[str, Any]]:
    """Describe how to regenerate each image of a row.

    Raises:
        IndusCotError: the number of images differs from the trajectory.
    """
    digests = [
        (turn.observation.image_sha256, number)
        for number, turn in enumerate(trajectory.turns, 1)
        if turn.observation and turn.observation.image_sha256
    ]
    if len(names) != len(digests) + 1:
        raise IndusCotError(
            f"{where}: has {len(names)} images for {len(digests)} observations; run `indus-cot assemble`"
        )
    file = row["image_sha256"]
    # Only a region is a file of our own, whose hash was not recorded.
    first = hashlib.sha256(images[0]["bytes"].as_py()).hexdigest() if images is not None else file
    kind = "file" if images is None else "region"
    made = [
        {"sha256": first, "kind": kind, "turn": None, "path": names[0], "file_sha256": file, "box": row["region"] or []}
    ]
    return made + [
        make_observation_reference(sha, turn, name, file) for (sha, turn), name in zip(digests, names[1:], strict=True)
    ]


def make_observation_reference(digest: str, turn: int, path: str, file: str) -> dict[str, Any]:
    """Describe how to regenerate the image that the call of a turn returned."""
    return {"sha256": digest, "kind": "observation", "turn": turn, "path": path, "file_sha256": file, "box": []}


def make_learner_tables(
    context: RowContext,
    batch: pa.RecordBatch,
    rows: Sequence[Mapping[str, Any]],
    references: Sequence[list[dict[str, Any]]],
) -> dict[Config, pa.Table]:
    """Build the rows of `sft` and `rl` for a batch of the corpus.

    Args:
        context: Context of the publication.
        batch: Batch of the corpus.
        rows: Its rows without images.
        references: References of the images of each row.
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
    """The prompt messages of an inspection, as JSON."""
    return json.dumps(prompt(category, view), ensure_ascii=False)


def _select_embedded(images: pa.Array, embedded: Sequence[bool]) -> pa.Array:
    """Lists of images; empty for rows whose images are published by reference."""
    if all(embedded):
        return images
    if not any(embedded):
        return pa.array([[]] * len(images), images.type)
    none = pa.array([[]], images.type)
    return pa.concat_arrays([images.slice(i, 1) if inside else none for i, inside in enumerate(embedded)])


def _take_first_images(images: pa.ListArray, embedded: Sequence[bool]) -> pa.ChunkedArray:
    """First image of each row, as one chunk for each row, without a copy."""
    flat, starts = images.values, images.offsets.to_pylist()
    none = pa.nulls(1, flat.type)
    chunks = [flat.slice(start, 1) if inside else none for start, inside in zip(starts, embedded, strict=False)]
    return pa.chunked_array(chunks, flat.type)


def _make_table(config: Config, columns: Mapping[str, Any]) -> pa.Table:
    due = schema(config)
    return pa.Table.from_arrays([_cast(columns[item.name], item.type) for item in due], schema=due)


def _cast(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Convert values to an array of type ``kind``; a list of texts may become JSON."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if isinstance(values, list):
        values = pa.array(values, storage)
    if values.type == kind:
        return values
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, values.cast(storage))
    return values.cast(kind)


def _describe_mismatch(chat: Any) -> str:
    """Explain how a chat differs from the rendering of a trajectory."""
    for number, message in enumerate(chat if isinstance(chat, list) else []):
        fields = set(message) if isinstance(message, dict) else set()
        if told := sorted(fields & SUPERVISION_COLUMNS):
            return f"message {number} has the supervision field {', '.join(told)}, which students must not see"
        if other := sorted(fields - {"role", "content", "tool_calls", "name"}):
            return f"message {number} has the unknown field {', '.join(other)}"
    return "differ from the rendering of the trajectory"


def _read_source_paths(workspace: Workspace) -> dict[str, str]:
    path = workspace.select / "supervision.parquet"
    if not path.is_file():
        return {}
    return dict(SUPERVISION.read(path).select("sample_id", "source_path").iter_rows())

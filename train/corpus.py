"""Reads Indus-CoT as training rows: each row is validated once, then loaded lazily with its published image bytes."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cot_builder.corpus.reading import SPLITS, read_all
from cot_builder.corpus.validated import check_counts, check_validated
from cot_builder.inspection.rendering import prompt, render_verdict
from cot_builder.storage.header import DamagedError, read_header
from schemas.errors import IndusCotError
from schemas.indus_cot import IndusCot
from schemas.trajectory import Trajectory, Verdict

Target = Literal["trajectory", "labels"]
COLUMNS = (
    "id", "sample_id", "source_set", "category", "view", "messages", "images", "tools",
    "answer", "boxes", "defect_type", "review_status",
)  # fmt: skip
RUN_ASSEMBLE = "run `indus-cot assemble` again"


def read(folder: Path, target: Target = "trajectory", evaluation_sets: Collection[str] = ()) -> dict[str, Any]:
    """Return the splits of a corpus as `datasets.Dataset`, by name; an empty ``validation`` split is left out.

    A row has the columns of :data:`COLUMNS`; ``images`` are ``{"bytes", "path"}``, not decoded. With the target
    ``labels``, the control arm, the assistant's message holds only the verdict's tags: no thought, no tool call, and
    only the inspected image.

    Args:
        folder: A corpus that `indus-cot assemble` wrote.
        target: Text that the policy learns to write.
        evaluation_sets: Names of pulled sets that must not be trained on.

    Raises:
        IndusCotError: the corpus is missing, empty, or was not validated; a row violates its schema, lacks an image,
            has more images than placeholders, calls a tool it does not list, or belongs to an evaluation set.
    """
    counts = check(folder, evaluation_sets)
    import datasets

    # The rows are copied to Arrow files in the cache of `datasets`, which are memory-mapped.
    datasets.disable_progress_bars()
    found = datasets.load_dataset(
        "parquet",
        data_files={name: str(folder / "data" / f"{name}-*.parquet") for name in SPLITS if counts[name]},
        columns=list(COLUMNS),
        features=_select_features(),
    )
    return {name: rows.with_transform(partial(_render_target, target=target)) for name, rows in found.items()}


def check(folder: Path, evaluation_sets: Collection[str] = ()) -> Counter[str]:
    """Validate every row, and return the number of rows of each split.

    Raises:
        IndusCotError: see :func:`read`.
    """
    due = check_validated(folder)
    counts: Counter[str] = Counter()
    for row in read_all(folder):
        _check_row(row, f"{folder}, row {row.id}", evaluation_sets)
        counts[row.split] += 1
    check_counts(folder, counts, due)
    if not counts["train"]:
        raise IndusCotError(
            f"{folder}: the corpus has no training row; see data/indus_cot/left_out.csv, and check assemble.review and "
            "select.validation_fraction"
        )
    return counts


def _check_row(row: IndusCot, where: str, evaluation_sets: Collection[str]) -> None:
    if row.source_set in evaluation_sets:
        raise IndusCotError(
            f"{where}, source_set: {row.source_set} is an evaluation set (its role in params.yaml is evaluate) and "
            "must not be trained on; assemble a corpus without it"
        )
    try:
        calls = Trajectory.model_validate_json(row.trajectory).calls
        chat, tools = json.loads(row.messages), json.loads(row.tools)
        known = {tool["function"]["name"] for tool in tools}
        called = [call["function"]["name"] for message in chat for call in message.get("tool_calls", [])]
        placeholders = sum(part["type"] == "image" for message in chat for part in message["content"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise IndusCotError(f"{where}, trajectory.{field}: {first['msg']}; {RUN_ASSEMBLE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndusCotError(f"{where}, messages or tools: invalid chat ({error!r}); {RUN_ASSEMBLE}") from None
    steps = [(f"trajectory.turns.{number}.call.tool", call.tool) for number, call in enumerate(calls)]
    for field, name in (*(("messages", name) for name in called), *steps):
        if name not in known:
            raise IndusCotError(
                f"{where}, {field}: calls the unknown tool {name!r}; its tools are {', '.join(sorted(known))}; "
                f"{RUN_ASSEMBLE}"
            )
    for number, image in enumerate(row.images):
        if not image.bytes:
            raise IndusCotError(f"{where}, images.{number}: the image is missing; {RUN_ASSEMBLE}")
        try:
            read_header(image.bytes)
        except DamagedError as error:
            raise IndusCotError(f"{where}, images.{number}: the image is damaged ({error}); {RUN_ASSEMBLE}") from error
    if placeholders < len(row.images):
        raise IndusCotError(
            f"{where}, images: {len(row.images)} images, more than the {placeholders} placeholders of messages; "
            f"{RUN_ASSEMBLE}"
        )
    if placeholders > len(row.images):
        raise IndusCotError(
            f"{where}, images: an image is missing: {len(row.images)} for {placeholders} placeholders of messages; "
            f"{RUN_ASSEMBLE}"
        )


def _select_features() -> Any:
    from datasets import Features, Image, List

    from cot_builder.corpus.writing import corpus_features

    chosen = {name: feature for name, feature in corpus_features().items() if name in COLUMNS}
    # The collator decodes the pixels, with the same code that the tools use.
    return Features(chosen | {"images": List(Image(decode=False))})


def _render_target(rows: Mapping[str, Sequence[Any]], target: Target) -> Mapping[str, Sequence[Any]]:
    # `datasets` also requests single columns, which lack what the rendering needs.
    if target == "trajectory" or not set(COLUMNS) <= rows.keys():
        return rows
    verdicts = zip(rows["category"], rows["view"], rows["answer"], rows["boxes"], rows["defect_type"], strict=True)
    return {
        **rows,
        "messages": [_label_messages(*verdict) for verdict in verdicts],
        "images": [images[:1] for images in rows["images"]],
        "tools": [None] * len(rows["tools"]),
    }


def _label_messages(
    category: str, view: str, answer: Literal["Yes", "No"], boxes: list[list[int]], defect_type: str | None
) -> list[dict[str, Any]]:
    verdict = Verdict(answer=answer, boxes=[tuple(box) for box in boxes], defect_type=defect_type)  # type: ignore[misc]
    said = {"role": "assistant", "content": [{"type": "text", "text": render_verdict(verdict)}]}
    return [*prompt(category, view, tools=False), said]


def iter_texts(rows: Any) -> Iterator[str]:
    """Yield every text of the rows' chats, calls and tool schemas, to learn a vocabulary from."""
    for row in rows.select_columns(list(COLUMNS)):
        for message in row["messages"]:
            yield from (part["text"] for part in message["content"] if part["type"] == "text")
            yield from (json.dumps(call["function"]) for call in message.get("tool_calls", []))
        yield from (json.dumps(tool) for tool in row["tools"] or [])

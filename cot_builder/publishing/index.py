"""Index of a published corpus: one line for each row, without images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from pydantic import ValidationError

from cot_builder.corpus.reading import SPLITS, find_missing_columns, list_shards, read_batches
from cot_builder.publishing.configs import combine_hashes
from schemas.errors import IndusCotError
from schemas.trajectory import Trajectory

INDEX = "index.parquet"
INDEX_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("id", "split", "source_set", "category", "text_sha256", "images_sha256", "review_status")
    ]
    + [("reviewers", pa.int64()), ("reviews_sha256", pa.string()), ("pairs_sha256", pa.string())]
)
"""One line for each row, which `diff` compares. ``text_sha256`` covers everything except images and reviews;
``reviews_sha256`` and ``pairs_sha256`` cover its rows of `review` and `preference` and are null if unknown."""
BATCH = 16
INDEXED_COLUMNS = (
    "id", "sample_id", "source_set", "category", "view", "image.path", "image_sha256", "region", "messages", "tools",
    "trajectory", "answer", "boxes", "defect_type", "review_status", "reviewers", "teacher", "prompt_version",
    "toolbox_version", "licence",
)  # fmt: skip
"""Columns of the corpus that form a published row, besides images; ``text_sha256`` hashes most of them."""


def read_split(corpus: Path, split: str, more: Sequence[str] = ("images",)) -> Iterator[pa.RecordBatch]:
    """Read the columns :data:`COMPARED` and ``more`` of a split in small batches.

    Raises:
        IndusCotError: a shard is damaged, or lacks a column.
    """
    for path in list_shards(corpus):
        if path.name.startswith(f"{split}-"):
            yield from read_batches(path, [*INDEXED_COLUMNS, *more], BATCH)


def build_index(corpus: Path) -> pl.DataFrame:
    """Build the index of a corpus that `assemble` has written.

    Raises:
        IndusCotError: the corpus is missing or damaged.
    """
    if not list_shards(corpus):
        raise IndusCotError(f"{corpus}: no data/*.parquet and no {INDEX}; is this a corpus?")
    for path in list_shards(corpus):
        if missing := find_missing_columns(path):
            raise IndusCotError(f"{path}: has no column {', '.join(missing)}; is {corpus} a corpus?")
    lines = []
    for split in SPLITS:
        for batch in read_split(corpus, split, ()):
            for row in batch.to_pylist():
                try:
                    trajectory = Trajectory.model_validate_json(row["trajectory"])
                except ValidationError as error:
                    raise IndusCotError(
                        f"{corpus}, row {row['id']}: invalid trajectory ({error}); run `indus-cot assemble`"
                    ) from None
                lines.append(make_index_row(row, split, trajectory))
    return pl.DataFrame(lines, schema=dict.fromkeys(INDEX_SCHEMA.names, pl.String) | {"reviewers": pl.Int64})


def make_index_row(row: Mapping[str, Any], split: str, trajectory: Trajectory) -> dict[str, Any]:
    """A row of the index, without the hashes of its reviews and preference pairs."""
    text = [
        row[name]
        for name in INDEXED_COLUMNS
        if name not in ("image.path", "review_status", "reviewers", "image_sha256")
    ]
    shown = [turn.observation.image_sha256 or "" for turn in trajectory.turns if turn.observation]
    return {
        "id": row["id"],
        "split": split,
        "source_set": row["source_set"],
        "category": row["category"],
        "text_sha256": combine_hashes([json.dumps(text)]),
        "images_sha256": combine_hashes([row["image_sha256"], *shown]),
        "review_status": row["review_status"],
        "reviewers": row["reviewers"],
        "reviews_sha256": None,
        "pairs_sha256": None,
    }

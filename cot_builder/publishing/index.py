"""The index of a published corpus: one line a row, without its images."""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from cot_builder.corpus.writing import SPLITS
from cot_builder.publishing.configs import combined
from cot_builder.publishing.preconditions import SMALL, _missing
from cot_builder.publishing.sources import _shards
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
"""One line a row: what `diff` compares. ``text_sha256`` is of everything but the images and the review;
``reviews_sha256`` and ``pairs_sha256`` are of its rows of `review` and `preference`, null where they are not known."""


BATCH = 16


def _batches(corpus: Path, split: str, more: Sequence[str] = ("images",)) -> Iterator[pa.RecordBatch]:
    for path in sorted((corpus / "data").glob(f"{split}-*.parquet")):
        try:
            with path.open("rb") as opened:
                window = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(window)))
            # Threads of its own would stand in the way of those that write.
            for batch in file.iter_batches(BATCH, columns=[*SMALL, *more], use_threads=False):
                yield batch
                # What was read is let go of: else the whole corpus would count as this process's memory.
                window.madvise(mmap.MADV_DONTNEED)
        except (OSError, pa.ArrowException) as error:
            raise IndusCotError(f"{path}: damaged parquet file ({error}); run `indus-cot repro assemble`") from error


def read_corpus_index(corpus: Path) -> pl.DataFrame:
    """The index of a corpus as `assemble` writes it.

    Raises:
        IndusCotError: none is there, or it is damaged.
    """
    if not _shards(corpus):
        raise IndusCotError(f"{corpus}: no data/*.parquet and no {INDEX}; is this a corpus?")
    lines = []
    for path in _shards(corpus):
        if missing := _missing(path):
            raise IndusCotError(f"{path}: has no column {', '.join(missing)}; is {corpus} a corpus?")
    for split in SPLITS:
        for batch in _batches(corpus, split, ()):
            for row in batch.to_pylist():
                try:
                    trajectory = Trajectory.model_validate_json(row["trajectory"])
                except ValidationError as error:
                    raise IndusCotError(f"{corpus}, row {row['id']}: its trajectory is none ({error})") from None
                lines.append(_line(row, split, trajectory))
    return pl.DataFrame(lines, schema=dict.fromkeys(INDEX_SCHEMA.names, pl.String) | {"reviewers": pl.Int64})


def _line(row: Mapping[str, Any], split: str, trajectory: Trajectory) -> dict[str, Any]:
    text = [row[name] for name in SMALL if name not in ("image.path", "review_status", "reviewers", "image_sha256")]
    shown = [turn.observation.image_sha256 or "" for turn in trajectory.turns if turn.observation]
    return {
        "id": row["id"],
        "split": split,
        "source_set": row["source_set"],
        "category": row["category"],
        "text_sha256": combined([json.dumps(text)]),
        "images_sha256": combined([row["image_sha256"], *shown]),
        "review_status": row["review_status"],
        "reviewers": row["reviewers"],
        "reviews_sha256": None,
        "pairs_sha256": None,
    }

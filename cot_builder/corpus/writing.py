"""Write the rows of Indus-CoT as parquet shards that `datasets` can load."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Json, List, Value
from datasets import Image as ImageFeature

from cot_builder.storage.shards import image_parquet_options
from schemas.indus_cot import INDUS_COT, Image, IndusCot

JSON_COLUMNS = ("messages", "tools", "trajectory")
ROW_GROUP_BYTES = 64 * 2**20
SHARD_BYTES = 512 * 2**20


def row_id(draft_id: str) -> str:
    """Return the id of the corpus row that is made from a draft."""
    return hashlib.sha256(draft_id.encode()).hexdigest()[:16]


def corpus_features() -> Features:
    """Return the columns of Indus-CoT as `datasets` types: images decode to PIL, JSON columns to Python objects."""
    return Features(
        {
            name: Json() if name in JSON_COLUMNS else _make_feature(dtype, name)
            for name, dtype in INDUS_COT.dtypes.items()
        }
    )


def _make_feature(dtype: pl.DataType, name: str) -> Any:
    if isinstance(dtype, pl.List):
        return List(_make_feature(dtype.inner, name))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        if [field.name for field in dtype.fields] == list(Image.model_fields):
            return ImageFeature()
        return {field.name: _make_feature(field.dtype, field.name) for field in dtype.fields}  # type: ignore[arg-type]
    return Value({pl.String: "string", pl.Int64: "int64", pl.Float64: "float64"}[type(dtype)])


def write_split(folder: Path, split: str, rows: Iterable[IndusCot]) -> int:
    """Write the shards ``<split>-NNNNN.parquet`` batch by batch; return the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = corpus_features().arrow_schema
    options = image_parquet_options(schema)
    writer: pq.ParquetWriter | None = None
    shard = total = size = 0
    for batch in _batches(rows):
        INDUS_COT.validate(INDUS_COT.frame(batch), f"{split} from row {total}")
        if writer is None:
            writer = pq.ParquetWriter(folder / f"{split}-{shard:05d}.parquet", schema, **options)
        writer.write_table(pa.Table.from_pylist([row.model_dump() for row in batch], schema=schema))
        total += len(batch)
        size += sum(_count_image_bytes(row) for row in batch)
        if size >= SHARD_BYTES:
            writer.close()
            writer, size, shard = None, 0, shard + 1
    if writer is not None:
        writer.close()
    return total


def _batches(rows: Iterable[IndusCot]) -> Iterator[list[IndusCot]]:
    batch: list[IndusCot] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += _count_image_bytes(row)
        if size >= ROW_GROUP_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count_image_bytes(row: IndusCot) -> int:
    return len(row.image.bytes) + sum(len(image.bytes) for image in row.images)

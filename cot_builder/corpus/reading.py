"""Read a corpus as `assemble` writes it: small columns as a data frame, full rows, or Arrow batches.

All readers keep only a few images in memory. A published corpus has another layout
(``cot_builder/publishing/configs.py``).
"""

import json
import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.errors import IndusCotError
from schemas.indus_cot import INDUS_COT, IndusCot

SPLITS: tuple[str, ...] = get_args(IndusCot.model_fields["split"].annotation)
SMALL_BATCH = 512
ROW_BATCH = 8
INDEX_COLUMNS = (
    "id", "sample_id", "source_set", "category", "view", "split", "answer", "defect_type", "tool_calls",
    "review_status", "reviewers", "teacher", "prompt_version", "toolbox_version", "cost_usd", "licence",
)  # fmt: skip
INDEX_SCHEMA = {
    "shard": pl.String(),
    "row": pl.Int64(),
    **{name: pl.String() for name in INDEX_COLUMNS},
    "tool_calls": pl.List(pl.String()),
    "reviewers": pl.Int64(),
    "cost_usd": pl.Float64(),
    "words": pl.Int64(),
    "turns": pl.Int64(),
    "images": pl.Int64(),
    "refused": pl.Int64(),
}


class RowLocation(NamedTuple):
    """Position of a corpus row: shard file name, and row in the shard."""

    shard: str
    row: int


def read_index(corpus: Path) -> pl.DataFrame:
    """Read a data frame with one row for each trajectory: its small columns, its location and its lengths.

    ``words`` counts the words of all thoughts, ``turns`` the thoughts, ``images`` the observation images, and
    ``refused`` the calls that a tool answered with an error.

    Raises:
        IndusCotError: there is no corpus, a shard is damaged, or a column is missing.
    """
    frames = []
    for shard in _existing_shards(corpus):
        start = 0
        for batch in _read_row_batches(shard, (*INDEX_COLUMNS, "trajectory"), SMALL_BATCH):
            rows = [
                {
                    "shard": shard.name,
                    "row": start + offset,
                    **_measure_trajectory(row.pop("trajectory"), shard, row),
                    **row,
                }
                for offset, row in enumerate(batch)
            ]
            start += len(rows)
            frames.append(pl.DataFrame(rows, schema=INDEX_SCHEMA))
    return pl.concat(frames)


def read_ids(corpus: Path) -> list[tuple[str, str, RowLocation]]:
    """Read the id, the sample id and the location of every trajectory.

    Raises:
        IndusCotError: as :func:`read_index`.
    """
    found = []
    for shard in _existing_shards(corpus):
        names = [row for batch in _read_row_batches(shard, ("id", "sample_id"), SMALL_BATCH) for row in batch]
        found += [(row["id"], row["sample_id"], RowLocation(shard.name, number)) for number, row in enumerate(names)]
    return found


def read_rows(corpus: Path, places: Collection[RowLocation]) -> Iterator[IndusCot]:
    """Yield the full rows at ``places``, in the order of the corpus, a few in memory at a time.

    Raises:
        IndusCotError: a shard is damaged, or a row does not match the schema.
    """
    for shard in _existing_shards(corpus):
        wanted = {place.row for place in places if place.shard == shard.name}
        start = 0
        with _open_shard(shard) as (file, _):
            counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        for group, count in enumerate(counts):
            if wanted.intersection(range(start, start + count)):
                rows = (row for batch in _read_row_batches(shard, None, ROW_BATCH, [group]) for row in batch)
                for number, row in enumerate(rows, start):
                    if number in wanted:
                        yield _validate_row(row, f"{shard}, row {number}")
            start += count


def read_all(corpus: Path) -> Iterator[IndusCot]:
    """Yield every row in the order of the corpus, a few in memory at a time.

    Raises:
        IndusCotError: as :func:`read_rows`.
    """
    for shard in _existing_shards(corpus):
        rows = (row for batch in _read_row_batches(shard, None, ROW_BATCH) for row in batch)
        for number, row in enumerate(rows):
            yield _validate_row(row, f"{shard}, row {number}")


def read_columns(corpus: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read some columns of every row, in the order of the corpus.

    Raises:
        IndusCotError: as :func:`read_index`.
    """
    batches = [batch for shard in _existing_shards(corpus) for batch in read_batches(shard, columns, SMALL_BATCH)]
    found = pl.from_arrow(pa.Table.from_batches([batch.select(columns) for batch in batches]))
    assert isinstance(found, pl.DataFrame)
    return found


def read_batches(
    shard: Path, columns: Sequence[str] | None, size: int, groups: list[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard as Arrow batches of at most ``size`` rows.

    Args:
        shard: A parquet file of the corpus.
        columns: Columns, or single fields of structs (``image.path``), to read; None for all.
        size: Maximum rows of a batch.
        groups: Numbers of the row groups to read; None for all.

    Raises:
        IndusCotError: the file is damaged, or a column is missing.
    """
    if missing := find_missing_columns(shard, columns or ()):
        raise IndusCotError(
            f"{shard}: no column {', '.join(missing)}; this is not an Indus-CoT corpus, or it has another "
            "version: run `indus-cot assemble` again"
        )
    with _open_shard(shard) as (file, window):
        # Threads of pyarrow would compete with the threads that process the batches.
        chosen = columns and list(columns)
        for batch in file.iter_batches(size, row_groups=groups, columns=chosen, use_threads=False):
            yield batch
            # Release the pages just read; otherwise the whole corpus would count as memory of this process.
            window.madvise(mmap.MADV_DONTNEED)


def list_shards(corpus: Path) -> list[Path]:
    """Return the shards of a corpus in order; empty if there is no corpus."""
    return sorted((corpus / "data").glob("*.parquet"))


def find_missing_columns(shard: Path, columns: Iterable[str] = INDUS_COT.dtypes) -> list[str]:
    """Return the columns, by default those of the schema, that a shard does not have.

    Raises:
        IndusCotError: the file is damaged.
    """
    with _open_shard(shard) as (file, _):
        return sorted({name.partition(".")[0] for name in columns} - set(file.schema_arrow.names))


def _existing_shards(corpus: Path) -> list[Path]:
    shards = list_shards(corpus)
    if not shards:
        raise IndusCotError(
            f"{corpus}: contains no data/*.parquet, so it is not a corpus; `indus-cot assemble` writes one"
        )
    return shards


def _read_row_batches(
    shard: Path, columns: Sequence[str] | None, size: int, groups: list[int] | None = None
) -> Iterator[list[dict[str, Any]]]:
    for batch in read_batches(shard, columns, size, groups):
        yield batch.to_pylist()


@contextmanager
def _open_shard(shard: Path) -> Iterator[tuple[pq.ParquetFile, mmap.mmap]]:
    try:
        with shard.open("rb") as opened:
            window = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        with pq.ParquetFile(pa.BufferReader(pa.py_buffer(window))) as file:
            yield file, window
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IndusCotError(f"{shard}: damaged parquet file ({error}); run `indus-cot assemble` again") from error


def _measure_trajectory(text: str, shard: Path, row: dict[str, Any]) -> dict[str, int]:
    try:
        turns = json.loads(text)["turns"]
        seen = [turn["observation"] for turn in turns if turn.get("observation")]
        return {
            "words": sum(len(turn["thought"].split()) for turn in turns),
            "turns": len(turns),
            "images": sum(bool(item.get("image_sha256")) for item in seen),
            "refused": sum(item["text"].startswith("error:") for item in seen),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndusCotError(
            f"{shard}, id {row['id']}: column trajectory is invalid ({error!r}); run `indus-cot assemble` again"
        ) from error


def _validate_row(row: dict[str, Any], where: str) -> IndusCot:
    try:
        return IndusCot.model_validate(row)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise IndusCotError(
            f"{where}: does not match the schema indus_cot: {'; '.join(lines)}; run `indus-cot assemble` again"
        ) from None

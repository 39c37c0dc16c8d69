"""Reading a corpus: its small columns as one frame, and whole rows by their place, never all of it at once."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.errors import IndusCotError
from schemas.indus_cot import IndusCot

SMALL_BATCH = 512
ROW_BATCH = 8
PLAIN = (
    "id", "sample_id", "source_set", "category", "view", "split", "answer", "defect_type", "tool_calls",
    "review_status", "reviewers", "teacher", "prompt_version", "toolbox_version", "cost_usd", "licence",
)  # fmt: skip
INDEX = {
    "shard": pl.String(),
    "row": pl.Int64(),
    **{name: pl.String() for name in PLAIN},
    "tool_calls": pl.List(pl.String()),
    "reviewers": pl.Int64(),
    "cost_usd": pl.Float64(),
    "words": pl.Int64(),
    "turns": pl.Int64(),
    "images": pl.Int64(),
    "refused": pl.Int64(),
}


class Place(NamedTuple):
    """Shard file name and row in it."""

    shard: str
    row: int


def read_index(corpus: Path) -> pl.DataFrame:
    """One line a trajectory: its small columns, its place, and its lengths.

    ``words`` are those of all thoughts together, ``turns`` the thoughts, ``images`` the observation images,
    ``refused`` the calls that a tool answered with an error.

    Raises:
        IndusCotError: no corpus is there, a shard is damaged, or a column is missing.
    """
    frames = []
    for shard in _shards(corpus):
        start = 0
        for batch in _batches(shard, (*PLAIN, "trajectory"), SMALL_BATCH):
            rows = [
                {"shard": shard.name, "row": start + offset, **_lengths(row.pop("trajectory"), shard, row), **row}
                for offset, row in enumerate(batch)
            ]
            start += len(rows)
            frames.append(pl.DataFrame(rows, schema=INDEX))
    return pl.concat(frames)


def read_names(corpus: Path) -> list[tuple[str, str, Place]]:
    """Id, sample id and place of every trajectory.

    Raises:
        IndusCotError: as :func:`read_index`.
    """
    found = []
    for shard in _shards(corpus):
        names = [row for batch in _batches(shard, ("id", "sample_id"), SMALL_BATCH) for row in batch]
        found += [(row["id"], row["sample_id"], Place(shard.name, number)) for number, row in enumerate(names)]
    return found


def read_rows(corpus: Path, places: Collection[Place]) -> Iterator[IndusCot]:
    """The whole rows at ``places``, in the order of the corpus, a few in memory at a time.

    Raises:
        IndusCotError: a shard is damaged, or a row breaks the contract.
    """
    for shard in _shards(corpus):
        wanted = {place.row for place in places if place.shard == shard.name}
        start = 0
        with _opened(shard) as file:
            counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        for group, count in enumerate(counts):
            if wanted.intersection(range(start, start + count)):
                rows = (row for batch in _batches(shard, None, ROW_BATCH, [group]) for row in batch)
                for number, row in enumerate(rows, start):
                    if number in wanted:
                        yield _record(row, f"{shard}, row {number}")
            start += count


def read_all(corpus: Path) -> Iterator[IndusCot]:
    """Every row in the order of the corpus, a few in memory at a time.

    Raises:
        IndusCotError: as :func:`read_rows`.
    """
    for shard in _shards(corpus):
        rows = (row for batch in _batches(shard, None, ROW_BATCH) for row in batch)
        for number, row in enumerate(rows):
            yield _record(row, f"{shard}, row {number}")


def _shards(corpus: Path) -> list[Path]:
    shards = sorted((corpus / "data").glob("*.parquet"))
    if not shards:
        raise IndusCotError(f"{corpus}: no data/*.parquet; is this a corpus? `indus-cot assemble` writes one")
    return shards


def _batches(
    shard: Path, columns: Sequence[str] | None, size: int, groups: list[int] | None = None
) -> Iterator[list[dict[str, Any]]]:
    with _opened(shard) as file:
        missing = set(columns or ()) - set(file.schema_arrow.names)
        if missing:
            raise IndusCotError(
                f"{shard}: no column {', '.join(sorted(missing))}; this is no Indus-CoT corpus, or one of another "
                "version: run `indus-cot assemble` again"
            )
        for batch in file.iter_batches(size, row_groups=groups, columns=columns and list(columns)):
            yield batch.to_pylist()


@contextmanager
def _opened(shard: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(shard, memory_map=True) as file:
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IndusCotError(f"{shard}: damaged parquet file ({error}); run `indus-cot assemble` again") from error


def _lengths(text: str, shard: Path, row: dict[str, Any]) -> dict[str, int]:
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
            f"{shard}, id {row['id']}: column trajectory holds no trajectory ({error!r}); assemble again"
        ) from error


def _record(row: dict[str, Any], where: str) -> IndusCot:
    try:
        return IndusCot.model_validate(row)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise IndusCotError(
            f"{where}: breaks the contract of indus_cot: {'; '.join(lines)}; run `indus-cot assemble` again"
        ) from None

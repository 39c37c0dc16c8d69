"""Distribution of published rows over parquet shards."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cot_builder.publishing.configs import CONFIGS, Config, schema
from cot_builder.storage.shards import image_parquet_options

ROWS_PER_SHARD = 4
"""Maximum average rows of a shard: changing a random 1 % of the rows then changes less than 5 % of the bytes."""


MAX_FILES = 24_000
"""Maximum number of shards. The Hub accepts 25,000 large files in a commit (`HfApi.create_commit`) and recommends fewer
than 10,000 in a folder (huggingface.co/docs/hub/repositories-recommendations); there are at least four folders."""


MAX_ROW_GROUP = 128 * 2**20
"""Maximum image bytes of a row group; the Hub's viewer scans at most 300 MB of one."""


WRITE_BUFFER = 2**16
"""Write buffer, bytes: collects small writes such as text pages; images are larger and bypass it."""


def choose_shard_bits(rows: Mapping[str, int], before: int | None = None) -> int:
    """Number of leading id bits that select the shard: two to four rows in a shard, more in a large corpus.

    The number of the published version is kept while its shards stay small, because another number moves every row.

    Args:
        rows: Number of rows by split.
        before: Number of bits of the published version.
    """
    count = sum(rows.values())
    if before is not None and count <= ROWS_PER_SHARD * 2**before and 2**before <= max(count, 1):
        return before
    bits = 0
    while ROWS_PER_SHARD * 2**bits < count and _count_max_files(rows, bits + 1) <= MAX_FILES:
        bits += 1
    return bits


def _count_max_files(rows: Mapping[str, int], bits: int) -> int:
    return len(CONFIGS) * sum(min(2**bits, count) for count in rows.values())


def shard_name(config: str, split: str, bucket: int, bits: int) -> str:
    """Path of a shard in the repository."""
    return f"{config}/{split}/{bucket:0{max(1, -(-bits // 4))}x}.parquet"


def bucket_of(identity: str, bits: int) -> int:
    """The leading ``bits`` of an id of hexadecimal digits."""
    return int(identity[:8], 16) >> (32 - bits)


def write_shard(path: Path, table: pa.Table, config: Config) -> None:
    """Write one shard with compressed texts and uncompressed images; equal rows give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        pa.output_stream(str(path), buffer_size=WRITE_BUFFER) as file,
        pq.ParquetWriter(file, table.schema, **_parquet_options(config)) as writer,
    ):
        for group in _row_groups(table):
            writer.write_table(group, row_group_size=max(1, len(group)))


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """Split the rows where their images exceed what the viewer scans."""
    if len(table) < 2 or table.nbytes < MAX_ROW_GROUP // 2:
        yield table
        return
    start = size = 0
    for number, row in enumerate(table.to_pylist()):
        held = sum(len(image["bytes"]) for value in row.values() for image in _list_images(value))
        if size and size + held > MAX_ROW_GROUP:
            yield table.slice(start, number - start)
            start, size = number, 0
        size += held
    yield table.slice(start)


def _list_images(value: Any) -> list[dict[str, Any]]:
    images = value if isinstance(value, list) else [value]
    return [item for item in images if isinstance(item, dict) and isinstance(item.get("bytes"), bytes)]


@cache
def _parquet_options(config: Config) -> dict[str, Any]:
    return image_parquet_options(schema(config))

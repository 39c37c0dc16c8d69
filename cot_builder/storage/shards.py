"""Write and read parquet shards that store image files byte for byte, addressed by shard and row."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import IndusCotError

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("bytes", pa.binary(), nullable=False)])
ROW_GROUP_BYTES = 8 * 2**20
PAGE_BYTES = 2**26
SHARD_BYTES = 512 * 2**20


def image_parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return options for a parquet writer of rows with images; equal rows give equal files.

    Only JSON columns are compressed: image files do not compress, and compressing each small column costs more than
    it saves.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = [column.path for column in pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema]
    chats = {item.name for item in schema if isinstance(item.type, pa.JsonType)}
    return {
        "compression": {leaf: "snappy" if leaf in chats else "none" for leaf in leaves},
        "use_dictionary": False,
        "write_statistics": False,
        "data_page_size": PAGE_BYTES,
    }


class ShardWriter:
    """Appends files to ``<prefix>-00000.parquet``, …; keeps one row group (8 MiB) in memory.

    The bytes are stored uncompressed, because image files do not compress.
    """

    def __init__(self, folder: Path, prefix: str = "shard") -> None:
        self._folder = folder
        self._prefix = prefix
        self._keys: list[pa.Array] = []
        self._values: list[pa.Array] = []
        self._pending = 0
        self._written = 0
        self._row = 0
        self._number = -1
        self._writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, key: str, data: bytes) -> tuple[str, int]:
        """Append one file under ``key``; return the shard's file name and the row in it."""
        if self._number < 0 or self._written + self._pending >= SHARD_BYTES:
            self._next_shard()
        place = (self._name, self._row)
        self._keys.append(_make_single_array(pa.string(), key.encode()))
        # One Arrow chunk for each file, so that the bytes go into the encoder without a copy.
        self._values.append(_make_single_array(pa.binary(), data))
        self._pending += len(data)
        self._row += 1
        if self._pending >= ROW_GROUP_BYTES:
            self._flush()
        return place

    @property
    def _name(self) -> str:
        return f"{self._prefix}-{self._number:05d}.parquet"

    def _next_shard(self) -> None:
        self.close()
        self._number += 1
        self._row = self._written = 0

    def _flush(self) -> None:
        if not self._keys:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._folder / self._name, SCHEMA, compression="none", use_dictionary=False, write_statistics=False
            )
        table = pa.table([pa.chunked_array(self._keys), pa.chunked_array(self._values)], schema=SCHEMA)
        self._writer.write_table(table, row_group_size=len(self._keys))
        self._written += self._pending
        self._keys, self._values, self._pending = [], [], 0

    def close(self) -> None:
        """Write the pending files and finish the current shard."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.close()


def _make_single_array(kind: pa.DataType, data: bytes) -> pa.Array:
    # Built from buffers: `pa.array` would import pandas, which takes half a second in each worker process.
    ends = pa.py_buffer(np.array([0, len(data)], np.int32))
    return pa.Array.from_buffers(kind, 1, [None, ends, pa.py_buffer(data)])


class ShardReader:
    """Reads files from a folder of shards, one row group (8 MiB) at a time."""

    def __init__(self, folder: Path, made_by: str = "its stage") -> None:
        """Create a reader of ``folder``; ``made_by`` is the command to run again if a shard is missing or damaged."""
        self._folder = folder
        self._made_by = made_by
        # Cache functions, not methods: a cached method keeps the reader and its memory maps alive until the next
        # garbage collection.
        self._open = lru_cache(maxsize=8)(partial(_open_file, folder, made_by))
        self._group = lru_cache(maxsize=2)(partial(_read_group, self._open, folder, made_by))

    def get(self, shard: str, row: int) -> bytes:
        """Return the file stored at ``row`` of ``shard``.

        Raises:
            IndusCotError: the shard is missing or damaged, or has no such row.
        """
        _, starts = self._open(shard)
        if not 0 <= row < starts[-1]:
            raise IndusCotError(
                f"{self._folder / shard}: has {starts[-1]} rows, so there is no row {row}; run {self._made_by} again"
            )
        group = next(index for index, start in enumerate(starts[1:]) if row < start)
        return self._group(shard, group).column("bytes")[row - starts[group]].as_py()

    def rows(self, shard: str) -> int:
        """Return the number of files in a shard."""
        return self._open(shard)[1][-1]

    def items(self, shard: str) -> Iterator[tuple[str, bytes]]:
        """Yield (key, file content) of a shard, in order."""
        file, _ = self._open(shard)
        for batch in file.iter_batches(batch_size=64):
            yield from zip(batch.column("key").to_pylist(), batch.column("bytes").to_pylist(), strict=True)


def _open_file(folder: Path, made_by: str, shard: str) -> tuple[pq.ParquetFile, list[int]]:
    """Open a shard; return it with the first row of each row group, and the total number of rows at the end."""
    path = folder / shard
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise IndusCotError(f"{path}: missing or damaged shard ({error}); run {made_by} again") from error
    starts = [0]
    for index in range(file.metadata.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(index).num_rows)
    return file, starts


def _read_group(
    opened: Callable[[str], tuple[pq.ParquetFile, list[int]]], folder: Path, made_by: str, shard: str, group: int
) -> pa.Table:
    try:
        return opened(shard)[0].read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise IndusCotError(f"{folder / shard}: damaged shard ({error}); run {made_by} again") from error

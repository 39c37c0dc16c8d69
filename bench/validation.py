"""Validating a table of a million samples against polars reading the same file."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from bench.paired import Row, paired
from schemas.sample import SAMPLE

ROWS = 1_000_000


def validation() -> Row:
    """Realistic rows: distinct hashes, 30 categories, 5 views, 100,000 parts."""
    random = np.random.default_rng(0)
    digests = pl.Series([random.bytes(32).hex() for _ in range(ROWS)])
    number = pl.int_range(ROWS, eager=True)
    frame = pl.DataFrame(
        {
            "sample_id": pl.select(
                pl.format("real_iad/category_{}/{}", number % 30, digests.str.slice(0, 16))
            ).to_series(),
            "source_set": pl.repeat("real_iad", ROWS, eager=True),
            "category": pl.select(pl.format("category_{}", number % 30)).to_series(),
            "view": pl.select(pl.format("C{}", number % 5 + 1)).to_series(),
            "part_id": pl.select(pl.format("part-{}", number // 10)).to_series(),
            "split": pl.select(pl.when(number % 3 == 0).then(pl.lit("train")).otherwise(pl.lit("test"))).to_series(),
            "width": pl.Series(random.integers(512, 1025, ROWS)),
            "height": pl.Series(random.integers(512, 1025, ROWS)),
            "channels": pl.repeat(3, ROWS, eager=True, dtype=pl.Int64),
            "image_format": pl.repeat("JPEG", ROWS, eager=True),
            "image_sha256": digests,
            "shard": pl.select(
                pl.format("images-{}.parquet", (number // 2000).cast(pl.String).str.zfill(5))
            ).to_series(),
            "row": number % 2000,
            "region": pl.Series([None] * ROWS, dtype=pl.List(pl.Int64)),
            "licence": pl.repeat("CC BY-NC-SA 4.0", ROWS, eager=True),
        },
        schema_overrides=SAMPLE.dtypes,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.parquet"
        frame.write_parquet(path)
        del frame, digests
        read = pl.read_parquet(path)
        ratio = 1 / paired(lambda: SAMPLE.validate(read), lambda: pl.read_parquet(path))
    return Row("validation", "validating 1 M sample rows, s", "polars reading the same file", ratio, 3.0, "lower")

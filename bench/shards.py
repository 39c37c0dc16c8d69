"""Writing shards of original bytes against `datasets` writing the same bytes."""

import tempfile
from pathlib import Path

import datasets
import numpy as np

from bench.paired import Row, paired
from cot_builder.storage.shards import ShardWriter

IMAGES = 240
SIZE = 400_000


def shard_writing() -> Row:
    """Incompressible blobs of a photograph's size, held in memory by both sides."""
    blobs = [np.random.default_rng(i).bytes(SIZE) for i in range(IMAGES)]
    features = datasets.Features({"key": datasets.Value("string"), "image": datasets.Image()})
    with tempfile.TemporaryDirectory() as folder:

        def ours() -> None:
            with ShardWriter(Path(folder) / "ours") as writer:
                for index, blob in enumerate(blobs):
                    writer.add(str(index), blob)

        def theirs() -> None:
            rows = {"key": [str(i) for i in range(IMAGES)], "image": [{"bytes": blob, "path": None} for blob in blobs]}
            datasets.Dataset.from_dict(rows, features=features).to_parquet(f"{folder}/theirs.parquet")

        datasets.disable_progress_bars()
        ratio = paired(ours, theirs)
    return Row("shard_writing", "writing shards, MB/s", "datasets writing the same bytes", ratio, 3.0, "higher")

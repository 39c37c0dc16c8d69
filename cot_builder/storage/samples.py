"""Samples of the pulled sets, and their images."""

import numpy as np
import polars as pl

from cot_builder.storage.images import decode
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.sample import SAMPLE, Sample


class SampleImages:
    """Original bytes and pixels of samples, by sample."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._readers: dict[str, ShardReader] = {}

    def original(self, sample: Sample) -> bytes:
        """The published file, byte for byte.

        Raises:
            IndusCotError: its shard is missing or damaged; the text says which stage to run again.
        """
        name = sample.source_set
        reader = self._readers.setdefault(name, ShardReader(self._workspace.pull(name), f"`indus-cot pull {name}`"))
        return reader.get(sample.shard, sample.row)

    def pixels(self, sample: Sample) -> np.ndarray:
        """The sample as uint8 (height, width, 3) BGR, its region cut out where it has one.

        Raises:
            UndecodableError: the file does not decode.
            IndusCotError: its shard is missing or damaged.
        """
        return decode(self.original(sample), sample.region, sample.sample_id)


def read_samples(workspace: Workspace, name: str) -> pl.DataFrame:
    """The sample table of one pulled set."""
    return SAMPLE.read(workspace.pull(name) / "sample.parquet")

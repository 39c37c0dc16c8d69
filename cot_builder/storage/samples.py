"""Samples of the pulled sets, and their images."""

import threading

import numpy as np
import polars as pl

from cot_builder.storage.images import UndecodableError, decode
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


class DamagedImageError(Exception):
    """One sample's image does not decode: that sample is left out, the others go on."""


class SharedImages:
    """Images of samples for many tasks and threads at once."""

    def __init__(self, workspace: Workspace) -> None:
        self._images = SampleImages(workspace)
        self._one_reader = threading.Lock()

    def original(self, sample: Sample) -> bytes:
        """The published file."""
        with self._one_reader:
            return self._images.original(sample)

    def pixels(self, sample: Sample) -> np.ndarray:
        """The sample as uint8 (height, width, 3) BGR.

        Raises:
            DamagedImageError: the file does not decode.
        """
        with self._one_reader:
            try:
                return self._images.pixels(sample)
            except UndecodableError as error:
                raise DamagedImageError(str(error)) from error

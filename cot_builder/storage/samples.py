"""Read the samples of the pulled sets, and their images."""

import threading

import numpy as np
import polars as pl

from cot_builder.storage.images import UndecodableError, decode
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.sample import SAMPLE, Sample


class SampleImages:
    """Reads the original bytes and the pixels of samples."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._readers: dict[str, ShardReader] = {}

    def original(self, sample: Sample) -> bytes:
        """Return the published file, byte for byte.

        Raises:
            IndusCotError: the shard is missing or damaged; the message names the stage to run again.
        """
        name = sample.source_set
        reader = self._readers.setdefault(name, ShardReader(self._workspace.pull(name), f"`indus-cot pull {name}`"))
        return reader.get(sample.shard, sample.row)

    def pixels(self, sample: Sample) -> np.ndarray:
        """Return the sample as uint8 (height, width, 3) BGR, cropped to its region if it has one.

        Raises:
            UndecodableError: the file does not decode.
            IndusCotError: the shard is missing or damaged.
        """
        return decode(self.original(sample), sample.region, sample.sample_id)


def read_samples(workspace: Workspace, name: str) -> pl.DataFrame:
    """Read the sample table of one pulled set."""
    return SAMPLE.read(workspace.pull(name) / "sample.parquet")


class DamagedImageError(Exception):
    """One sample's image does not decode: this sample is skipped, the others are processed."""


class SharedImages:
    """Reads the images of samples; safe to use from several threads and tasks."""

    def __init__(self, workspace: Workspace) -> None:
        self._images = SampleImages(workspace)
        self._lock = threading.Lock()

    def original(self, sample: Sample) -> bytes:
        """Return the published file, byte for byte."""
        with self._lock:
            return self._images.original(sample)

    def pixels(self, sample: Sample) -> np.ndarray:
        """Return the sample as uint8 (height, width, 3) BGR, cropped to its region if it has one.

        Raises:
            DamagedImageError: the file does not decode.
        """
        with self._lock:
            try:
                return self._images.pixels(sample)
            except UndecodableError as error:
                raise DamagedImageError(str(error)) from error

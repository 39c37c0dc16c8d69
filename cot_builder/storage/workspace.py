"""Where each stage's output lies, and reading samples across the pulled sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cot_builder.storage.images import decode
from cot_builder.storage.shards import ShardReader
from schemas.sample import SAMPLE, Sample

DATA = Path("data")


@dataclass(frozen=True)
class Workspace:
    """The folder a project's data lies in; one folder a stage."""

    root: Path = DATA

    def pull(self, name: str) -> Path:
        return self.root / "pull" / name

    @property
    def select(self) -> Path:
        return self.root / "select"

    @property
    def patch(self) -> Path:
        return self.root / "patch"

    @property
    def prior(self) -> Path:
        return self.root / "prior"

    @property
    def draft(self) -> Path:
        return self.root / "draft"

    @property
    def indus_cot(self) -> Path:
        return self.root / "indus_cot"

    @property
    def report(self) -> Path:
        return self.root / "report"


class SampleImages:
    """Original bytes and pixels of samples, by sample."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._readers: dict[str, ShardReader] = {}

    def original(self, sample: Sample) -> bytes:
        """The published file, byte for byte."""
        reader = self._readers.setdefault(sample.source_set, ShardReader(self._workspace.pull(sample.source_set)))
        return reader.get(sample.shard, sample.row)

    def pixels(self, sample: Sample) -> np.ndarray:
        """The sample as uint8 (height, width, 3) BGR, its region cut out where it has one.

        Raises:
            IndusCotError: the file does not decode.
        """
        return decode(self.original(sample), sample.region, sample.sample_id)


def read_samples(workspace: Workspace, name: str) -> pl.DataFrame:
    """The sample table of one pulled set."""
    return SAMPLE.read(workspace.pull(name) / "sample.parquet")


def iter_samples(frame: pl.DataFrame) -> Iterator[Sample]:
    """Rows of a sample table as records, without holding them all."""
    for row in frame.iter_rows(named=True):
        yield Sample.model_validate(row)

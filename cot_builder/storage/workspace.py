"""Where each stage's output lies, and reading samples across the pulled sets."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cot_builder.storage.images import decode
from cot_builder.storage.shards import ShardReader
from schemas.errors import IndusCotError
from schemas.sample import SAMPLE, Sample


@dataclass(frozen=True)
class Workspace:
    """A project's folder: one folder a stage under ``data``, and what people read under ``reports``."""

    root: Path = Path()

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def params(self) -> Path:
        return self.data / "params.yaml"

    def pull(self, name: str) -> Path:
        return self.data / "pull" / name

    @property
    def select(self) -> Path:
        return self.data / "select"

    @property
    def patch(self) -> Path:
        return self.data / "patch"

    @property
    def prior(self) -> Path:
        return self.data / "prior"

    @property
    def prior_review(self) -> Path:
        return self.data / "prior_review"

    @property
    def draft(self) -> Path:
        return self.data / "draft"

    @property
    def review(self) -> Path:
        return self.data / "review"

    @property
    def label_studio(self) -> Path:
        """The server's own folder: account, database, the images it serves."""
        return self.root / ".label-studio"

    @property
    def indus_cot(self) -> Path:
        return self.data / "indus_cot"

    @property
    def publish(self) -> Path:
        """The corpus as it leaves the machine."""
        return self.data / "publish"

    @property
    def models(self) -> Path:
        """Trained weights, one folder a stage."""
        return self.root / "models"

    @property
    def sft(self) -> Path:
        return self.models / "sft"

    @property
    def grpo(self) -> Path:
        return self.models / "grpo"

    @property
    def results(self) -> Path:
        """What `evaluate` measured, one folder a set."""
        return self.root / "results"

    @property
    def reports(self) -> Path:
        return self.root / "reports"


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


def file_hash(path: Path) -> str:
    """sha256 of a file, for a manifest's inputs.

    Raises:
        IndusCotError: the file is absent: the stage that makes it has not run.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise IndusCotError(f"{path}: not there; run the stage that makes it first (`indus-cot repro`)") from None

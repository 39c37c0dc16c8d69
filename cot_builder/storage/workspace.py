"""The folders and files of a project."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import IndusCotError


@dataclass(frozen=True)
class Workspace:
    """Paths of a project: one folder for each stage in ``data``, and reports for people in ``reports``."""

    root: Path = Path()

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def params(self) -> Path:
        return self.data / "params.json"

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
    def reviews(self) -> Path:
        """The table of `review pull`."""
        return self.review / "reviews.parquet"

    @property
    def prior_reviews(self) -> Path:
        """The table of `review pull --priors`."""
        return self.prior_review / "priors.parquet"

    @property
    def label_studio(self) -> Path:
        """Folder of the local Label Studio server: account, database, and the images it serves."""
        return self.root / ".label-studio"

    @property
    def indus_cot(self) -> Path:
        return self.data / "indus_cot"

    @property
    def publish(self) -> Path:
        """The corpus in the form in which it is published."""
        return self.data / "publish"

    @property
    def models(self) -> Path:
        """Trained weights, one folder for each training stage."""
        return self.root / "models"

    @property
    def sft(self) -> Path:
        return self.models / "sft"

    @property
    def grpo(self) -> Path:
        return self.models / "grpo"

    @property
    def results(self) -> Path:
        """Results of `evaluate`, one folder for each set."""
        return self.root / "results"

    @property
    def reports(self) -> Path:
        return self.root / "reports"


def file_hash(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        IndusCotError: the file does not exist, because the stage that makes it has not run.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise IndusCotError(f"{path}: not found; first run the stage that makes it (`indus-cot repro`)") from None

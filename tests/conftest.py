"""Fixtures of more than one test file."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.servers.label_studio_server import Server, label_studio

if TYPE_CHECKING:
    from cot_builder.storage.workspace import Workspace
    from tests.helpers.review_project import Project

__all__ = ["label_studio"]

# The same examples in every run, however slow the machine; `pytest -m hypothesis --hypothesis-profile default` looks
# for new ones.
hypothesis.settings.load_profile("ci")

LONGEST = (
    "test_review_faults", "test_pipeline", "test_publish", "test_review_browser", "test_review_round_trip",
    "test_label_studio_server", "test_grpo", "test_prior_review", "test_evaluate", "test_draft",
    "test_review_experts", "test_review_s3", "test_patch", "test_learn", "test_teacher", "test_sft",
    "test_synthetic", "test_door", "test_parse", "test_report", "test_batch",
)  # fmt: skip
"""Files of minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: a file stays on one worker, and a long one at the end would leave the others idle."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with drafts, to be copied."""
    # Imported here: most test files need no Label Studio, and its SDK is slow to import.
    from tests.helpers.review_project import new_drafts

    return new_drafts(tmp_path_factory.mktemp("review"))


@pytest.fixture
def project(drafted: Path, tmp_path: Path, label_studio: Server) -> "Project":
    """A copy of the project with drafts, and its own project on the server."""
    from tests.helpers.review_project import Project

    return Project(Path(shutil.copytree(drafted, tmp_path / "project", symlinks=True)), label_studio)


@pytest.fixture(scope="session")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Workspace]":
    """A small corpus and a tiny model, ``tiny``, made from its words; to be read only."""
    # Imported here: most test files need no torch.
    import datasets

    from tests.helpers.training_project import build

    root = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "hf")
        yield build(root)


@pytest.fixture(scope="session")
def policy(trainable: "Workspace", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small corpus and a tiny policy; not to be written to."""
    from tests.helpers.small_policy import build

    return build(tmp_path_factory.mktemp("policy"), trainable)

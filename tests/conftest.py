"""Fixtures of more than one test file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.helpers.made_once import made_once

if TYPE_CHECKING:
    from cot_builder.storage.workspace import Workspace

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
def trainable(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Workspace]":
    """A small corpus and a tiny model, ``tiny``, made from its words; to be read only."""
    # Imported here: most test files need no torch.
    import datasets

    from cot_builder.storage.workspace import Workspace
    from tests.helpers.training_project import build

    root = made_once(tmp_path_factory, "training", build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        yield Workspace(root)


@pytest.fixture(scope="session")
def policy(trainable: "Workspace", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small corpus and a tiny policy; not to be written to."""
    from tests.helpers.small_policy import build

    return made_once(tmp_path_factory, "policy", lambda folder: build(folder, trainable))

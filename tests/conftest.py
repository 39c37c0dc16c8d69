"""Order and markers of the tests, and fixtures that several folders share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.helpers.make_once import make_once

if TYPE_CHECKING:
    from cot_builder.storage.workspace import Workspace

# Use the same examples in every run, without deadlines. `pytest -m hypothesis --hypothesis-profile default` tries new
# ones.
hypothesis.settings.load_profile("ci")

SLOWEST = (
    "annotation/test_review_faults.py",
    "indus_cot/test_pipeline.py",
    "annotation/test_review_browser.py",
    "annotation/test_review_round_trip.py",
    "annotation/test_label_studio_server.py",
    "annotation/test_prior_review.py",
    "cot_builder/stages/test_patch_command.py",
    "annotation/test_review_experts.py",
    "annotation/test_review_s3.py",
    "train/test_grpo.py",
    "train/test_learn.py",
    "cot_builder/publishing/",
    "train/test_sft.py",
    "eval/test_local.py",
    "eval/test_journal.py",
    "cot_builder/teacher/test_teacher.py",
    "cot_builder/stages/test_draft",
    "cot_builder/benchmarks/test_synthetic.py",
    "cot_builder/endpoint/test_batch_faults.py",
    "cot_builder/endpoint/test_retries.py",
    "eval/test_parse.py",
    "eval/report/",
)
"""Path prefixes below ``tests`` of slow files and of folders with a shared fixture, the slowest first."""

MARKED = {
    "server": ("label_studio", "hub_server", "s3"),
    "browser": ("browser", "chromium"),
    "train": ("policy",),
}
"""Markers of tests that use one of these fixtures, directly or indirectly."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, and start with the slowest files.

    All tests of a file run on one worker, so a slow file at the end would leave the others idle.
    """
    for item in items:
        for marker, fixtures in MARKED.items():
            if not _list_fixtures(item).isdisjoint(fixtures):
                item.add_marker(marker)
        if _uses_server(item):
            item.add_marker("server")
    items.sort(key=_get_rank)


def _list_fixtures(item: pytest.Item) -> set[str]:
    """Return the names of the fixtures that the test uses, without its parameters."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return set(getattr(item, "fixturenames", ())) - set(parameters)


def _uses_server(item: pytest.Item) -> bool:
    """Return whether the test's module imports anything from ``tests/servers``."""
    values = vars(getattr(item, "module", None) or object).values()
    return any(str(getattr(value, "__module__", "")).startswith("tests.servers.") for value in values)


def _get_rank(item: pytest.Item) -> int:
    path = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((number for number, prefix in enumerate(SLOWEST) if path.startswith(prefix)), len(SLOWEST))


@pytest.fixture(scope="session")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Workspace]":
    """A small corpus and a tiny model, ``tiny``, with its vocabulary; read-only."""
    # Import here: most test files do not need torch.
    import datasets

    from cot_builder.storage.workspace import Workspace
    from tests.helpers.training_project import build

    root = make_once(tmp_path_factory, "training", build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        yield Workspace(root)


@pytest.fixture(scope="session")
def policy(trainable: "Workspace", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small corpus and a tiny policy; read-only."""
    from tests.helpers.small_policy import build

    return make_once(tmp_path_factory, "policy", lambda folder: build(folder, trainable))

"""Fixture: a project for training."""

from pathlib import Path

import pytest

from cot_builder.storage.workspace import Workspace


@pytest.fixture
def workspace(policy: Path, tmp_path: Path) -> Workspace:
    """The small corpus in a writable workspace."""
    from tests.helpers.reinforcement import link_project

    return link_project(policy, tmp_path)

"""Fixtures with a running Label Studio and projects with drafts to review."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.label_studio_server import Server, label_studio

if TYPE_CHECKING:
    from tests.helpers.review_project import Project

__all__ = ["label_studio"]
# Helpers are imported in the fixtures: tests of a page need no client of the server, which is slow to import.


@pytest.fixture(scope="session")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with drafts, which tests copy."""
    from tests.helpers.review_project import new_drafts

    return new_drafts(tmp_path_factory.mktemp("review"))


@pytest.fixture
def project(drafted: Path, tmp_path: Path, label_studio: Server) -> "Project":
    """A copy of the project with drafts, with its own project on the server."""
    from tests.helpers.review_project import Project

    return Project(Path(shutil.copytree(drafted, tmp_path / "project", symlinks=True)), label_studio)

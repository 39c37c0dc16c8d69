"""A running Label Studio, and projects with drafts to review."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.review_project import Project, new_drafts
from tests.servers.label_studio_server import Server, label_studio

__all__ = ["label_studio"]


@pytest.fixture(scope="session")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with drafts, to be copied."""
    return new_drafts(tmp_path_factory.mktemp("review"))


@pytest.fixture
def project(drafted: Path, tmp_path: Path, label_studio: Server) -> Project:
    """A copy of the project with drafts, and its own project on the server."""
    return Project(Path(shutil.copytree(drafted, tmp_path / "project", symlinks=True)), label_studio)

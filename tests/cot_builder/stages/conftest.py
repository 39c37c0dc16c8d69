"""Fixtures shared by several test files of stages."""

import shutil
from pathlib import Path

import pytest

from cot_builder.storage.workspace import Workspace
from tests.helpers.make_once import make_once


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Forty samples in three chunks, one of them damaged, processed by one worker in this process; read-only."""
    from cot_builder.stages.patch import patch
    from tests.helpers.patches import NO_IMAGE, chosen, parts, with_settings
    from tests.helpers.pulled import PulledImage

    def make(folder: Path) -> None:
        damaged = PulledImage("bracket", "broken", data=NO_IMAGE)
        patch(with_settings(), chosen(folder, {"real_iad": [*parts(19), damaged, *parts(20, "lid")]}))

    return Workspace(make_once(tmp_path_factory, "many", make))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project processed up to `prior` with the offline teacher; tests copy it."""
    from tests.helpers.drafting import prepare_project

    return make_once(tmp_path_factory, "drafting", prepare_project)


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """A copy of a project processed up to `prior`."""
    return Path(shutil.copytree(prepared, tmp_path / "project", symlinks=True))

"""Fixtures: a small corpus with its report, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from cot_builder.storage.workspace import Workspace
from eval.report.report import report
from tests.helpers.make_once import make_once
from tests.helpers.small_corpus import build, params

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.helpers.report_page import Visit

COLUMNS = ["id", "category", "view", "split", "answer", "boxes", "defect_type", "tool_calls", "trajectory"]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The small corpus with its report; tests must not change it."""
    return Workspace(make_once(tmp_path_factory, "report", lambda folder: report(params(), build(folder))))


@pytest.fixture(scope="session")
def page(workspace: Workspace) -> str:
    """The text of the report."""
    return (workspace.reports / "index.html").read_text("utf-8")


@pytest.fixture(scope="session")
def rows(workspace: Workspace) -> pl.DataFrame:
    """The rows of the report's corpus, without images."""
    return pl.concat([pl.read_parquet(path, columns=COLUMNS) for path in workspace.indus_cot.glob("data/*.parquet")])


@pytest.fixture
def copy(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the workspace that a test may change."""
    shutil.copytree(workspace.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """A browser; tests that need one are skipped where none is installed."""
    # Imported here: most tests of the report need no browser.
    from tests.helpers import browser

    if not browser.CHROMIUM:
        pytest.skip("no chromium here: install it, or say where it is in CHROMIUM")
    with browser.chromium() as started:
        yield started


@pytest.fixture
def opened(chromium: "Browser", workspace: Workspace) -> "Iterator[Visit]":
    """The report in a window of its own."""
    from tests.helpers.report_page import Visit

    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    visit = Visit(context, workspace.reports / "index.html")
    yield visit
    assert visit.external_requests() == [] and visit.errors == []
    context.close()

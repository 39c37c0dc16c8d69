"""The `bash` blocks of every page, run in a small finished project."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.make_once import make_once
from tests.helpers.pages import Page, list_pages, run_blocks
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import UNTRAINED

pytestmark = pytest.mark.slow

FIRST = Page(ROOT / "docs/tutorials/first-corpus.md")
"""The page that makes the project; all others begin in it."""
SETTINGS = (
    "synthetic.categories=6", "synthetic.parts=4", "synthetic.views=1", "synthetic.size=128", "select.samples=16",
    *UNTRAINED,
)  # fmt: skip
PAGES = [page for page in list_pages() if page.blocks("bash") and page.name not in ("README.md", FIRST.name)]


def make_first_corpus(folder: Path) -> None:
    done = run_blocks(FIRST, folder, SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all equal" in done.stdout and "DatasetDict" in done.stdout


@pytest.fixture(scope="session")
def first_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of the first tutorial; to be copied, not written to."""
    return make_once(tmp_path_factory, "first-corpus", make_first_corpus) / "my-parts"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_blocks_run(page: Page, first_corpus: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(first_corpus, project)
    done = run_blocks(page, project, SETTINGS)
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}{done.stderr}"

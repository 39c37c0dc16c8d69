"""The README is short, its links lead somewhere, and `indus-cot init` writes a true one."""

import re
from pathlib import Path

import pytest

from tests.helpers.pages import Page
from tests.helpers.paths import ROOT

README = Page(ROOT / "README.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= 150
    assert len(README.text.split()) <= 1500


def test_readme_has_the_two_commands() -> None:
    (block,) = README.blocks("bash")
    assert [line.split("#")[0].strip() for line in block.splitlines()] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [README.path, ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"], ids=str)
def test_relative_links_lead_to_files(path: Path) -> None:
    targets = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    missing = []
    for link in targets:
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert not missing


def test_every_figure_names_its_command() -> None:
    table = README.text.partition("## Does it work?")[2].partition("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and re.search(r"\d", line)]
    assert rows and all(re.search(r"`(make|indus-cot|\.venv)[^`]*` \|$", row) for row in rows)


def test_pictures_are_small() -> None:
    pictures = [*(ROOT / "docs/images").glob("*.jpg"), *(ROOT / "docs/images").glob("*.png")]
    assert pictures and all(picture.stat().st_size < 300_000 for picture in pictures)


def test_readme_of_a_project_names_real_files() -> None:
    page = Page(ROOT / "indus_cot/project_readme.md")
    named = [name for name in page.inline if re.fullmatch(r"[\w/]+(\.yaml|/)", name)]
    made = {"data/", "models/", "results/", "reports/"}
    assert {"params.yaml", "dvc.yaml", "prices.yaml", "profiles/"} <= set(named)
    assert all((ROOT / name).exists() for name in named if name not in made)
    assert not LINK.findall(page.text), "a project holds no documentation that a link could lead to"


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}

"""The documentation site: it builds strictly, loads nothing from the network, and its search works from a file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs_build.markdown import convert_docstring, sentence, table
from docs_build.parameters import read_comments
from docs_build.reference import generated_pages, public_names
from docs_build.tables import find_tables
from indus_cot import __all__ as public
from tests.helpers.browser import CHROMIUM, chromium
from tests.helpers.make_once import make_once
from tests.helpers.pages import list_pages
from tests.helpers.paths import ROOT

LOADED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(https?:)?//|"""
                    r"""<link\b[^>]*\srel=["']?(?:stylesheet|preload|preconnect|icon)[^>]*\shref=["']?https?://""")  # fmt: skip


def build(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    return make_once(tmp_path_factory, "site", build)


@pytest.mark.slow
def test_site_has_every_page(site: Path) -> None:
    written = {page.path.relative_to(ROOT / "docs") for page in list_pages() if page.name != "README.md"}
    generated = {Path(path) for path in generated_pages(ROOT)}
    assert all((site / path.with_suffix(".html")).is_file() for path in written | generated)


@pytest.mark.slow
def test_site_loads_nothing_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert not [page for page in pages if LOADED.search(page.read_text(encoding="utf-8"))]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `make test` installs it where it may")
def test_pages_fit_and_search_works_from_a_file(site: Path) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        for name in ("index.html", "reference/parameters.html", "numbers/results.html", "reference/python.html"):
            page.goto((site / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto((site / "index.html").as_uri())
        page.click(".md-search__input")
        page.keyboard.type("krippendorff")
        page.wait_for_selector(".md-search-result__link")
        assert "review" in (page.get_attribute(".md-search-result__link", "href") or "")
        assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


def test_reference_lists_what_the_code_declares() -> None:
    pages = generated_pages(ROOT)
    assert all(f"`{key}.{name}`" in pages["reference/parameters.md"] for key, name in plain_parameters())
    assert all(f"## {item.name}\n" in pages["reference/tables.md"] for item in find_tables())
    assert all(f"## {verb}\n" in pages["reference/verbs.md"] for verb in ("pull", "draft", "review push", "publish"))
    assert "--only-failed" in pages["reference/verbs.md"]
    assert all(f"## {name}\n" in pages["reference/tools.md"] for name in ("crop", "enhance", "measure", "prior"))
    assert "{ #visa }" in pages["data-sets.md"] and "VisA_20220922.tar" in pages["data-sets.md"]
    assert set(public_names(ROOT)) == set(public)


def test_comments_of_parameters_are_read() -> None:
    text = "a:   # of a\n  b: 1  # one\n       # and more\n  c:\n    # above a list\n    d: 2\n"
    assert read_comments(text) == {("a",): "of a", ("a", "b"): "one and more", ("a", "c"): "above a list"}


def test_every_parameter_has_a_description() -> None:
    page = generated_pages(ROOT)["reference/parameters.md"]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    bare = [line for line in rows if re.search(r"\|\s*\|$", line)]
    assert len(rows) > 100 and len(bare) < 40


def test_docstrings_become_markdown() -> None:
    assert convert_docstring(":func:`~a.b.c` and :class:`Name` of ``x``") == "`c` and `Name` of `x`"
    assert convert_docstring("Layout::\n\n    a/b") == "Layout:\n\n    a/b"
    assert sentence("of the whole run") == "Of the whole run." and sentence("prices.yaml says") == "prices.yaml says."
    assert table(["a"], [["x|y"]]) == "| a |\n|---|\n| x\\|y |\n"


def plain_parameters() -> list[tuple[str, str]]:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return [(key, name) for key in ("run", "select", "draft", "evaluate", "publish") for name in values[key]]

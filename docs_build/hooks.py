"""Hooks of mkdocs: add the generated pages, CONTRIBUTING.md and CHANGELOG.md to the site."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages that are files of the repository's root."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the copied pages that exist to the navigation."""
    titles = {"contributing.md": "Contributing", "changelog.md": "Changelog"}
    assert config.nav is not None
    config.nav += [{titles[page]: page} for page, name in COPIED.items() if (ROOT / name).is_file()]
    config.watch += [str(ROOT / name) for name in ("params.yaml", "dvc.yaml", "docs_build")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated and the copied pages."""
    # Imported here: hooks are loaded before the path of the project is known.
    from docs_build.reference import generated_pages

    pages = generated_pages(ROOT)
    for page, name in COPIED.items():
        if (ROOT / name).is_file():
            pages[page] = adapt_links((ROOT / name).read_text(encoding="utf-8"))
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def adapt_links(text: str) -> str:
    """Make relative links of a file in the root fit the site: pages below docs/ stay links, other files become code."""

    def adapt(link: "re.Match[str]") -> str:
        label, target = link[1], link[2]
        if re.match(r"https?://|#|mailto:", target):
            return link[0]
        if target.startswith("docs/"):
            return f"[{label}]({target.removeprefix('docs/')})"
        return label if label.startswith("`") else f"`{target}`"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", adapt, text)

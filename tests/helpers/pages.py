"""The pages of the documentation: their text, blocks of code and inline code."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the checkout."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, *languages: str) -> list[str]:
        """Texts of the blocks of code in these languages."""
        return [found["text"] for found in FENCE.finditer(self.text) if found["language"] in languages]

    @property
    def inline(self) -> list[str]:
        """Texts of the inline code, on one line each."""
        return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", FENCE.sub("", self.text))]


def list_pages() -> list[Page]:
    """The README and every page of the site that is written, not generated."""
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md")))]


def run_blocks(page: Page, folder: Path, settings: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the `bash` blocks of a page in order, as one script that stops at the first error."""
    script = "set -euxo pipefail\n" + "\n".join(page.blocks("bash"))
    environment = {
        **os.environ, **ENVIRONMENT, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "INDUS_COT_SET": "\n".join(settings), "HF_DATASETS_CACHE": str(folder / "hf"), "DVC_NO_ANALYTICS": "1",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def find_undocumented_files(project: Path) -> tuple[list[str], list[str]]:
    """Files of a finished project that the page of files does not describe, and descriptions that fit no file."""
    described = yaml.safe_load((ROOT / "docs_build/files.yaml").read_text(encoding="utf-8"))
    patterns = list(described["files"])
    common = set(described["in every folder of a stage"])
    folders = ("data", "models", "results", "reports")
    files = [path.relative_to(project).as_posix() for name in folders for path in (project / name).rglob("*")
             if path.is_file() and not path.name.startswith(".") and path.name not in common]  # fmt: skip
    used = {pattern: [file for file in files if _fits(file, pattern)] for pattern in patterns}
    known = {file for found in used.values() for file in found}
    return sorted(set(files) - known), [pattern for pattern, found in used.items() if not found]


def _fits(file: str, pattern: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", "[^/]*").replace("SET", "[a-z0-9_]+")
    return re.fullmatch(expression, file) is not None

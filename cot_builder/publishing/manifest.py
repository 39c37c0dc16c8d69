"""The manifest of a published repository."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import IndusCotError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class NotFoundError(IndusCotError):
    """The repository, revision or file does not exist."""


def parse_manifest(text: bytes, where: str) -> dict[str, Any]:
    """Parse the manifest of a published version.

    Raises:
        IndusCotError: it is damaged.
    """
    try:
        found = json.loads(text)
        due = {"format": int, **({"files": dict} if found["kind"] == "model" else {"bits": int, "changelog": list})}
        fine = all(isinstance(found[name], kind) for name, kind in due.items())
        if fine and re.fullmatch(r"\d+\.\d+\.\d+", found["version"]):
            return dict(found)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise IndusCotError(
        f"{where}: {MANIFEST} is damaged, or not written by indus-cot. Restore it from an earlier commit"
    )


def refuse_lfs_pointer(path: Path) -> Path:
    """Return the path.

    Raises:
        IndusCotError: it holds a git-lfs pointer instead of the file.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) != LFS_POINTER:
            return path
    raise IndusCotError(
        f"{path}: is a git-lfs pointer, because this folder was cloned without git-lfs. Run `git lfs pull` in it, or "
        "give the dataset as OWNER/NAME"
    )


MANIFEST = "indus-cot.json"


FORMAT = 2
"""Version of the published format; a new format is a new major version."""


def render_manifest(manifest: Mapping[str, Any]) -> str:
    """Text of ``indus-cot.json``."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"

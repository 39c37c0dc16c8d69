"""The manifest of a published repository."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import IndusCotError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class NotFoundError(IndusCotError):
    """No such repository, revision or file."""


def parse_manifest(text: bytes, where: str) -> dict[str, Any]:
    """A manifest of what is published, read.

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
        f"{where}: its {MANIFEST} is damaged, or not what indus-cot wrote. Put back the one of an earlier commit there"
    )


def refuse_lfs_pointer(path: Path) -> Path:
    """The same path.

    Raises:
        IndusCotError: a pointer of git-lfs lies there in place of the file.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) != LFS_POINTER:
            return path
    raise IndusCotError(
        f"{path}: is a pointer of git-lfs, not the file: this folder was cloned without git-lfs. Run `git lfs pull` in "
        "it, or name the dataset as OWNER/NAME"
    )


MANIFEST = "indus-cot.json"


FORMAT = 2
"""Of what is published; another one is a new major version."""


def render_manifest(manifest: Mapping[str, Any]) -> str:
    """``indus-cot.json``."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"

"""Parts to cut patches from, as `select` would hand them on, and what `patch` made of them."""

import csv
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cot_builder.params import Params
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from schemas.patch import PATCH, PatchPair
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision
from tests.helpers.pulled import PulledImage, params_for, picture, write_pulled_set

SETS = {"real_iad": ("real_iad", "train"), "sdd": ("sdd", "train")}
WIDTH, HEIGHT = 240, 180
DEFECT = (150, 40, 190, 64)
NO_IMAGE = b"\x89PNG\r\n\x1a\n of no use"


def drawn(key: str, defect: bool, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A grey plate with structure, and a dark patch at DEFECT."""
    image = np.full((height, width, 3), 210, np.uint8)
    image[15:-15, 15:-15] = 110 + picture(key, width - 30, height - 30, contrast=20)[..., :1] // 8
    if defect:
        x1, y1, x2, y2 = DEFECT
        image[y1:y2, x1:x2] = 20
    return encode_png(image)


@cache
def parts(count: int, name: str = "bracket") -> list[PulledImage]:
    """Normal and defective parts in turns."""
    return [
        PulledImage(
            name,
            f"S{number:04d}",
            defect="scratch" if number % 2 else None,
            data=drawn(f"{name} {number}", bool(number % 2)),
            box=DEFECT,
        )
        for number in range(count)
    ]


def chosen(root: Path, sets: dict[str, Sequence[PulledImage]]) -> Workspace:
    """Pull ``sets`` and hand all of them on, as `select` would."""
    workspace = Workspace(root)
    samples: list[Sample] = []
    truths: list[Supervision] = []
    for name, pulled in sets.items():
        write_pulled_set(workspace, name, pulled)
        samples += SAMPLE.records(SAMPLE.read(workspace.pull(name) / "sample.parquet"))
        truths += SUPERVISION.records(SUPERVISION.read(workspace.pull(name) / "supervision.parquet"))
    SAMPLE.write(SAMPLE.frame(samples), workspace.select / "sample.parquet")
    SUPERVISION.write(SUPERVISION.frame(truths), workspace.select / "supervision.parquet")
    return workspace


def with_settings(**values: object) -> Params:
    """Patches so small that some of them are shrunk and some are not."""
    return params_for(SETS, **({"compute__workers": 1, "patch__local_size": 56} | values))


def written(folder: Path) -> dict[str, Any]:
    """Every file of a stage's output; of the manifest, all but how long it took."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["manifest.json"] = {key: value for key, value in read_manifest(folder).items() if key != "seconds"}
    return files


def rows_of(workspace: Workspace) -> list[PatchPair]:
    """Rows of ``patch.parquet``."""
    return PATCH.records(PATCH.read(workspace.patch / "patch.parquet"))


def left_out(workspace: Workspace) -> list[tuple[str, str]]:
    """Reason and item of what `patch` left out."""
    with (workspace.patch / "left_out.csv").open(newline="", encoding="utf-8") as file:
        return [(row["reason"], row["item"]) for row in csv.DictReader(file)]


def again(many: Workspace, root: Path) -> Workspace:
    """The same input elsewhere, without the output."""
    shutil.copytree(many.data, root / "data", ignore=shutil.ignore_patterns("patch", ".patch*"))
    return Workspace(root)

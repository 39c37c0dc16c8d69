"""A new annotation form in one file: it is recognised, read, and distinguished from others."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.house.product_copy import copy_with, run_python

pytestmark = pytest.mark.slow

LINES = '''"""A text file with a line an image: path, category, and the defect with its box in pixels, or good."""

from cot_builder.benchmarks.benchmark import ClassifiedPath, Entry, Layout, path_within
from schemas.errors import IndusCotError

FORM = "a list, parts.txt"


def is_record(path):
    return path.endswith("/parts.txt")


def read(settings, files):
    lists = [text for path, text in files.records.items() if is_record(path)]
    if not lists:
        return None
    found = []
    there = set(map(path_within, files.paths))
    for text in lists:
        for number, line in enumerate(text.decode().splitlines(), 1):
            image, category, defect, *box = line.split()
            if image not in there:
                raise IndusCotError(f"parts.txt row {number}: {image} is not there; correct the path")
            label, boxes = ("normal", ()) if defect == "good" else ("anomalous", (tuple(map(int, box)),))
            entry = Entry(image, category, "test", label, None if defect == "good" else defect, boxes=boxes)
            found.append(entry)
    images = {entry.image for entry in found}

    def classify_path(path):
        key = path_within(path)
        return ClassifiedPath("image", key) if key in images else None

    return Layout(classify_path, lambda listing: iter(found))
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_with(tmp_path_factory.mktemp("tree"), {})
    (folder / "cot_builder/benchmarks/forms/lines.py").write_text(LINES, encoding="utf-8")
    source = folder / "bolts"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.png").write_bytes(encode_picture(name))
    (source / "parts.txt").write_text("a.png bolt good\nb.png bolt rust 10 10 30 20\n", encoding="utf-8")
    return folder


def encode_picture(name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), ord(name), np.uint8)).save(file, "PNG")
    return file.getvalue()


def pull(tree: Path) -> str:
    """Pull the folder `bolts`; return the output including errors."""
    setting = "pull.new={benchmark: folder, source: bolts, role: evaluate}"
    script = "import sys; sys.stderr = sys.stdout; from indus_cot.app import main\n"
    script += f"try:\n    main(['--set', {setting!r}, 'pull', 'new'])\nexcept SystemExit:\n    pass"
    return " ".join(run_python(tree, "-c", script).split())


def test_new_form_is_read(tree: Path) -> None:
    printed = pull(tree)
    rows = pl.read_parquet(tree / "data/pull/new/supervision.parquet").join(
        pl.read_parquet(tree / "data/pull/new/sample.parquet"), "sample_id"
    )
    assert set(rows["category"]) == {"bolt"}, printed
    found = {row["label"]: (row["defect_type"], row["boxes"]) for row in rows.iter_rows(named=True)}
    assert found == {"normal": (None, []), "anomalous": ("corrosion", [[166, 250, 500, 500]])}


def test_wrong_annotation_is_named(tree: Path) -> None:
    listed = tree / "bolts/parts.txt"
    text = listed.read_text(encoding="utf-8")
    listed.write_text(text + "c.png bolt good\n", encoding="utf-8")
    printed = pull(tree)
    listed.write_text(text, encoding="utf-8")
    assert "parts.txt row 3: c.png is not there; correct the path" in printed


def test_several_forms_are_refused(tree: Path) -> None:
    table = tree / "bolts/parts.csv"
    table.write_text("image,label\na.png,good\nb.png,bad\n", encoding="utf-8")
    printed = pull(tree)
    table.unlink()
    assert "bolts: has annotations in 2 forms: a list, parts.txt; a table, .csv or .jsonl. Keep one" in printed

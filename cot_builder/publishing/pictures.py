"""Pictures of the card: an example row, and bar charts of the corpus."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

SIDE = 360
"""Longest side of a picture of the example, pixels."""
ROW, LEFT, WIDTH = 26, 190, 720
INK, BAR, LIGHT, PAPER = (31, 41, 55), (37, 99, 235), (147, 197, 253), (255, 255, 255)
SHOWN_IMAGES = 4
EXAMPLES = "assets/example-*.png"


class Example(NamedTuple):
    """A row with thumbnails of its images."""

    row: dict[str, Any]
    pictures: dict[str, bytes]
    """PNG bytes by path in the repository, in the order of the chat."""


def pick_example(folder: Path) -> Example | None:
    """The first row of `sft` with an observation image, else with any image; None if there is none."""
    best: dict[str, Any] | None = None
    for path in sorted((folder / "sft" / "train").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            if len(row["images"]) > 1:
                return _make_example(row)
            best = best or (row if row["images"] else None)
    return _make_example(best) if best else None


def _make_example(row: dict[str, Any]) -> Example:
    shown = row["images"][:SHOWN_IMAGES]
    return Example(
        row, {EXAMPLES.replace("*", str(number)): _shrink(item["bytes"]) for number, item in enumerate(shown)}
    )


def _shrink(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
        picture.thumbnail((SIDE, SIDE))
    return _encode_png(picture)


def draw_bars(title: str, groups: Sequence[tuple[str, int, int]], legend: tuple[str, str] | None = None) -> bytes:
    """Horizontal bar chart as PNG: for each group its name, a dark count and a light count after it."""
    head = 2 * ROW if legend else ROW + 8
    canvas = Image.new("RGB", (WIDTH, head + ROW * len(groups) + 12), PAPER)
    draw, font, bold = ImageDraw.Draw(canvas), ImageFont.load_default(14), ImageFont.load_default(16)
    draw.text((10, 6), title, INK, bold)
    if legend:
        for place, (name, colour) in enumerate(zip(legend, (BAR, LIGHT), strict=True)):
            draw.rectangle((10 + 150 * place, ROW + 6, 22 + 150 * place, ROW + 18), colour)
            draw.text((28 + 150 * place, ROW + 3), name, INK, font)
    most = max((first + second for _, first, second in groups), default=1) or 1
    for number, (name, first, second) in enumerate(groups):
        y, scale = head + ROW * number, (WIDTH - LEFT - 70) / most
        draw.text((10, y + 3), name[:26], INK, font)
        middle, end = LEFT + first * scale, LEFT + (first + second) * scale
        if first:
            draw.rectangle((LEFT, y + 3, middle, y + ROW - 6), BAR)
        if second:
            draw.rectangle((middle, y + 3, end, y + ROW - 6), LIGHT)
        draw.text((end + 8, y + 3), f"{first + second:,}", INK, font)
    return _encode_png(canvas)


def _encode_png(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return sink.getvalue()

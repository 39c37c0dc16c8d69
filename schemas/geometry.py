"""Boxes ``(x1, y1, x2, y2)``, in integers 0-1000 relative to the original image or in pixels."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

SCALE = 1000

Box = tuple[int, int, int, int]
"""``(x1, y1, x2, y2)``. A :data:`UnitBox` is within 0-1000, with x1 < x2 and y1 < y2."""


def check_box(box: Box) -> Box:
    """Return ``box`` if it is a valid box in 0-1000.

    Raises:
        ValueError: a coordinate lies outside 0-1000, or a side is not positive.
    """
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= SCALE and 0 <= y1 < y2 <= SCALE):
        raise ValueError(f"box {list(box)} must satisfy 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000")
    return box


UnitBox = Annotated[Box, AfterValidator(check_box)]


def from_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """Convert a half-open pixel box (``[x1, x2)``) to 0-1000, rounded outwards so that it still covers the pixels.

    Raises:
        ValueError: the box is empty or lies outside the ``width`` x ``height`` image.
    """
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(f"pixel box {list(box)} does not fit an image of {width} x {height}")
    left, top = int(x1 * SCALE // width), int(y1 * SCALE // height)
    right, bottom = -int(-x2 * SCALE // width), -int(-y2 * SCALE // height)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def to_pixels(box: Box, width: int, height: int) -> Box:
    """Convert a 0-1000 box to a half-open pixel box inside the image, with sides of at least one pixel.

    Edges are rounded inwards to the nearest pixel edge, so that ``to_pixels(from_pixels(b)) == b`` if the image
    has at most 1000 pixels a side.

    Raises:
        ValueError: ``box`` is no valid box in 0-1000.
    """
    x1, y1, x2, y2 = check_box(box)
    left, right = _to_pixel_range(x1, x2, width)
    top, bottom = _to_pixel_range(y1, y2, height)
    return left, top, right, bottom


def _to_pixel_range(low: int, high: int, size: int) -> tuple[int, int]:
    start = min(-(-low * size // SCALE), size - 1)
    return start, max(min(high * size // SCALE, size), start + 1)


def area(box: Box) -> int:
    """Area of a box, in square units of its coordinates."""
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def intersection(a: Box, b: Box) -> Box | None:
    """Overlap of two boxes, or None if they do not overlap."""
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    common = intersection(a, b)
    if common is None:
        return 0.0
    shared = area(common)
    return shared / (area(a) + area(b) - shared)


def union_iou(first: Sequence[Box], second: Sequence[Box]) -> float:
    """IoU of the regions covered by two sets of boxes in 0-1000, in [0, 1]. It is 1.0 for two empty sets."""
    if not first and not second:
        return 1.0
    # Use the grid cells between neighbouring edges: a few cells instead of a million unit squares.
    xs = sorted({x for box in (*first, *second) for x in (box[0], box[2])})
    ys = sorted({y for box in (*first, *second) for y in (box[1], box[3])})
    cells = np.outer(np.diff(ys), np.diff(xs))
    covered = np.zeros((2, *cells.shape), dtype=bool)
    for layer, boxes in zip(covered, (first, second), strict=True):
        for x1, y1, x2, y2 in boxes:
            layer[ys.index(y1) : ys.index(y2), xs.index(x1) : xs.index(x2)] = True
    return float(cells[covered[0] & covered[1]].sum() / cells[covered[0] | covered[1]].sum())


def hull(boxes: Sequence[Box]) -> Box:
    """Smallest box around all of ``boxes``.

    Raises:
        ValueError: ``boxes`` is empty.
    """
    if not boxes:
        raise ValueError("hull needs at least one box; got no boxes")
    columns = list(zip(*boxes, strict=True))
    return min(columns[0]), min(columns[1]), max(columns[2]), max(columns[3])


def expand(box: Box, factor: float, minimum: int = 0) -> Box:
    """Scale the sides of a 0-1000 box about its centre by ``factor``, to at least ``minimum`` units each.

    A result that would leave 0-1000 is shifted inside, not cut.
    """
    spans = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        side = min(SCALE, max(round((high - low) * factor), minimum, 1))
        start = min(max(round((low + high - side) / 2), 0), SCALE - side)
        spans.append((start, start + side))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def describe_position(box: Box) -> str:
    """Position of a box's centre in words: 'upper left', 'upper middle', 'left side', 'centre' and so on."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    rows = "upper" if y < 333 else "lower" if y > 667 else ""
    columns = "left" if x < 333 else "right" if x > 667 else ""
    if rows and columns:
        return f"{rows} {columns}"
    if rows:
        return f"{rows} middle"
    return f"{columns} side" if columns else "centre"

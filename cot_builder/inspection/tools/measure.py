"""The tool measure: distances, angles, relative position and grey levels at reference points."""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from cot_builder.inspection.tools.tool import ToolError, ToolResult, tool
from schemas.geometry import SCALE

MOST_MM_PER_PX = 1_000_000


@tool(
    version=5,
    mentions=r"\bmeasur|\b\d[\d.]* ?(?:px|mm|deg)\b|\bgrey levels?\b",
    results=r"\bthe measured\b|\bit extends over\b|\bmeasures \d",
)
def measure(image: np.ndarray, points: list[list[int]], mm_per_px: float | None = None) -> ToolResult:
    """Measure distances, angles, relative position and grey levels at reference points.

    Args:
        image: The inspected image.
        points: Two to six points [x, y], integers 0-1000 of the original image.
        mm_per_px: Millimetres a pixel, if the scale is known.

    Raises:
        ToolError: fewer than two or more than six points, a point outside 0-1000, a scale that is not positive or
            more than a kilometre a pixel.
    """
    checked = _check_points(points)
    if mm_per_px is not None and not (isinstance(mm_per_px, int | float) and 0 < mm_per_px <= MOST_MM_PER_PX):
        raise ToolError(f"mm_per_px must be a positive number of at most {MOST_MM_PER_PX}; got {mm_per_px!r}")
    height, width = image.shape[:2]
    places = [(x * (width - 1) / SCALE, y * (height - 1) / SCALE) for x, y in checked]
    levels = [_grey_at(image, place) for place in places]
    lines = []
    for index, (start, end) in enumerate(pairwise(places)):
        lines.append(f"P{index + 1}-P{index + 2}: " + _segment(image, start, end, mm_per_px))
    for index in range(1, len(places) - 1):
        lines.append(f"angle at P{index + 1}: {_angle(*places[index - 1 : index + 2]):.1f} deg")
    named = ", ".join(
        f"P{i} ({x}, {y}) grey {level:.0f}" for i, ((x, y), level) in enumerate(zip(checked, levels, strict=True), 1)
    )
    return ToolResult(f"{named}. " + "; ".join(lines) + ".")


def _check_points(points: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    hint = "points must be two to six [x, y] pairs, integers 0-1000"
    if isinstance(points, str) or not isinstance(points, Sequence) or not 2 <= len(points) <= 6:
        raise ToolError(f"{hint}; got {points!r}")
    checked = []
    for point in points:
        if isinstance(point, str) or not isinstance(point, Sequence) or len(point) != 2:
            raise ToolError(f"{hint}; got {point!r}")
        if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= SCALE for v in point):
            raise ToolError(f"{hint}; got {list(point)!r}")
        checked.append((point[0], point[1]))
    return checked


def _grey_at(image: np.ndarray, place: tuple[float, float]) -> float:
    x, y = round(place[0]), round(place[1])
    patch = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    return float(cv2.cvtColor(np.ascontiguousarray(patch), cv2.COLOR_BGR2GRAY).mean())


def _segment(image: np.ndarray, start: tuple[float, float], end: tuple[float, float], mm_per_px: float | None) -> str:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length == 0:
        return "0.0 px (the same point)"
    physical = f" = {length * mm_per_px:.2f} mm" if mm_per_px else ""
    across = "right" if dx > 0 else "left" if dx < 0 else ""
    down = "below" if dy > 0 else "above" if dy < 0 else ""
    relation = " and ".join(word for word in (down, across) if word)
    angle = math.degrees(math.atan2(abs(dy), abs(dx)))
    low, high = _levels_along(image, start, end)
    return (
        f"{length:.1f} px{physical}, end lies {relation} of start, {angle:.1f} deg to the horizontal, "
        f"grey levels along it {low:.0f} to {high:.0f}"
    )


def _levels_along(image: np.ndarray, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    count = int(min(max(math.hypot(end[0] - start[0], end[1] - start[1]), 2), 4096)) + 1
    xs = np.linspace(start[0], end[0], count).round().astype(int)
    ys = np.linspace(start[1], end[1], count).round().astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(image[ys, xs][None]), cv2.COLOR_BGR2GRAY)
    return float(grey.min()), float(grey.max())


def _angle(before: tuple[float, float], at: tuple[float, float], after: tuple[float, float]) -> float:
    first = math.atan2(before[1] - at[1], before[0] - at[0])
    second = math.atan2(after[1] - at[1], after[0] - at[0])
    turn = abs(math.degrees(first - second)) % 360
    return min(turn, 360 - turn)

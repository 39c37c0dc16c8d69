"""The inspector's tools: deterministic plain functions. Coordinates are 0-1000 of the original image.

The tools are those of IndusAgent (arXiv 2605.20682): crop, enhance, measure, prior. None of them is ever
given ground truth. Images are uint8 (height, width, 3) BGR, as OpenCV reads them.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import cv2
import numpy as np

from cot_builder.inspection.names import category_name, spelled
from cot_builder.inspection.proposals import propose
from schemas.geometry import SCALE, Box, from_pixels, to_pixels

TOOLBOX_VERSION = "5"
MIN_SIDE = 28
"""Pixels: one merged visual token of Qwen-VL models; a smaller image tells them nothing."""
TARGET_SIDE = 448
MAX_ZOOM = 8.0
MAX_SIDE = 1024
"""Pixels; a larger view is scaled down, since an image costs tokens by its area."""
MOST_MM_PER_PX = 1_000_000
Operator = Literal["clahe", "canny", "residual"]


class ToolError(ValueError):
    """The caller's arguments do not fit; the text tells the caller what to change."""


@dataclass(frozen=True)
class ToolResult:
    """What a tool returns: a text, and with crop and enhance an image, uint8 (h, w, 3) or (h, w)."""

    text: str
    image: np.ndarray | None = None


def crop(image: np.ndarray, region: Sequence[int] | None = None) -> ToolResult:
    """Enlarged view of a region.

    A small region comes out at about 448 px, at most 8x enlarged; one of more than 1024 px is scaled down to that;
    between them the original pixels are shown. A region too narrow to show 28 px a side is widened. The text says
    what was shown, and at which scale.

    Args:
        image: The inspected image.
        region: Box as [x1, y1, x2, y2], integers 0-1000; without it, the most conspicuous foreground region.

    Raises:
        ToolError: the region is no box in 0-1000.
    """
    if region is None:
        proposal = propose(image, 1)[0]
        box, found = proposal.box, f" (found by {proposal.method} proposal)"
    else:
        box, found = _check_region(region), ""
    pixels, shown, size = _view(image, box)
    return ToolResult(f"Crop of {list(shown)}{found}: {size}.", pixels)


def enhance(image: np.ndarray, operator: str, region: Sequence[int] | None = None) -> ToolResult:
    """Texture map of a region that brings out what plain pixels hide.

    Args:
        image: The inspected image.
        operator: clahe evens out contrast; canny draws edges; residual keeps what is finer than its surroundings.
        region: Box as [x1, y1, x2, y2], integers 0-1000; without it, the whole image.

    Raises:
        ToolError: the operator is unknown, or the region is no box in 0-1000.
    """
    if operator not in get_args(Operator):
        raise ToolError(f"operator must be one of {', '.join(get_args(Operator))}; got {operator!r}")
    box = (0, 0, SCALE, SCALE) if region is None else _check_region(region)
    pixels, shown, size = _view(image, box)
    where = f"of {list(shown)}, {size}"
    if operator == "clahe":
        return _clahe(pixels, where)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return _canny(grey, where) if operator == "canny" else _residual(grey, shown, where)


def measure(image: np.ndarray, points: Sequence[Sequence[int]], mm_per_px: float | None = None) -> ToolResult:
    """Distances, angles, relative position and grey levels at reference points.

    Args:
        image: The inspected image.
        points: Two to six points as [x, y], integers 0-1000, measured in order.
        mm_per_px: Millimetres a pixel, where the scale is known; lengths are then given in mm too.

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


def prior(priors: Mapping[tuple[str, str], str], category: str, view: str = "default") -> ToolResult:
    """What a defect-free part of a category looks like from a view.

    A category is looked up as it is written, then by the name people say, then by the nearest name. The text names
    the entry that was used, and says where it is of another category or view than asked.

    Args:
        priors: Text by (category, view).
        category: Category of the part, for example hazelnut.
        view: Camera or pose; default where the parts have one view.

    Raises:
        ToolError: there is no prior at all, or an argument is no text.
    """
    if not isinstance(category, str) or not category.strip() or not isinstance(view, str):
        raise ToolError(f"category and view must be texts; got {category!r}, {view!r}")
    if not priors:
        raise ToolError("the knowledge base holds no normalcy prior")
    key, note = _nearest_prior(priors, category.strip(), view.strip())
    return ToolResult(f"Normalcy prior for {spelled(key[0])}, view {key[1]}{note}: {priors[key]}")


def _check_region(region: Sequence[int]) -> Box:
    hint = "region must be [x1, y1, x2, y2], integers 0-1000 with x1 < x2 and y1 < y2"
    if isinstance(region, str) or not isinstance(region, Sequence) or len(region) != 4:
        raise ToolError(f"{hint}; got {region!r}")
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in region):
        raise ToolError(f"{hint}; got {list(region)!r}")
    x1, y1, x2, y2 = region
    if not (0 <= x1 < x2 <= SCALE and 0 <= y1 < y2 <= SCALE):
        raise ToolError(f"{hint}; got {list(region)}")
    return x1, y1, x2, y2


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


def _view(image: np.ndarray, box: Box) -> tuple[np.ndarray, Box, str]:
    """The region's pixels, enlarged; the box really shown; how many pixels of the image that is, and the zoom."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = to_pixels(box, width, height)
    longest = max(x2 - x1, y2 - y1)
    zoom = MAX_SIDE / longest if longest > MAX_SIDE else min(max(TARGET_SIDE / longest, 1.0), MAX_ZOOM)
    least = math.ceil(MIN_SIDE / zoom)
    x1, x2 = _widen(x1, x2, least, width)
    y1, y2 = _widen(y1, y2, least, height)
    shown = from_pixels((x1, y1, x2, y2), width, height) if (x1, y1, x2, y2) != to_pixels(box, width, height) else box
    pixels = image[y1:y2, x1:x2]
    # Only an image that is itself narrower than MIN_SIDE needs more than MAX_ZOOM allows.
    zoom = max(zoom, MIN_SIDE / min(pixels.shape[:2]))
    # Not what the box says: above 1000 px a side its integers are coarser than pixels.
    told = f"{x2 - x1} x {y2 - y1} px shown at {zoom:.1f}x"
    if zoom == 1:
        return pixels.copy(), shown, told
    size = (max(MIN_SIDE, round((x2 - x1) * zoom)), max(MIN_SIDE, round((y2 - y1) * zoom)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA), shown, told


def _widen(low: int, high: int, least: int, size: int) -> tuple[int, int]:
    if high - low >= least:
        return low, high
    least = min(least, size)
    start = min(max((low + high - least) // 2, 0), size - least)
    return start, start + least


def _clahe(pixels: np.ndarray, where: str) -> ToolResult:
    lightness, green_red, blue_yellow = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB))
    # One a call: it keeps what it works on within itself, and tools run in threads.
    even = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(lightness)
    before, after = _spread(lightness), _spread(even)
    text = f"Contrast-limited equalisation {where}: lightness spread {before:.1f} before, {after:.1f} after."
    return ToolResult(text, cv2.cvtColor(cv2.merge([even, green_red, blue_yellow]), cv2.COLOR_LAB2BGR))


def _spread(channel: np.ndarray) -> float:
    return float(cv2.meanStdDev(channel)[1].item())


def _canny(grey: np.ndarray, where: str) -> ToolResult:
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.2)
    middle = float(np.median(smooth))
    edges = cv2.Canny(smooth, max(10.0, 0.33 * middle), max(30.0, 0.66 * middle))
    share = 100 * cv2.countNonZero(edges) / edges.size
    return ToolResult(f"Canny edges {where}: edges cover {share:.1f} % of the region.", edges)


def _residual(grey: np.ndarray, shown: Box, where: str) -> ToolResult:
    sigma = max(2.0, max(grey.shape) / 40)
    fine = cv2.absdiff(grey, cv2.GaussianBlur(grey, (0, 0), sigma))
    smooth = cv2.GaussianBlur(fine, (0, 0), 2.0)
    _, peak, _, (x, y) = cv2.minMaxLoc(smooth)
    middle = max(float(np.median(smooth)), 1.0)
    px = shown[0] + round((shown[2] - shown[0]) * x / grey.shape[1])
    py = shown[1] + round((shown[3] - shown[1]) * y / grey.shape[0])
    text = f"High-frequency residual {where}: strongest at ({px}, {py}), {peak / middle:.1f} times the median response."
    return ToolResult(text, cv2.convertScaleAbs(fine, alpha=min(255 / max(peak, 1.0), 8.0)))


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


def _nearest_prior(priors: Mapping[tuple[str, str], str], category: str, view: str) -> tuple[tuple[str, str], str]:
    """The entry to use, and what of it is not as asked."""
    asked, said = spelled(category), category_name(category)
    # A person says "pcb" of pcb1 and pcb2 alike, and the question to a student does; who writes pcb3 means that one.
    other = "" if asked == said else f"none for {category}, of the same name"
    for matches, note in (
        (lambda name: name == category, ""),
        (lambda name: spelled(name) == asked, ""),
        (lambda name: category_name(name) == said, other),
    ):
        if same := [key for key in sorted(priors) if matches(key[0])]:
            at_view = [key for key in same if key[1] == view]
            notes = "; ".join(filter(None, (note, "" if at_view else f"none for view {view}")))
            return (at_view or same)[0], f" ({notes})" if notes else ""
    best = max(
        sorted(priors),
        key=lambda key: (difflib.SequenceMatcher(None, said, category_name(key[0])).ratio(), key[1] == view),
    )
    return best, f" (none for {category}; the nearest category by name)"

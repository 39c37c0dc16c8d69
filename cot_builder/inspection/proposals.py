"""Finds conspicuous regions of an image without supervision: background estimate, difference, Otsu, morphology.

The method is that of IndusAgent's default crop (arXiv 2605.20682). If the border has a single colour, that is the
background. Within a part that fills much of the frame, and on a surface from edge to edge, the background is the local
mean, so that regions within the part are found instead of the part itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from schemas.geometry import SCALE, Box, from_pixels, intersection

WORKING_SIDE = 256
"""Longest side, in pixels, of the copy that is analysed."""
BORDER = 4
"""Width of the border in which a plain background is searched, in pixels of the copy."""
PLAIN_BORDER = 0.85
"""Share of the border that must have one colour to count as background."""
PLAIN_TOLERANCE = 24.0
"""Variation of a plain background in grey levels."""
MAX_PART_AREA = 0.2
"""A part whose box covers at most this share of the image is proposed as a whole. Larger parts are searched."""
LEAST_DIFFERENCE = 4.0
"""Minimum difference of a conspicuous region from the background, in grey levels."""
TAIL = 0.08
"""Otsu's threshold is repeated on the pixels above it until at most this share of the surface is left."""
LARGEST_PLACE = 0.35
"""Longest side of a region within a surface, as a share of the image's longest side. A larger region is replaced by its
window with the strongest difference."""
LEAST_SIDE = 0.1
"""Shortest side of a proposal, as a share of the image's longest side."""


@dataclass(frozen=True)
class Proposal:
    """A conspicuous region."""

    box: Box
    """Box in 0-1000 of the image."""
    score: float
    """Mean absolute difference of the region from the background, in grey levels (0-255)."""
    method: Literal["foreground", "centre"]
    """centre: the fallback to the middle of an image in which no region stands out."""


class _Region(NamedTuple):
    score: float
    x1: int
    y1: int
    x2: int
    y2: int


def propose(image: np.ndarray, count: int) -> list[Proposal]:
    """Find the most conspicuous regions, the most conspicuous first. They do not overlap.

    The result is deterministic, and a shorter list is the beginning of a longer one.

    Args:
        image: uint8 (height, width, 3) BGR, or (height, width).
        count: Maximum number of proposals.

    Returns:
        At most ``count`` proposals, and at least one if ``count`` is positive.
    """
    if count < 1:
        return []
    small = _shrink(image)
    height, width = small.shape[:2]
    chosen: list[Proposal] = []
    for region in sorted(_find_regions(small), key=lambda region: (-region.score, *region[1:])):
        box = from_pixels(_add_margin(region, width, height), width, height)
        if all(intersection(box, other.box) is None for other in chosen):
            chosen.append(Proposal(box, round(region.score, 2), "foreground"))
        if len(chosen) == count:
            break
    return chosen or [_propose_centre(small)]


def _shrink(image: np.ndarray) -> np.ndarray:
    """Return a float32 (height, width, channels) copy of at most WORKING_SIDE pixels a side."""
    height, width = image.shape[:2]
    # Halve the image first: averaging two by two pixels is several times faster than resizing by an arbitrary factor.
    halved = image
    while max(halved.shape[:2]) >= 2 * WORKING_SIDE and min(halved.shape[:2]) > 1:
        half = (halved.shape[1] // 2, halved.shape[0] // 2)
        halved = cv2.resize(halved, half, interpolation=cv2.INTER_AREA)
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(halved, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return small.astype(np.float32).reshape(size[1], size[0], -1)


def _propose_centre(small: np.ndarray) -> Proposal:
    height, width = small.shape[:2]
    middle = small[height // 4 : height - height // 4, width // 4 : width - width // 4]
    difference = np.abs(middle - np.median(small.reshape(-1, small.shape[2]), axis=0))
    quarter = SCALE // 4
    return Proposal((quarter, quarter, SCALE - quarter, SCALE - quarter), round(float(difference.mean()), 2), "centre")


def _find_regions(small: np.ndarray) -> Iterator[_Region]:
    height, width = small.shape[:2]
    surface: np.ndarray = np.ones((height, width), np.uint8)
    background = _find_plain_background(small)
    if background is not None:
        contrast = _distance(small, background)
        parts = _clean(contrast > max(_otsu(contrast), LEAST_DIFFERENCE), 5)
        surface[:] = 0
        for region, get_mask in _list_components(parts, contrast):
            if (region.x2 - region.x1) * (region.y2 - region.y1) <= MAX_PART_AREA * height * width:
                yield region
            else:
                surface |= get_mask().astype(np.uint8)
        # Exclude the rim of a part: shading alone makes it differ from the inside.
        surface = cv2.erode(surface, np.ones((7, 7), np.uint8), borderValue=0)
    if cv2.countNonZero(surface) >= 0.01 * height * width:
        yield from _find_regions_within(small, surface)


def _find_plain_background(small: np.ndarray) -> np.ndarray | None:
    """Return the colour of the border if it is uniform and the middle differs, else None."""
    edges = (small[:BORDER], small[-BORDER:], small[:, :BORDER], small[:, -BORDER:])
    border = np.concatenate([edge.reshape(-1, small.shape[2]) for edge in edges])
    colour = np.median(border, axis=0)
    plain = np.abs(border - colour).mean(axis=1) <= PLAIN_TOLERANCE
    middle = _distance(small, colour) > PLAIN_TOLERANCE
    return colour if plain.mean() >= PLAIN_BORDER and 0.002 <= middle.mean() <= 0.9 else None


def _find_regions_within(small: np.ndarray, surface: np.ndarray) -> Iterator[_Region]:
    """Find regions that differ from their surroundings within ``surface``, uint8 0 or 1."""
    height, width = small.shape[:2]
    difference = _difference_from_surroundings(small, surface)
    inside = difference[surface > 0]
    level = _otsu(inside)
    while (inside > level).mean() > TAIL and (higher := _otsu(inside[inside > level])) > level:
        level = higher
    found = _clean((difference > max(level, LEAST_DIFFERENCE)) & (surface > 0), 3)
    longest = round(LARGEST_PLACE * max(height, width))
    for region, get_mask in _list_components(found, difference):
        if max(region.x2 - region.x1, region.y2 - region.y1) <= longest:
            yield region
        else:
            yield _find_strongest_window(difference * get_mask(), min(longest, width), min(longest, height))


def _difference_from_surroundings(small: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Mean absolute difference from the local mean. The mean leaves out pixels that differ strongly themselves."""
    side = max(small.shape[:2]) // 8 * 2 + 1
    weight = surface.astype(np.float32)
    difference = np.zeros_like(weight)
    for _ in range(2):
        total = cv2.boxFilter(weight, -1, (side, side)) + 1e-6
        weighted = cv2.boxFilter(small * _repeat_per_channel(weight, small), -1, (side, side)).reshape(small.shape)
        difference = _distance(small, weighted / _repeat_per_channel(total, small))
        weight = surface * (difference <= 2 * float(difference[surface > 0].mean())).astype(np.float32)
    return cv2.GaussianBlur(difference, (0, 0), 1.0) * surface


def _repeat_per_channel(plane: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Repeat a plane for each channel of ``small``. numpy is ten times slower if it broadcasts the last axis."""
    return cv2.merge([plane] * small.shape[2]).reshape(small.shape)


def _distance(small: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean absolute difference over channels, float32 (height, width). ``other`` is an image or one colour."""
    against: Any = other.astype(np.float32) if other.ndim == small.ndim else tuple(other.tolist())
    channels = small.shape[2]
    difference = cv2.absdiff(small, against).reshape(small.shape)
    return cv2.transform(difference, np.full((1, channels), 1 / channels, np.float32)).reshape(small.shape[:2])


def _find_strongest_window(difference: np.ndarray, width: int, height: int) -> _Region:
    sums = cv2.boxFilter(difference, -1, (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    rows, columns = difference.shape[0] - height + 1, difference.shape[1] - width + 1
    _, _, _, (x, y) = cv2.minMaxLoc(sums[:rows, :columns])
    window = difference[y : y + height, x : x + width]
    return _Region(float(window[window > 0].mean()), x, y, x + width, y + height)


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of float values in 0-255."""
    levels = np.clip(values.reshape(1, -1), 0, 255).astype(np.uint8)
    return cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]


def _clean(mask: np.ndarray, side: int) -> np.ndarray:
    """Remove specks of one pixel and close gaps of up to ``side`` pixels."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))


def _list_components(mask: np.ndarray, difference: np.ndarray) -> Iterator[tuple[_Region, Callable[[], np.ndarray]]]:
    """Yield each connected region of ``mask``, with a function that computes its mask, which is rarely needed."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    sums = np.bincount(labels.ravel(), difference.ravel(), count)
    for index in range(1, count):
        x, y, width, height, pixels = stats[index].tolist()
        yield _Region(float(sums[index] / pixels), x, y, x + width, y + height), partial(np.equal, labels, index)


def _add_margin(region: _Region, width: int, height: int) -> Box:
    """Add an eighth of the sides as margin, enlarge the box to LEAST_SIDE, and shift it into the image."""
    least = round(LEAST_SIDE * max(width, height))
    spans = []
    for low, high, size in ((region.x1, region.x2, width), (region.y1, region.y2, height)):
        side = min(size, max(round(1.25 * (high - low)), least, 1))
        start = min(max((low + high - side) // 2, 0), size - side)
        spans.append((start, start + side))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]

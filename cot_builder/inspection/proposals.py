"""Conspicuous places of an image, found without supervision: background estimate, difference, Otsu, morphology.

The recipe is that of IndusAgent's default crop (arXiv 2605.20682). The background is the border's colour where
the border keeps to one; within a part that fills much of the frame, and on a surface from edge to edge, it is the
local mean, so that what stands out from its surroundings is found and not the part as a whole.
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
"""Width of the border that a plain background is judged by, in pixels of the copy."""
PLAIN_BORDER = 0.85
"""Share of the border that must keep to one colour for it to count as background."""
PLAIN_TOLERANCE = 24.0
"""Grey levels that a plain background may vary by."""
WHOLE_PART = 0.2
"""A part whose box takes at most this share of the image is proposed whole; within a larger one, places are."""
LEAST_DIFFERENCE = 4.0
"""Grey levels; a flatter image has no conspicuous place."""
TAIL = 0.08
"""Otsu's threshold is taken again above itself until at most this share of the surface is left."""
LARGEST_PLACE = 0.35
"""Longest side of a place within a surface, as a share of the image's; of a larger one, its strongest window."""
LEAST_SIDE = 0.1
"""Shortest side of a proposal, as a share of the image's."""


@dataclass(frozen=True)
class Proposal:
    """A conspicuous place."""

    box: Box
    """0-1000 of the image."""
    score: float
    """Mean absolute difference of the place's pixels from the background, in grey levels (0-255)."""
    method: Literal["foreground", "centre"]
    """centre: nothing stands out, so the middle of the image is given."""


class _Place(NamedTuple):
    score: float
    x1: int
    y1: int
    x2: int
    y2: int


def propose(image: np.ndarray, count: int) -> list[Proposal]:
    """The ``count`` most conspicuous places, most conspicuous first, no two overlapping; at least one, if asked for.

    Deterministic; the first of a longer list is the list of a shorter one.

    Args:
        image: uint8 (height, width, 3) BGR, or (height, width).
        count: Proposals wanted; there may be fewer.
    """
    if count < 1:
        return []
    small = _shrink(image)
    height, width = small.shape[:2]
    chosen: list[Proposal] = []
    for place in sorted(_places(small), key=lambda place: (-place.score, *place[1:])):
        box = from_pixels(_with_margin(place, width, height), width, height)
        if all(intersection(box, other.box) is None for other in chosen):
            chosen.append(Proposal(box, round(place.score, 2), "foreground"))
        if len(chosen) == count:
            break
    return chosen or [_centre(small)]


def _shrink(image: np.ndarray) -> np.ndarray:
    """A float32 (height, width, channels) copy of at most WORKING_SIDE pixels a side."""
    height, width = image.shape[:2]
    # Averaging over two by two is several times cheaper than over arbitrary areas, which is left for the rest.
    halved = image
    while max(halved.shape[:2]) >= 2 * WORKING_SIDE and min(halved.shape[:2]) > 1:
        half = (halved.shape[1] // 2, halved.shape[0] // 2)
        halved = cv2.resize(halved, half, interpolation=cv2.INTER_AREA)
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(halved, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return small.astype(np.float32).reshape(size[1], size[0], -1)


def _centre(small: np.ndarray) -> Proposal:
    height, width = small.shape[:2]
    middle = small[height // 4 : height - height // 4, width // 4 : width - width // 4]
    difference = np.abs(middle - np.median(small.reshape(-1, small.shape[2]), axis=0))
    quarter = SCALE // 4
    return Proposal((quarter, quarter, SCALE - quarter, SCALE - quarter), round(float(difference.mean()), 2), "centre")


def _places(small: np.ndarray) -> Iterator[_Place]:
    height, width = small.shape[:2]
    surface: np.ndarray = np.ones((height, width), np.uint8)
    background = _plain_background(small)
    if background is not None:
        contrast = _distance(small, background)
        parts = _clean(contrast > max(_otsu(contrast), LEAST_DIFFERENCE), 5)
        surface[:] = 0
        for place, mask in _components(parts, contrast):
            if (place.x2 - place.x1) * (place.y2 - place.y1) <= WHOLE_PART * height * width:
                yield place
            else:
                surface |= mask().astype(np.uint8)
        # A part's rim differs from its inside by shading alone.
        surface = cv2.erode(surface, np.ones((7, 7), np.uint8), borderValue=0)
    if cv2.countNonZero(surface) >= 0.01 * height * width:
        yield from _places_within(small, surface)


def _plain_background(small: np.ndarray) -> np.ndarray | None:
    """Colour of the border where it keeps to one and the middle differs, else None."""
    edges = (small[:BORDER], small[-BORDER:], small[:, :BORDER], small[:, -BORDER:])
    border = np.concatenate([edge.reshape(-1, small.shape[2]) for edge in edges])
    colour = np.median(border, axis=0)
    plain = np.abs(border - colour).mean(axis=1) <= PLAIN_TOLERANCE
    middle = _distance(small, colour) > PLAIN_TOLERANCE
    return colour if plain.mean() >= PLAIN_BORDER and 0.002 <= middle.mean() <= 0.9 else None


def _places_within(small: np.ndarray, surface: np.ndarray) -> Iterator[_Place]:
    """Places that differ from their surroundings within ``surface``, uint8 0 or 1."""
    height, width = small.shape[:2]
    difference = _difference_from_surroundings(small, surface)
    inside = difference[surface > 0]
    level = _otsu(inside)
    while (inside > level).mean() > TAIL and (higher := _otsu(inside[inside > level])) > level:
        level = higher
    found = _clean((difference > max(level, LEAST_DIFFERENCE)) & (surface > 0), 3)
    longest = round(LARGEST_PLACE * max(height, width))
    for place, mask in _components(found, difference):
        if max(place.x2 - place.x1, place.y2 - place.y1) <= longest:
            yield place
        else:
            yield _strongest_window(difference * mask(), min(longest, width), min(longest, height))


def _difference_from_surroundings(small: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Mean absolute difference from the local mean, which leaves out what itself differs strongly."""
    side = max(small.shape[:2]) // 8 * 2 + 1
    weight = surface.astype(np.float32)
    difference = np.zeros_like(weight)
    for _ in range(2):
        total = cv2.boxFilter(weight, -1, (side, side)) + 1e-6
        weighted = cv2.boxFilter(small * _each(weight, small), -1, (side, side)).reshape(small.shape)
        difference = _distance(small, weighted / _each(total, small))
        weight = surface * (difference <= 2 * float(difference[surface > 0].mean())).astype(np.float32)
    return cv2.GaussianBlur(difference, (0, 0), 1.0) * surface


def _each(plane: np.ndarray, small: np.ndarray) -> np.ndarray:
    """The plane once for each channel of ``small``: numpy is ten times slower where it broadcasts the last axis."""
    return cv2.merge([plane] * small.shape[2]).reshape(small.shape)


def _distance(small: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean absolute difference over channels, float32 (height, width); ``other`` is such an image or one colour."""
    against: Any = other.astype(np.float32) if other.ndim == small.ndim else tuple(other.tolist())
    channels = small.shape[2]
    difference = cv2.absdiff(small, against).reshape(small.shape)
    return cv2.transform(difference, np.full((1, channels), 1 / channels, np.float32)).reshape(small.shape[:2])


def _strongest_window(difference: np.ndarray, width: int, height: int) -> _Place:
    sums = cv2.boxFilter(difference, -1, (width, height), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    rows, columns = difference.shape[0] - height + 1, difference.shape[1] - width + 1
    _, _, _, (x, y) = cv2.minMaxLoc(sums[:rows, :columns])
    window = difference[y : y + height, x : x + width]
    return _Place(float(window[window > 0].mean()), x, y, x + width, y + height)


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of float values in 0-255."""
    levels = np.clip(values.reshape(1, -1), 0, 255).astype(np.uint8)
    return cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]


def _clean(mask: np.ndarray, side: int) -> np.ndarray:
    """Specks of a pixel removed, gaps closed."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))


def _components(mask: np.ndarray, difference: np.ndarray) -> Iterator[tuple[_Place, Callable[[], np.ndarray]]]:
    """Every region of ``mask``, and where it is; most are asked for their place alone."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    sums = np.bincount(labels.ravel(), difference.ravel(), count)
    for index in range(1, count):
        x, y, width, height, pixels = stats[index].tolist()
        yield _Place(float(sums[index] / pixels), x, y, x + width, y + height), partial(np.equal, labels, index)


def _with_margin(place: _Place, width: int, height: int) -> Box:
    """The place with an eighth of its sides around it, LEAST_SIDE of the image at least, shifted to lie within it."""
    least = round(LEAST_SIDE * max(width, height))
    spans = []
    for low, high, size in ((place.x1, place.x2, width), (place.y1, place.y2, height)):
        side = min(size, max(round(1.25 * (high - low)), least, 1))
        start = min(max((low + high - side) // 2, 0), size - side)
        spans.append((start, start + side))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]

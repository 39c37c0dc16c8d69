"""Synthetic surfaces for `make learn`: textures of many categories, with defects of two sizes.

An image has a side of 512 px; the processor of the tiny model of :mod:`train.tiny` scales it down to 128. A **large**
defect (scratch, hole, stain) is visible at that scale. A **small** defect (a field of pits, a crack) lies in the null
space of the scaling: the part of its strokes that the scaling would keep is subtracted. So the policy's global views of
an image with and without a small defect differ only by rounding, by at most one grey level. The tool `crop` enlarges
the most conspicuous place, and shows the defect. A small defect is therefore invisible without a tool by construction,
and not because of too little training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from schemas.geometry import Box, from_pixels
from train import tiny

SIDE = 512
GRID = 50
MARGIN = 48
"""Smallest distance of a defect's centre from the border, in pixels."""
PATTERNS = ("brushed", "woven", "speckle", "stripes", "dots", "grid", "wood", "clouds")
SMALL, LARGE = ("pit", "crack"), ("scratch", "hole", "stain")
"""Types of the taxonomy that the downscaled image hides, and types that it shows."""
Size = Literal["none", "small", "large"]
MAX_TEXTURE_STD = 3.8
"""Upper limit on the standard deviation of a texture, in grey levels."""
CONTRAST = (90, 105)
"""Range of the largest difference that a small defect makes, in grey levels. With more, pixels would clip at black or
white, and the global view would reveal the defect."""
SPECKS_PER_IMAGE = (16, 32)
"""Range of the number of dust specks, so that the global view of a clean surface has spots too."""
_FIELD_SIDE = 704
_FIELDS_PER_CATEGORY = 3
"""Textures per category, from which mirrored windows are cut."""


@dataclass(frozen=True)
class Surface:
    """One image and the truth about it."""

    pixels: np.ndarray
    """uint8 (512, 512, 3) BGR."""
    size: Size
    defect_type: str | None
    mask: np.ndarray
    """uint8 (512, 512): 255 where the defect lies; a field of pits is marked as a single disc."""

    @property
    def boxes(self) -> list[Box]:
        """Box around the mask, in 0-1000; no box without a defect."""
        if self.size == "none":
            return []
        x, y, width, height = cv2.boundingRect(self.mask)
        return [from_pixels((x, y, x + width, y + height), SIDE, SIDE)]


def snap_to_grid(box: Box) -> Box:
    """Enlarge a box to a coarse grid: each side moves outwards to the next multiple of 50."""
    x1, y1, x2, y2 = box
    return x1 // GRID * GRID, y1 // GRID * GRID, -(-x2 // GRID) * GRID, -(-y2 // GRID) * GRID


def draw_surface(category: int, size: Size, rng: np.random.Generator) -> Surface:
    """Draw an image of a category, with a defect of the given size."""
    grey = _cut_window(_make_field(category, int(rng.integers(_FIELDS_PER_CATEGORY))), rng)
    grey += _make_grain()[rng.integers(0, _FIELD_SIDE - SIDE) :, rng.integers(0, _FIELD_SIDE - SIDE) :][:SIDE, :SIDE]
    mask: np.ndarray = np.zeros((SIDE, SIDE), np.uint8)
    colour = np.ones(3, np.float32)
    kind = None
    if size != "none":
        kind = str(rng.choice(SMALL if size == "small" else LARGE))
        change = _DRAW[kind](mask, rng)
        if kind == "stain":
            colour = rng.uniform(0.4, 1.0, 3).astype(np.float32)
    _add_dust(grey, rng)
    base = rng.uniform(118, 142) + rng.uniform(-8, 8, 3).astype(np.float32)
    pixels = grey[..., None] + base
    if kind is not None:
        pixels += change[..., None] * colour
    return Surface(np.clip(pixels, 0, 255).astype(np.uint8), size, kind, mask)


def _cut_window(field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, _FIELD_SIDE - SIDE, 2)
    window = field[top : top + SIDE, left : left + SIDE]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    if rng.random() < 0.5:
        window = window[::-1]
    return window.astype(np.float32)


@lru_cache(maxsize=1)
def _make_grain() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (_FIELD_SIDE, _FIELD_SIDE)).astype(np.float32)


@lru_cache(maxsize=512)
def _make_field(category: int, make: int) -> np.ndarray:
    """Draw a texture of a category with mean 0, float16 (704, 704): one to three patterns in the category's style."""
    style = np.random.default_rng([category, 1])
    rng = np.random.default_rng([category, 2, make])
    chosen = style.choice(len(PATTERNS), size=style.integers(1, 4), replace=False)
    total = np.zeros((_FIELD_SIDE, _FIELD_SIDE), np.float32)
    for number in chosen:
        total += style.uniform(0.4, 1.0) * _make_pattern(PATTERNS[number], style, rng)
    total -= total.mean()
    total *= min(1.0, MAX_TEXTURE_STD / float(total.std()))
    return total.astype(np.float16)


def _make_pattern(name: str, style: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:_FIELD_SIDE, 0:_FIELD_SIDE].astype(np.float32)
    x, y = x + rng.uniform(0, 200), y + rng.uniform(0, 200)
    shape = (_FIELD_SIDE, _FIELD_SIDE)
    if name == "brushed":
        return (
            _normalise(cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), sigmaX=30, sigmaY=2.0)) * 9
        )
    if name == "woven":
        p = style.uniform(16, 36)
        return 8 * np.tanh(3 * np.sin(x / p * 6.28)) * np.tanh(3 * np.sin(y / p * 6.28))
    if name == "speckle":
        return (
            _normalise(cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), style.uniform(2.5, 6))) * 9
        )
    if name == "stripes":
        p, a = style.uniform(20, 60), style.uniform(0, 3.14)
        return 10 * np.sin((x * np.cos(a) + y * np.sin(a)) / p * 6.28)
    if name == "dots":
        p = style.uniform(28, 56)
        return 20 * _soften((np.sin(x / p * 6.28) > 0.5) & (np.sin(y / p * 6.28) > 0.5))
    if name == "grid":
        p, width = style.uniform(36, 72), style.uniform(4, 8)
        return -20 * _soften(((x % p) < width) | ((y % p) < width))
    if name == "wood":
        return 10 * np.sin((x + 24 * np.sin(y / 100 + rng.uniform(0, 6))) / style.uniform(3, 8))
    return _normalise(cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), style.uniform(20, 50))) * 10


def _add_dust(grey: np.ndarray, rng: np.random.Generator) -> None:
    for x, y in rng.integers(8, SIDE - 8, (rng.integers(*SPECKS_PER_IMAGE), 2)):
        grey[y - 8 : y + 8, x - 8 : x + 8] += (
            rng.uniform(8, 18) * rng.choice((-1, 1)) * _make_speck(int(rng.integers(4)))
        )


@lru_cache(maxsize=4)
def _make_speck(size: int) -> np.ndarray:
    y, x = np.mgrid[-8:8, -8:8].astype(np.float32) + 0.5
    return np.exp(-(x * x + y * y) / (2 * (2 + 0.5 * size) ** 2))


def _normalise(values: np.ndarray) -> np.ndarray:
    return values / values.std()


def _soften(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values.astype(np.float32), (0, 0), 1.5)


def _random_centre(rng: np.random.Generator) -> tuple[float, float]:
    x, y = rng.uniform(MARGIN, SIDE - MARGIN, 2)
    return float(x), float(y)


def _draw_pits(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centre, reach = _random_centre(rng), rng.uniform(9, 15)
    points = []
    for _ in range(rng.integers(5, 8)):
        angle, distance = rng.uniform(0, 6.28), reach * np.sqrt(rng.uniform(0, 1))
        points.append([(distance * np.cos(angle), distance * np.sin(angle))])
    cv2.circle(mask, (round(centre[0]), round(centre[1])), round(reach) + 3, 255, -1)
    return _hide_from_global_view(mask.shape, centre, points, rng)


def _draw_crack(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centre = _random_centre(rng)
    angle, length = rng.uniform(0, 6.28), rng.uniform(36, 52)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    knots = [along * length * step + across * rng.normal(0, 3.5) for step in np.linspace(-0.5, 0.5, 6)]
    cv2.polylines(mask, [(np.array(knots) + centre).round().astype(np.int32)], False, 255, 7)
    return _hide_from_global_view(mask.shape, centre, [knots], rng)


def _hide_from_global_view(
    shape: tuple[int, ...],
    centre: tuple[float, float],
    strokes: Sequence[Sequence[Sequence[float]]],
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw dark strokes or points, and subtract the part that the global view would show."""
    reach, sub = 40, 4
    # Align to the pixels of the global view, so that few distinct projections are computed and cached.
    x, y = ((round(value) - reach) // 4 * 4 for value in centre)
    patch: np.ndarray = np.zeros((2 * reach, 2 * reach), np.float32)
    for stroke in strokes:
        points = ((np.array(stroke) + reach) * 2**sub).round().astype(np.int32)
        if len(points) == 1:
            cv2.circle(patch, points[0].tolist(), 40, 1.0, -1, cv2.LINE_8, sub)
        else:
            cv2.polylines(patch, [points], False, 1.0, 2, cv2.LINE_8, sub)
    patch = cv2.GaussianBlur(patch, (0, 0), 0.8)
    patch -= _visible_projection(y, 2 * reach) @ patch @ _visible_projection(x, 2 * reach).T
    change = np.zeros(shape, np.float32)
    strength = rng.uniform(CONTRAST[0], CONTRAST[1])
    change[y : y + 2 * reach, x : x + 2 * reach] = patch * (-strength / float(np.abs(patch).max()))
    return change


@lru_cache(maxsize=128)
def _visible_projection(start: int, length: int) -> np.ndarray:
    """Return the projection of a stretch of a pixel line onto its visible part, float32 (length, length)."""
    seen = _downscaling_matrix()[:, start : start + length]
    return (np.linalg.pinv(seen, rcond=1e-6) @ seen).astype(np.float32)


@lru_cache(maxsize=1)
def _downscaling_matrix() -> np.ndarray:
    """Return the processor's downscaling of a pixel line as a matrix (128, 512); it scales lines, then columns."""
    from torch import eye
    from torch.nn.functional import interpolate

    reduced = interpolate(eye(SIDE)[None, None], (tiny.SIDE, SIDE), mode="bicubic", antialias=True)
    matrix: np.ndarray = reduced[0, 0].double().numpy()
    return matrix


def _draw_scratch(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    (cx, cy), a, half = _random_centre(rng), rng.uniform(0, 6.28), rng.uniform(45, 100)
    dx, dy = half * np.cos(a), half * np.sin(a)
    bend = rng.normal(0, 8, 2)
    line = np.array([[cx - dx, cy - dy], [cx + bend[0], cy + bend[1]], [cx + dx, cy + dy]], np.int32)
    cv2.polylines(mask, [line], False, 255, int(rng.integers(7, 12)))
    return _blur_mask(mask, rng.choice([-1, 1]) * rng.uniform(60, 90), 1.5)


def _draw_hole(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cx, cy = _random_centre(rng)
    cv2.circle(mask, (round(cx), round(cy)), int(rng.uniform(14, 30)), 255, -1)
    return _blur_mask(mask, -rng.uniform(70, 95), 1.5)


def _draw_stain(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cx, cy = _random_centre(rng)
    axes = (int(rng.uniform(28, 60)), int(rng.uniform(22, 44)))
    cv2.ellipse(mask, (round(cx), round(cy)), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return _blur_mask(mask, rng.choice([-1, 1]) * rng.uniform(40, 65), 5.0)


def _blur_mask(mask: np.ndarray, strength: float, softness: float) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), softness) * (strength / 255)


_DRAW = {"pit": _draw_pits, "crack": _draw_crack, "scratch": _draw_scratch, "hole": _draw_hole, "stain": _draw_stain}

"""Draws physical surfaces: colour, relief, gloss and outline of a part seen from directly above."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

REFERENCE = 512
"""Side in pixels of the surface for which lengths (relief, bevels, line widths) are given."""

Colour = tuple[int, int, int]
Grain = Literal["grain", "cloud", "brushed", "wood", "fibre", "speckle"]


@dataclass(frozen=True)
class Material:
    """Material of a piece. ``colour`` is RGB; ``amount`` is relative to 1 and ``rough`` is in pixels."""

    colour: Colour
    gloss: float = 0.15
    texture: Grain = "grain"
    amount: float = 0.03
    rough: float = 0.0


@dataclass
class Surface:
    """A part from above on a square canvas with sides of n pixels.

    ``albedo`` is (n, n, 3) BGR 0–255; the other arrays are (n, n) float32.

    ``height`` is in pixels; ``gloss`` and ``alpha`` (1 on the part, 0 beside it) are in [0, 1].
    """

    albedo: np.ndarray
    height: np.ndarray
    gloss: np.ndarray
    alpha: np.ndarray
    area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Area in which defects may be, x1, y1, x2, y2 in canvas units."""

    def copy(self) -> "Surface":
        return Surface(self.albedo.copy(), self.height.copy(), self.gloss.copy(), self.alpha.copy(), self.area)

    @property
    def size(self) -> int:
        return self.alpha.shape[0]


@dataclass
class Pen:
    """State of drawing one surface, including which piece is left out or bent."""

    surface: Surface
    rng: np.random.Generator
    missing: int | None = None
    bent: int | None = None
    pieces: int = 0
    salt: int = 0

    @property
    def size(self) -> int:
        return self.surface.size

    @property
    def unit(self) -> float:
        return self.surface.size / REFERENCE


def new_pen(size: int, rng: np.random.Generator, missing: int | None = None, bent: int | None = None) -> Pen:
    """Create an empty canvas with sides of ``size`` pixels."""
    blank = np.zeros((size, size), np.float32)
    surface = Surface(np.zeros((size, size, 3), np.float32), blank, blank.copy(), blank.copy())
    return Pen(surface, rng, missing, bent, salt=int(rng.integers(1 << 20)))


def next_piece(pen: Pen) -> float | None:
    """Count the next removable piece. Return None if it is missing, else its bend in radians (mostly 0)."""
    index = pen.pieces
    pen.pieces += 1
    if index == pen.missing:
        return None
    return 0.0 if index != pen.bent else (0.32 if index % 2 else -0.32)


def disc(x: float, y: float, r: float, ry: float | None = None, corners: int = 96) -> np.ndarray:
    """Return the outline of an ellipse as (corners, 2) points in canvas units 0–1."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([x + r * np.cos(angle), y + (r if ry is None else ry) * np.sin(angle)], 1)


def box(x: float, y: float, w: float, h: float, r: float = 0.0, turn: float = 0.0) -> np.ndarray:
    """Return a rectangle of width ``w`` and height ``h`` at (x, y), with corner radius ``r``, rotated by ``turn``."""
    r = min(r, w / 2, h / 2)
    if r <= 0:
        points = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    else:
        arc = np.linspace(0, np.pi / 2, 9)
        quarter = np.stack([np.cos(arc), np.sin(arc)], 1) * r
        corners = [
            (w / 2 - r, h / 2 - r),
            (-(w / 2 - r), h / 2 - r),
            (-(w / 2 - r), -(h / 2 - r)),
            (w / 2 - r, r - h / 2),
        ]
        points = np.concatenate([rotate(quarter, k * np.pi / 2) + corner for k, corner in enumerate(corners)])
    return rotate(points, turn) + (x, y)


def rotate(points: np.ndarray, turn: float, about: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Rotate points (k, 2) by ``turn`` radians about a point."""
    cos, sin = np.cos(turn), np.sin(turn)
    return (points - about) @ np.array([[cos, sin], [-sin, cos]]) + about


def ngon(x: float, y: float, r: float, corners: int, turn: float = 0.0) -> np.ndarray:
    """Return a regular polygon."""
    angle = np.arange(corners) * (2 * np.pi / corners) + turn
    return np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], 1)


def stroke(points: np.ndarray, width: float) -> np.ndarray:
    """Return the outline of a line of width ``width`` along ``points`` (k, 2)."""
    along = np.gradient(points, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    aside = np.stack([-along[:, 1], along[:, 0]], 1) * (width / 2)
    return np.concatenate([points + aside, (points - aside)[::-1]])


def curve(start: Sequence[float], middle: Sequence[float], end: Sequence[float], steps: int = 24) -> np.ndarray:
    """Return a quadratic Bézier curve as (steps, 2) points."""
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) ** 2 * np.asarray(start) + 2 * t * (1 - t) * np.asarray(middle) + t**2 * np.asarray(end)


def lay(
    pen: Pen,
    outline: np.ndarray | Sequence[np.ndarray],
    material: Material | None,
    lift: float = 0.0,
    bevel: float = 2.0,
    dome: bool = False,
    opacity: float = 1.0,
    bridge: bool = False,
) -> None:
    """Lay a piece on the surface.

    Args:
        pen: The drawing.
        outline: Outline of the piece. Further outlines are holes in the first one (even-odd rule).
        material: Material of the piece; None cuts the outline out of the part.
        lift: Height of the piece in reference pixels; negative values sink it.
        bevel: Width in reference pixels over which the edge is rounded.
        dome: Whether the whole piece is domed instead.
        opacity: Opacity in [0, 1].
        bridge: Whether the piece hides the relief below it.
    """
    contours = [outline] if isinstance(outline, np.ndarray) else list(outline)
    surface, unit = pen.surface, pen.unit
    scaled = [np.asarray(points, np.float64) * pen.size for points in contours]
    margin = int(np.ceil(3 * bevel * unit)) + 2
    low = np.maximum(np.floor(scaled[0].min(0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(scaled[0].max(0)).astype(int) + margin, pen.size)
    if (high <= low).any():
        return
    roi = np.s_[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    fixed = [np.round((points - low - 0.5) * 16).astype(np.int32) for points in scaled]
    cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, 4)
    cover = mask.astype(np.float32) * np.float32(opacity / 255)
    if material is None:
        surface.alpha[roi] *= 1 - cover
        return
    colour = np.array(material.colour[::-1], np.float32)
    gain = 1 + material.amount * noise_patch(pen, material.texture, roi)
    paint = colour * gain[..., None]
    surface.albedo[roi] += (paint - surface.albedo[roi]) * cover[..., None]
    surface.gloss[roi] += (material.gloss - surface.gloss[roi]) * cover
    np.maximum(surface.alpha[roi], cover, out=surface.alpha[roi])
    if bridge:
        surface.height[roi] *= 1 - cover
    if lift:
        surface.height[roi] += np.float32(lift * unit) * _profile(mask, bevel * unit, dome)
    if material.rough:
        surface.height[roi] += np.float32(material.rough * unit) * cover * noise_patch(pen, "grain", roi)


def _profile(mask: np.ndarray, bevel: float, dome: bool) -> np.ndarray:
    if dome:
        depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
        inward = 1 - depth / max(float(depth.max()), 1.0)
        return cv2.GaussianBlur(np.sqrt(np.clip(1 - inward * inward, 0, 1)), (0, 0), 1.2)
    cover = mask.astype(np.float32) / 255
    return np.clip(cv2.GaussianBlur(cover, (0, 0), max(bevel, 0.4)) * 2 - 1, 0, 1)


def write(
    pen: Pen, text: str, x: float, y: float, height: float, material: Material, lift: float = 0.0, turn: float = 0.0
) -> None:
    """Write text centred at (x, y), ``height`` in canvas units, printed or embossed by ``lift`` reference pixels."""
    pixels = height * pen.size
    scale = pixels / 22
    thickness = max(1, round(pixels / 9))
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    stamp: np.ndarray = np.zeros((h + 12, w + 12), np.uint8)
    cv2.putText(stamp, text, (6, h + 5), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    turned: np.ndarray = cv2.getRotationMatrix2D((stamp.shape[1] / 2, stamp.shape[0] / 2), -np.degrees(turn), 1)
    reach = int(np.hypot(*stamp.shape)) + 2
    turned[:, 2] += np.array([reach - stamp.shape[1], reach - stamp.shape[0]]) / 2
    stamp = cv2.warpAffine(stamp, turned, (reach, reach))
    left, top = round(x * pen.size - reach / 2), round(y * pen.size - reach / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + reach, pen.size), min(top + reach, pen.size)
    if x1 <= x0 or y1 <= y0:
        return
    roi = np.s_[y0:y1, x0:x1]
    cover = stamp[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32) / 255 * pen.surface.alpha[roi]
    colour = np.array(material.colour[::-1], np.float32)
    pen.surface.albedo[roi] += (colour - pen.surface.albedo[roi]) * cover[..., None]
    pen.surface.gloss[roi] += (material.gloss - pen.surface.gloss[roi]) * cover
    if lift:
        pen.surface.height[roi] += np.float32(lift * pen.unit) * cv2.GaussianBlur(cover, (0, 0), 0.8)


def shade_of(material: Material, gain: float, **changes: float) -> Material:
    """Return the same material with its colour multiplied by ``gain``."""
    red, green, blue = (int(np.clip(value * gain, 0, 255)) for value in material.colour)
    return replace(material, colour=(red, green, blue), **changes)  # type: ignore[arg-type]


def noise_patch(pen: Pen, name: Grain, roi: tuple[slice, slice]) -> np.ndarray:
    """Return a patch of the noise ``name`` (mean 0, standard deviation 1).

    Its offset in the noise is derived from its position, so that leaving out one piece does not change the others.
    """
    bank = noise(name, pen.size)
    height, width = roi[0].stop - roi[0].start, roi[1].stop - roi[1].start
    offset = pen.salt + 7919 * roi[0].start + 104729 * roi[1].start
    y = offset % (bank.shape[0] - height + 1)
    x = offset // 31 % (bank.shape[1] - width + 1)
    return bank[y : y + height, x : x + width]


@lru_cache(maxsize=32)
def noise(name: Grain | Literal["sensor"], size: int) -> np.ndarray:
    """Return a read-only, deterministic square of noise, 1.25 × ``size`` pixels a side, mean 0, deviation 1."""
    side = size + size // 4
    unit = size / REFERENCE
    rng = np.random.default_rng([len(name), size, *name.encode()])
    white = rng.standard_normal((side, side), np.float32)
    if name == "grain":
        out = cv2.GaussianBlur(white, (0, 0), 0.8)
    elif name == "cloud":
        out = cv2.GaussianBlur(white, (0, 0), 22 * unit) * 22 + cv2.GaussianBlur(white, (0, 0), 7 * unit) * 3
    elif name == "brushed":
        out = cv2.GaussianBlur(white, (0, 0), sigmaX=30 * unit, sigmaY=0.6) * 4 + white * 0.15
    elif name == "fibre":
        out = cv2.GaussianBlur(white, (0, 0), sigmaX=7 * unit, sigmaY=0.7) + cv2.GaussianBlur(
            np.ascontiguousarray(white.T), (0, 0), sigmaX=0.7, sigmaY=7 * unit
        )
    elif name == "speckle":
        out = np.maximum(cv2.GaussianBlur(white, (0, 0), 1.3) * 3 - 1, 0)
    elif name == "wood":
        y = np.mgrid[0:side, 0:side][0].astype(np.float32)
        wander = cv2.GaussianBlur(white, (0, 0), sigmaX=90 * unit, sigmaY=18 * unit) * 900 * unit * unit
        rings = np.sin(y / (5.5 * unit) + wander) + 0.4 * np.sin(y / (2.1 * unit) + 2 * wander)
        out = rings + 1.6 * cv2.GaussianBlur(white, (0, 0), sigmaX=24 * unit, sigmaY=0.6) * 5
    else:
        out = white
    out = ((out - out.mean()) / out.std()).astype(np.float32)
    out.flags.writeable = False
    return out

"""Photographs a surface: lamp, camera, background, lens and sensor."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from cot_builder.benchmarks.synthetic.defects import WallMark
from cot_builder.benchmarks.synthetic.surface import Colour, Grain, Surface, noise

VISIBLE = 6.0
"""Minimum difference of a changed pixel in grey levels, as the maximum over the channels."""
Ground = Literal["mat", "table", "paper", "belt"]
_GROUNDS: dict[Ground, tuple[Colour, float, Grain]] = {
    "mat": ((58, 58, 60), 0.07, "grain"),
    "table": ((150, 152, 152), 0.02, "grain"),
    "paper": ((208, 208, 204), 0.012, "fibre"),
    "belt": ((66, 88, 82), 0.06, "fibre"),
}


@dataclass(frozen=True)
class Wall:
    """The side of a part that a tilted camera sees."""

    height: float
    """Height as a share of the canvas."""
    ribs: int = 0
    """Number of upright ribs around the part."""
    colour: tuple[float, float, float] = (128.0, 128.0, 128.0)
    """RGB."""


@dataclass(frozen=True)
class View:
    """Positions of camera and lamp, and the degradation of the photograph."""

    width: int
    height: int
    turn: float
    """Rotation of the part about the optical axis, radians."""
    tilt: float
    """Angle of the camera to the vertical, radians. The near side of the part is at the bottom of the image."""
    scale: float
    shift: tuple[float, float]
    lamp: float
    """Azimuth of the lamp in the image, radians."""
    lamp_height: float
    """Elevation of the lamp, from 0 (grazing) to 1 (overhead)."""
    exposure: float
    fall: float
    """Decrease of the light across the image, as a share."""
    blur: float
    noise: float
    """Standard deviation of the sensor noise, grey levels."""
    ground: Ground
    seed: int


def photograph(surface: Surface, view: View, wall: Wall | None = None, mark: WallMark | None = None) -> np.ndarray:
    """Render the image before sensor noise: (height, width, 3) float32 BGR, 0–255."""
    place = _homography(surface.size, view)
    size = (view.width, view.height)
    image = cv2.warpPerspective(_shade_surface(surface, view), place, size, flags=cv2.INTER_LINEAR)
    if surface.alpha.min() <= 0.99:
        cover = cv2.warpPerspective(surface.alpha, place, size, flags=cv2.INTER_LINEAR)
        bare = 1 - cover
        drop = round(wall.height * surface.size * view.scale * np.sin(view.tilt)) if wall else 0
        if wall and drop > 1:
            side = _extend_downwards(cover, drop)
            behind = bare * (1 - side)
            behind *= _shadow(np.maximum(cover, side), view)
            bare *= side
            image += _draw_wall(cover, side, bare, drop, wall, view)
            if mark:
                _draw_wall_mark(image, bare, mark, place, drop)
        else:
            behind = bare * _shadow(cover, view)
        image += _multiply_channels(_ground(view), behind * np.float32(view.exposure))
    image = _multiply_channels(image, _falloff(view))
    return np.clip(cv2.GaussianBlur(image, (0, 0), view.blur), 0, 255, out=image)


def _multiply_channels(image: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return cv2.multiply(image, cv2.merge((gain, gain, gain)))


def expose(image: np.ndarray, view: View) -> np.ndarray:
    """Add sensor noise to a photograph and return uint8. The noise is the same for the same view."""
    bank = noise("sensor", -(-max(view.width, view.height) // 256) * 256)
    rng = np.random.default_rng(view.seed)
    height, width = image.shape[:2]
    offsets = rng.integers(0, (bank.shape[0] - height + 1, bank.shape[1] - width + 1), (4, 2))
    common, *own = (bank[y : y + height, x : x + width] for y, x in offsets)
    shared = common * np.float32(0.85 * view.noise)
    noisy = cv2.add(image, cv2.merge([shared + channel * np.float32(0.5 * view.noise) for channel in own]))
    return cv2.convertScaleAbs(np.maximum(noisy, 0))


def find_changed_pixels(clean: np.ndarray, harmed: np.ndarray) -> np.ndarray:
    """Find the pixels that a defect visibly changed, (height, width) bool, from two photographs without noise.

    Gaps of a few pixels are closed and single pixels are dropped. The mask is not dilated otherwise.
    """
    blue, green, red = cv2.split(cv2.absdiff(harmed, clean))
    over = cv2.max(cv2.max(blue, green), red) > VISIBLE
    if not over.any():
        return over
    side = max(3, max(clean.shape[:2]) // 150) | 1
    seen = cv2.morphologyEx(
        over.astype(np.uint8), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=8)
    keep = np.zeros(count, bool)
    keep[1:] = stats[1:, cv2.CC_STAT_AREA] >= 3
    return keep[labels]


def _shade_surface(surface: Surface, view: View) -> np.ndarray:
    azimuth = view.lamp - view.turn
    flat = np.sqrt(1 - view.lamp_height**2)
    lx, ly, lz = flat * np.cos(azimuth), flat * np.sin(azimuth), view.lamp_height
    gx = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    gy = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    # The lamp is near, so a flat part has one local highlight, as if it were slightly domed.
    near_x, near_y = _nearness(surface.size)
    gx += near_x
    gy += near_y
    norm = 1 / cv2.sqrt(gx * gx + gy * gy + 1)
    diffuse = np.maximum((np.float32(lz) - gx * np.float32(lx) - gy * np.float32(ly)) * norm, 0)
    half = np.array([lx, ly, lz + 1])
    half /= np.linalg.norm(half)
    facing = np.maximum((np.float32(half[2]) - gx * np.float32(half[0]) - gy * np.float32(half[1])) * norm, 0)
    wide = facing * facing
    wide *= wide
    wide *= wide
    narrow = wide * wide
    narrow *= narrow
    gloss = surface.gloss
    shown = surface.alpha * np.float32(view.exposure)
    body = (np.float32(0.42) + np.float32(0.72) * diffuse) * (1 - np.float32(0.25) * gloss) * shown
    shine = gloss * (np.float32(0.2 * 255) * wide + np.float32(0.42 * 255) * narrow) * shown
    return cv2.add(_multiply_channels(surface.albedo, body), cv2.merge((shine, shine, shine)))


@lru_cache(maxsize=8)
def _nearness(size: int) -> tuple[np.ndarray, np.ndarray]:
    ramp = np.linspace(-0.3, 0.3, size, dtype=np.float32)
    return np.ascontiguousarray(np.broadcast_to(ramp, (size, size))), np.ascontiguousarray(
        np.broadcast_to(ramp[:, None], (size, size))
    )


def _homography(size: int, view: View) -> np.ndarray:
    cos, sin = np.cos(view.turn), np.sin(view.turn)
    centre = np.array([[1, 0, -size / 2], [0, 1, -size / 2], [0, 0, 1.0]])
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    squeezed = np.diag([view.scale, view.scale * np.cos(view.tilt), 1.0])
    perspective = np.array([[1, 0, 0], [0, 1, 0], [0, -0.35 * np.sin(view.tilt) / size, 1.0]])
    back = np.array([[1, 0, view.width / 2 + view.shift[0]], [0, 1, view.height / 2 + view.shift[1]], [0, 0, 1.0]])
    return back @ perspective @ squeezed @ turned @ centre


def _extend_downwards(cover: np.ndarray, drop: int) -> np.ndarray:
    kernel = np.ones((drop, 1), np.uint8)
    return cv2.dilate(cover, kernel, anchor=(0, drop - 1), borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _draw_wall(cover: np.ndarray, side: np.ndarray, shown: np.ndarray, drop: int, wall: Wall, view: View) -> np.ndarray:
    depth = cv2.boxFilter(cover, -1, (1, drop), anchor=(0, drop - 1), borderType=cv2.BORDER_CONSTANT)
    soft = cv2.blur(side, (2 * (drop // 2) + 5, 5))
    across = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=3)
    light = np.float32(0.5) + np.float32(0.34) * depth - np.float32(0.9 * np.cos(view.lamp)) * across
    if wall.ribs:
        columns = np.flatnonzero(side.max(0) > 0.5)
        middle, reach = (columns[0] + columns[-1]) / 2, max((columns[-1] - columns[0]) / 2, 1)
        angle = np.arcsin(np.clip((np.arange(view.width) - middle) / reach, -1, 1)) + view.turn
        light *= (1 + 0.16 * np.sin(angle * wall.ribs)).astype(np.float32)
    light = np.clip(light, 0.12, 1.2) * np.float32(view.exposure) * shown
    return cv2.merge([light * np.float32(level) for level in wall.colour[::-1]])


def _draw_wall_mark(image: np.ndarray, shown: np.ndarray, mark: WallMark, place: np.ndarray, drop: int) -> None:
    x, y, w = place @ (mark.x, mark.y, 1)
    x, y = x / w, y / w + drop * 0.5
    rng = np.random.default_rng(mark.seed)
    reach = max(4, round(drop * 0.45))
    width = reach * 2 if mark.long else reach
    stamp: np.ndarray = np.zeros((2 * reach + 1, 2 * width + 1), np.float32)
    if mark.long:
        first, last = (2, int(rng.integers(2, 2 * reach))), (2 * width - 2, int(rng.integers(2, 2 * reach)))
        cv2.line(stamp, first, last, 1.0, 1 if rng.random() < 0.6 else 2)
        stamp = cv2.GaussianBlur(stamp, (0, 0), 0.5)
    else:
        for _ in range(5):
            at = (int(width + rng.normal(0, width * 0.3)), int(reach + rng.normal(0, reach * 0.25)))
            cv2.circle(stamp, at, int(rng.integers(1, max(3, reach // 2))), 1.0, -1)
        stamp = cv2.GaussianBlur(stamp, (0, 0), 0.8)
    left, top = round(x) - width, round(y) - reach
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + stamp.shape[1], image.shape[1]), min(top + stamp.shape[0], image.shape[0])
    if x1 > x0 and y1 > y0:
        seen = stamp[y0 - top : y1 - top, x0 - left : x1 - left] * shown[y0:y1, x0:x1]
        image[y0:y1, x0:x1] = np.maximum(image[y0:y1, x0:x1] + np.float32(mark.contrast) * seen[..., None], 0)


def _ground(view: View) -> np.ndarray:
    return _ground_image(view.ground, view.width, view.height)[
        view.seed % 16 : view.seed % 16 + view.height, view.seed % 13 : view.seed % 13 + view.width
    ]


@lru_cache(maxsize=4)
def _ground_image(ground: Ground, width: int, height: int) -> np.ndarray:
    colour, amount, texture = _GROUNDS[ground]
    size = max(width, height)
    bank, cloud = noise(texture, size), noise("cloud", size)
    window = np.s_[: height + 16, : width + 16]
    gain = 1 + amount * bank[window] + 0.02 * cloud[window]
    return np.ascontiguousarray(gain[..., None] * np.array(colour[::-1], np.float32))


def _shadow(cover: np.ndarray, view: View) -> np.ndarray:
    small = cv2.resize(cover, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    away = max(view.width, view.height) / 4 * 0.02 * (1.2 - view.lamp_height) * 2.5
    move = np.array([[1, 0, -away * np.cos(view.lamp)], [0, 1, -away * np.sin(view.lamp)]])
    small = cv2.warpAffine(small, move, (small.shape[1], small.shape[0]))
    small = cv2.GaussianBlur(small, (0, 0), max(1.0, view.width / 200))
    return 1 - np.float32(0.5) * cv2.resize(small, (view.width, view.height), interpolation=cv2.INTER_LINEAR)


def _falloff(view: View) -> np.ndarray:
    x = np.linspace(-1, 1, view.width, dtype=np.float32)
    y = np.linspace(-1, 1, view.height, dtype=np.float32)[:, None]
    slope = np.float32(view.fall) * (np.float32(np.cos(view.lamp)) * x + np.float32(np.sin(view.lamp)) * y)
    return (1 + slope) * (1 - np.float32(0.09) * (x * x + y * y))

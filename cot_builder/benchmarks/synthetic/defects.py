"""Applies defects to a surface. Each kind changes colour, relief, gloss or outline as the real defect does."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from cot_builder.benchmarks.synthetic.surface import Colour, Grain, Surface, noise

Harm = Callable[[Surface, np.random.Generator, float], None]
"""Changes a surface in place. The strength is 1 for an obvious defect and 0.1 for one near the noise level."""


@dataclass(frozen=True)
class WallMark:
    """A defect on the side wall of a part, at a point of its outline in canvas pixels."""

    x: float
    y: float
    long: bool
    contrast: float
    """Grey levels, negative for darker."""
    seed: int


def choose_spot(surface: Surface, rng: np.random.Generator, inset: float = 8.0) -> tuple[float, float]:
    """Choose a point (x, y) in pixels on the part, at least ``inset`` reference pixels from its outline if possible."""
    step = max(1, surface.alpha.shape[1] // 128)
    solid = np.pad((surface.alpha[::step, ::step] > 0.98).astype(np.uint8), 1)
    depth = cv2.distanceTransform(solid, cv2.DIST_L2, 3)[1:-1, 1:-1] * step
    if _fills_canvas(surface):
        depth = _border_depth(depth.shape, step)
    rows, columns = np.indices(depth.shape)
    depth = np.where(_is_within_area(surface, columns * step, rows * step), depth, -1)
    wanted = min(inset * _unit(surface), float(depth.max()) * 0.8)
    rows, columns = np.nonzero(depth >= wanted)
    index = int(rng.integers(len(rows)))
    return float(columns[index] * step), float(rows[index] * step)


def choose_edge_spot(surface: Surface, rng: np.random.Generator) -> tuple[float, float]:
    """Choose a point (x, y) in pixels on the outline of the part, away from the border of the canvas."""
    found = cv2.findContours((surface.alpha > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    height, width = surface.alpha.shape
    points = np.concatenate([contour[:, 0] for contour in found])
    margin = 0.14 * width
    inner = _is_within_area(surface, points[:, 0], points[:, 1]) & (
        (points[:, 0] > margin)
        & (points[:, 0] < width - margin)
        & (points[:, 1] > margin)
        & (points[:, 1] < height - margin)
    )
    if not inner.any():
        return choose_spot(surface, rng)
    x, y = points[inner][int(rng.integers(int(inner.sum())))]
    return float(x), float(y)


def scratch(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """One hairline or up to three lines. Some have relief only, and are visible only under a suitable lamp."""
    relief_only, hairline = rng.random() < 0.35 and strength < 2, rng.random() < 0.35
    centre = choose_spot(surface, rng, 22)
    turn = rng.uniform(0, np.pi)
    for k in range(1 if hairline else int(rng.integers(1, 4))):
        length = rng.uniform(36, 150) * _unit(surface) * (0.6 if k or hairline else 1)
        start = np.array(centre) + rng.uniform(-7, 7, 2) * k * _unit(surface)
        points = _wavy(start, turn + rng.uniform(-0.06, 0.06), length, rng, 0.05)
        cover, roi = _line(surface, points, 1 if hairline or rng.random() < 0.7 else 2, taper=True)
        sign = -1 if surface.albedo[roi].mean() > 120 else 1
        change = 0.0 if relief_only else sign * (9 + 62 * strength)
        _alter(surface, roi, cover, change=change, relief=-(0.5 + 1.1 * strength), gloss=0.1)


def dent(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A shallow hollow with soft edges, without a change of colour."""
    x, y = choose_spot(surface, rng, 26)
    radius = rng.uniform(11, 26) * _unit(surface)
    cover, roi = _blob(surface, x, y, radius, rng, sharp=0.0, rough=0.25)
    _alter(surface, roi, cover, relief=-radius * (0.1 + 0.42 * min(strength, 2.0)))


def pit(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A pinhole, or up to four small, sharp-edged hollows."""
    x, y = choose_spot(surface, rng, 14)
    pinhole = rng.random() < 0.35
    for _ in range(1 if pinhole else int(rng.integers(1, 5))):
        radius = (1.4 if pinhole else rng.uniform(1.8, 5.5)) * _unit(surface)
        at = (x + rng.normal(0, 11) * _unit(surface), y + rng.normal(0, 11) * _unit(surface))
        cover, roi = _blob(surface, *at, max(radius, 1.2), rng, sharp=1.0, rough=0.3)
        _alter(surface, roi, cover, change=-(6 + 48 * strength), relief=-(0.5 + 2.4 * strength), gloss=0.02)


def crack(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A jagged, branching dark line that often starts at an edge."""
    start = np.array(choose_edge_spot(surface, rng) if rng.random() < 0.6 else choose_spot(surface, rng, 24))
    target = np.array(choose_spot(surface, rng, 30))
    along = target - start
    turn = float(np.arctan2(along[1], along[0]))
    crack_along(surface, rng, strength, start, turn, rng.uniform(55, 150) * _unit(surface))


def crack_along(
    surface: Surface,
    rng: np.random.Generator,
    strength: float,
    start: np.ndarray,
    turn: float,
    length: float,
    widest: int = 2,
) -> None:
    """Draw a crack from ``start`` (x, y) in the direction ``turn``, with length ``length`` and width up to ``widest``
    pixels."""
    points = _jagged(start, turn, length, rng)
    branches = [points]
    for _ in range(int(rng.integers(0, 3))):
        root = points[int(rng.integers(len(points) // 3, len(points)))]
        branches.append(_jagged(root, turn + rng.choice([-1, 1]) * rng.uniform(0.5, 1.0), length * 0.3, rng))
    for k, path in enumerate(branches):
        width = int(rng.integers(widest - 1, widest + 1)) if k == 0 else 1
        cover, roi = _line(surface, path, width, taper=True)
        _alter(surface, roi, cover, change=-(9 + 85 * strength), relief=-(0.4 + 1.6 * strength), gloss=0.02)


def cut(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A clean slit, open in the middle, with raised lips."""
    points = _wavy(
        np.array(choose_spot(surface, rng, 40)), rng.uniform(0, np.pi), rng.uniform(40, 110) * _unit(surface), rng, 0.02
    )
    lips, roi = _line(surface, points, 5, taper=True)
    _alter(surface, roi, lips, relief=0.7 + 1.2 * strength)
    cover, roi = _line(surface, points, 2, taper=True)
    _alter(surface, roi, cover, change=-(14 + 70 * strength), relief=-(1 + 3 * strength), gloss=0.02)


def fold(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A soft crease across the surface."""
    length = rng.uniform(140, 300) * _unit(surface)
    points = _wavy(np.array(choose_spot(surface, rng, 60)), rng.uniform(0, np.pi), length, rng, 0.08)
    cover, roi = _line(surface, points, 9, taper=True, soft=3.5)
    _alter(surface, roi, cover, relief=2.0 + 5.0 * strength, change=4 + 8 * strength)


def stain(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A film of oil or dirt, a smear, or a spatter of specks."""
    x, y = choose_spot(surface, rng, 14)
    form = rng.integers(3)
    colour = _pick(rng, (62, 48, 30), (34, 34, 38), (120, 92, 44), (206, 204, 196), (70, 60, 92))
    if form == 0:
        radius = rng.uniform(12, 36) * _unit(surface)
        cover, roi = _blob(surface, x, y, radius, rng, sharp=0.35, rough=0.7)
        rim = np.clip(1 - np.abs(cover - 0.45) * 4, 0, 1) * 0.6
        _paint(surface, roi, np.clip(cover + rim, 0, 1.2), colour, 0.1 + 0.5 * strength, 0.35)
    elif form == 1:
        length = rng.uniform(30, 80) * _unit(surface)
        points = _wavy(np.array([x, y]), rng.uniform(0, np.pi), length, rng, 0.12)
        cover, roi = _line(surface, points, int(rng.integers(6, 15)), taper=True, soft=2.5)
        streaks = np.clip(0.7 + 0.45 * _patch("fibre", surface, roi, rng), 0, 1)
        _paint(surface, roi, cover * streaks, colour, 0.1 + 0.5 * strength, 0.3)
    else:
        for _ in range(int(rng.integers(5, 14))):
            at = (x + rng.normal(0, 16) * _unit(surface), y + rng.normal(0, 16) * _unit(surface))
            cover, roi = _blob(
                surface, *at, max(1.1, rng.uniform(1.1, 3.4) * _unit(surface)), rng, sharp=0.8, rough=0.4
            )
            _paint(surface, roi, cover, colour, 0.12 + 0.6 * strength, 0.1)


def discolour(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A spot of the wrong colour in the material, its relief unchanged."""
    x, y = choose_spot(surface, rng, 12)
    cover, roi = _blob(surface, x, y, rng.uniform(7, 24) * _unit(surface), rng, sharp=0.3, rough=0.5)
    colour = _pick(rng, (150, 40, 36), (40, 60, 120), (66, 40, 20), (60, 110, 60), (36, 36, 36))
    _paint(surface, roi, cover, colour, 0.09 + 0.5 * strength, 0.0)


def glue(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A clear, glossy, raised drop or bead."""
    x, y = choose_spot(surface, rng, 20)
    cover, roi = _blob(surface, x, y, rng.uniform(12, 30) * _unit(surface), rng, sharp=0.7, rough=0.5)
    colour = _pick(rng, (222, 214, 186), (230, 230, 226))
    _paint(surface, roi, cover, colour, 0.06 + 0.26 * strength, 0.9)
    surface.height[roi] += cover * np.float32((1 + 4 * strength) * _unit(surface))


def wax(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A drop of the part's own pale material that has run."""
    x, y = choose_edge_spot(surface, rng)
    cover, roi = _blob(surface, x, y, rng.uniform(11, 22) * _unit(surface), rng, sharp=0.7, rough=0.4)
    _paint(surface, roi, cover, (238, 236, 226), 0.3 + 0.65 * min(strength, 1), 0.3)
    np.maximum(surface.alpha[roi], cover * min(0.4 + strength, 1), out=surface.alpha[roi])
    surface.height[roi] += cover * np.float32((2 + 4 * strength) * _unit(surface))


def hole(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """An opening with a ragged, raised rim."""
    x, y = choose_spot(surface, rng, 20)
    radius = rng.uniform(4, 12) * _unit(surface)
    cover, roi = _blob(surface, x, y, radius * 1.5, rng, sharp=0.5, rough=0.3)
    _alter(surface, roi, cover, relief=1.5 * strength, change=14 * strength)
    cover, roi = _blob(surface, x, y, radius, rng, sharp=1.0, rough=0.35)
    if strength > 0.5:
        surface.alpha[roi] *= 1 - cover
    else:
        _alter(surface, roi, cover, change=-(12 + 60 * strength), relief=-(2 + 4 * strength), gloss=0.02)


def foreign(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A fibre or a crumb lying on the part, with its own small shadow."""
    if rng.random() < 0.5:
        fibre(surface, rng, strength)
    else:
        crumb(surface, rng, strength)


def fibre(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A curled thread or hair."""
    length = rng.uniform(45, 130) * _unit(surface)
    points = _wavy(np.array(choose_spot(surface, rng, 20)), rng.uniform(0, np.pi), length, rng, 0.3)
    colour = _pick(rng, (30, 30, 34), (170, 34, 40), (226, 226, 222), (40, 66, 140))
    shadow, roi = _line(surface, points + (2 * _unit(surface), 3 * _unit(surface)), 2, soft=1.2)
    _alter(surface, roi, shadow, change=-26 * strength)
    cover, roi = _line(surface, points, 1 if rng.random() < 0.6 else 2)
    _paint(surface, roi, cover, colour, 0.16 + 0.75 * strength, 0.2)
    surface.height[roi] += cover * np.float32(1.4 * strength)


def crumb(surface: Surface, rng: np.random.Generator, strength: float, metal: bool = False) -> None:
    """A chip or particle."""
    x, y = choose_spot(surface, rng, 12)
    radius = rng.uniform(3.5, 10) * _unit(surface)
    colour = _pick(rng, (58, 44, 32), (188, 178, 160), (40, 40, 44), (176, 120, 60))
    shadow, roi = _blob(surface, x + radius * 0.5, y + radius * 0.6, radius * 1.1, rng, sharp=0.3, rough=0.3)
    _alter(surface, roi, shadow, change=-30 * strength)
    cover, roi = _blob(surface, x, y, radius, rng, sharp=1.0, rough=0.5)
    _paint(surface, roi, cover, (206, 208, 212) if metal else colour, 0.2 + 0.75 * strength, 0.8 if metal else 0.1)
    surface.height[roi] += cover * np.float32((1 + 3 * strength) * _unit(surface))


def metal_crumb(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A bright metal chip."""
    crumb(surface, rng, strength, metal=True)


def abrasion(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A scuffed patch: many short parallel lines, the finish gone dull and pale."""
    x, y = choose_spot(surface, rng, 22)
    radius = rng.uniform(13, 34) * _unit(surface)
    turn = rng.uniform(0, np.pi)
    cover, roi = _blob(surface, x, y, radius, rng, sharp=0.2, rough=0.6)
    lines = np.zeros(cover.shape, np.uint8)
    for _ in range(40):
        at = rng.uniform(0, 1, 2) * cover.shape[::-1]
        half = rng.uniform(0.15, 0.5) * radius
        way = np.array([np.cos(turn + rng.normal(0, 0.08)), np.sin(turn + rng.normal(0, 0.08))]) * half
        first, last = np.round((at - way) * 16).astype(int), np.round((at + way) * 16).astype(int)
        cv2.line(lines, first.tolist(), last.tolist(), int(rng.integers(90, 255)), 1, cv2.LINE_AA, 4)
    scuff = cover * (0.25 + 0.75 * lines.astype(np.float32) / 255)
    sign = -1 if surface.albedo[roi].mean() > 175 else 1
    _alter(surface, roi, scuff, change=sign * (9 + 50 * strength), relief=-0.5 * strength, gloss=0.05)


def rust(surface: Surface, rng: np.random.Generator, strength: float, spread: float = 1.0) -> None:
    """Brown, rough, speckled corrosion in runs."""
    x, y = choose_spot(surface, rng, 20)
    turn = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(3, 6) * spread)):
        reach = rng.normal(0, 34 * spread) * _unit(surface)
        at = (x + reach * np.cos(turn), y + reach * np.sin(turn) + rng.normal(0, 14 * spread) * _unit(surface))
        cover, roi = _blob(surface, *at, rng.uniform(12, 34) * spread**0.5 * _unit(surface), rng, sharp=0.25, rough=1.0)
        grain = np.clip(0.55 + 0.5 * _patch("grain", surface, roi, rng), 0, 1)
        colour = _pick(rng, (122, 74, 26), (96, 58, 28), (146, 92, 34))
        _paint(
            surface, roi, np.clip(cover * grain * 1.5, 0, 1), colour, 0.3 + 0.65 * min(strength, 1), 0.03, exact=True
        )
        surface.height[roi] += cover * grain * np.float32(0.9 * min(strength, 1))


def wide_rust(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """Corrosion over most of the part."""
    rust(surface, rng, max(strength, 0.4), 3.2)


def chip(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A piece broken off the edge, leaving a pale ragged break."""
    x, y = choose_edge_spot(surface, rng)
    radius = rng.uniform(9, 24) * _unit(surface) * min(0.5 + 0.6 * strength, 1.3)
    cover, roi = _blob(surface, x, y, radius * 1.3, rng, sharp=0.9, rough=0.5)
    face = cover * surface.alpha[roi]
    _alter(surface, roi, face, change=8 + 20 * strength, relief=-3.0, gloss=0.02)
    cover, roi = _blob(surface, x, y, radius, rng, sharp=1.0, rough=0.5)
    if _fills_canvas(surface):
        _alter(surface, roi, cover, change=-(14 + 40 * strength), relief=-4, gloss=0.02)
    else:
        surface.alpha[roi] *= 1 - cover


def gouge(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A chunk missing from the surface, with a rough floor."""
    x, y = choose_spot(surface, rng, 14)
    cover, roi = _blob(surface, x, y, rng.uniform(10, 24) * _unit(surface), rng, sharp=0.95, rough=0.6)
    rough = np.clip(1 + 0.08 * _patch("grain", surface, roi, rng), 0.3, 2)
    _alter(surface, roi, cover * rough, change=-(6 + 20 * strength), relief=-(2 + 7 * strength), gloss=0.02)


def warp(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A local deformation of the part: existing pixels move, nothing is added."""
    x, y = choose_edge_spot(surface, rng) if not _fills_canvas(surface) else choose_spot(surface, rng, 40)
    radius = rng.uniform(34, 62) * _unit(surface)
    turn = rng.uniform(0, 2 * np.pi)
    push = radius * (0.16 + 0.24 * min(strength, 1.4))
    height, width = surface.alpha.shape
    reach = int(radius * 2.6)
    x0, y0, x1, y1 = (
        max(int(x) - reach, 0),
        max(int(y) - reach, 0),
        min(int(x) + reach, width),
        min(int(y) + reach, height),
    )
    columns, rows = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
    fall = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / np.float32(2 * (radius / 1.6) ** 2))
    fade = np.clip((2.4 - np.sqrt((columns - x) ** 2 + (rows - y) ** 2) / radius) * 2, 0, 1)
    fall = (fall * fade).astype(np.float32)
    from_x, from_y = columns - fall * np.float32(push * np.cos(turn)), rows - fall * np.float32(push * np.sin(turn))
    roi = np.s_[y0:y1, x0:x1]
    for name in ("albedo", "height", "gloss", "alpha"):
        layer = getattr(surface, name)
        layer[roi] = cv2.remap(layer, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    surface.height[roi] += fall * np.float32(radius * 0.2 * strength)


def flatten(surface: Surface, rng: np.random.Generator, strength: float) -> None:
    """A tube squeezed flat in one place."""
    x, y = choose_spot(surface, rng, 22)
    cover, roi = _blob(surface, x, y, rng.uniform(34, 56) * _unit(surface), rng, sharp=0.0, rough=0.15)
    patch = surface.height[roi]
    low, high = np.quantile(patch, (0.15, 0.98))
    top = np.float32(high - (0.15 + 0.3 * min(strength, 1)) * (high - low))
    pressed = cv2.GaussianBlur(np.minimum(patch, top), (0, 0), 3 * _unit(surface))
    patch += (pressed - patch) * np.clip(cover * 1.5, 0, 1)


SURFACE_HARMS: dict[str, Harm] = {
    "abrasion": abrasion, "chip": chip, "crack": crack, "crumb": crumb, "cut": cut, "dent": dent,
    "discolour": discolour, "fibre": fibre, "flatten": flatten, "fold": fold, "foreign": foreign, "glue": glue,
    "gouge": gouge, "hole": hole, "metal_crumb": metal_crumb, "pit": pit, "rust": rust, "scratch": scratch,
    "stain": stain, "warp": warp, "wax": wax, "wide_rust": wide_rust,
}  # fmt: skip
"""Defects that change a drawn surface. For ``missing`` and ``bent`` the part is drawn again instead."""


def _is_within_area(surface: Surface, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = surface.alpha.shape
    x1, y1, x2, y2 = surface.area
    return (x >= x1 * width) & (x <= x2 * width) & (y >= y1 * height) & (y <= y2 * height)


def _unit(surface: Surface) -> float:
    return surface.alpha.shape[1] / 512


def _fills_canvas(surface: Surface) -> bool:
    return bool(surface.alpha[0, 0] > 0.5 and surface.alpha[-1, -1] > 0.5)


def _border_depth(shape: tuple[int, ...], step: int) -> np.ndarray:
    rows, columns = np.indices(shape)
    near = np.minimum(np.minimum(rows, shape[0] - 1 - rows), np.minimum(columns, shape[1] - 1 - columns))
    # Exclude the border of the canvas: a frame-filling texture is drawn larger than the frame, which hides it.
    return np.maximum(near - shape[1] * 0.14, 0).astype(np.float32) * step


def _pick(rng: np.random.Generator, *colours: Colour) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _wavy(centre: np.ndarray, turn: float, length: float, rng: np.random.Generator, bend: float) -> np.ndarray:
    t = np.linspace(-0.5, 0.5, 28)
    aside = bend * length * (rng.normal() * (4 * t**2 - 0.5) + 0.5 * rng.normal() * np.sin(2 * np.pi * t))
    return centre + np.stack(
        [t * length * np.cos(turn) - aside * np.sin(turn), t * length * np.sin(turn) + aside * np.cos(turn)], 1
    )


def _jagged(start: np.ndarray, turn: float, length: float, rng: np.random.Generator) -> np.ndarray:
    steps = max(int(length / 5), 4)
    heading = turn + np.cumsum(rng.normal(0, 0.22, steps)) * 0.5 + rng.normal(0, 0.38, steps)
    move = np.stack([np.cos(heading), np.sin(heading)], 1) * (length / steps)
    return np.concatenate([start[None], start + np.cumsum(move, 0)])


def _line(
    surface: Surface, points: np.ndarray, width: int, taper: bool = False, soft: float = 0.45
) -> tuple[np.ndarray, tuple[slice, slice]]:
    unit = _unit(surface)
    width = max(1, round(width * unit))
    margin = width + int(3 * soft) + 3
    low, high = np.floor(points.min(0)).astype(int) - margin, np.ceil(points.max(0)).astype(int) + margin
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    fixed = np.round((points - low) * 16).astype(int).tolist()
    for k, (first, last) in enumerate(pairwise(fixed)):
        level = np.sin(np.pi * (k + 0.7) / len(fixed)) ** 0.5 if taper else 1.0
        cv2.line(mask, first, last, int(255 * level), width, cv2.LINE_AA, 4)
    cover = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), max(soft * unit, 0.35))
    return _clip(surface, cover, int(low[0]), int(low[1]))


def _blob(
    surface: Surface, x: float, y: float, radius: float, rng: np.random.Generator, sharp: float, rough: float
) -> tuple[np.ndarray, tuple[slice, slice]]:
    reach = int(radius * 2) + 3
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = (rows * np.cos(turn) - columns * np.sin(turn)) / np.float32(stretch)
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for harmonic in range(2, 8):
        outline += np.float32(rough * rng.normal() * 0.42 / harmonic) * np.cos(
            harmonic * angle + np.float32(rng.uniform(0, 2 * np.pi))
        )
    distance = np.sqrt(along**2 + across**2) / np.float32(radius) / np.clip(outline, 0.35, 1.7)
    if sharp <= 0:
        cover = np.exp(-2.2 * distance**2) * np.clip((1.9 - distance) * 3, 0, 1)
    else:
        cover = np.clip((1 - distance) * np.float32(max(sharp * radius, 1.0) * 0.9) + 0.5, 0, 1)
    return _clip(surface, cover.astype(np.float32), round(x) - reach, round(y) - reach)


def _clip(surface: Surface, cover: np.ndarray, left: int, top: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    height, width = surface.alpha.shape
    x0, y0 = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    x1, y1 = max(min(left + cover.shape[1], width), x0 + 1), max(min(top + cover.shape[0], height), y0 + 1)
    inside = cover[max(y0 - top, 0) : y1 - top, max(x0 - left, 0) : x1 - left]
    if inside.shape != (y1 - y0, x1 - x0):
        inside = np.zeros((y1 - y0, x1 - x0), np.float32)
    return inside, np.s_[y0:y1, x0:x1]


def _patch(name: Grain, surface: Surface, roi: tuple[slice, slice], rng: np.random.Generator) -> np.ndarray:
    bank = noise(name, surface.alpha.shape[1])
    height, width = roi[0].stop - roi[0].start, roi[1].stop - roi[1].start
    y, x = int(rng.integers(0, bank.shape[0] - height + 1)), int(rng.integers(0, bank.shape[1] - width + 1))
    return bank[y : y + height, x : x + width]


def _alter(
    surface: Surface,
    roi: tuple[slice, slice],
    cover: np.ndarray,
    change: float = 0.0,
    relief: float = 0.0,
    gloss: float | None = None,
) -> None:
    if change:
        surface.albedo[roi] = np.clip(surface.albedo[roi] + np.float32(change) * cover[..., None], 3, 252)
    if relief:
        surface.height[roi] += cover * np.float32(relief)
    if gloss is not None:
        surface.gloss[roi] += (np.float32(gloss) - surface.gloss[roi]) * np.clip(cover, 0, 1) * np.float32(0.8)


def _paint(
    surface: Surface,
    roi: tuple[slice, slice],
    cover: np.ndarray,
    colour: Colour,
    opacity: float,
    gloss: float,
    exact: bool = False,
) -> None:
    there = surface.albedo[roi]
    target = np.array(colour[::-1], np.float32)
    # Change a colour that is too similar to the ground: it would be invisible at any opacity.
    if not exact and abs(float(there.mean()) - float(target.mean())) < 45:
        target = target * np.float32(0.35) if there.mean() > 110 else target * np.float32(0.4) + np.float32(150)
    there += (target - there) * np.clip(cover * np.float32(min(opacity, 0.97)), 0, 1)[..., None]
    surface.gloss[roi] += (np.float32(gloss) - surface.gloss[roi]) * np.clip(cover, 0, 1) * np.float32(min(opacity, 1))

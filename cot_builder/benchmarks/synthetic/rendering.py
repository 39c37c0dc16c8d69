"""Renders parts of small data sets, so that every loader runs without a download.

A physical part is drawn once (``parts``), damaged (``defects``) and photographed by one or several cameras
(``camera``), with and without its defect. The mask contains the pixels that the defect visibly changed in the
photograph. If there are none, the image is a good one, even in the folder of a defective part. Equal settings and seeds
give equal bytes with equal versions of NumPy, OpenCV and Pillow.

The ``RENDERING`` of the module of a data set defines its parts and its files in the official layout.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from cot_builder.benchmarks.synthetic.camera import Ground, View, Wall, expose, find_changed_pixels, photograph
from cot_builder.benchmarks.synthetic.defects import SURFACE_HARMS, WallMark, choose_spot
from cot_builder.benchmarks.synthetic.surface import Material, Pen, Surface, new_pen, noise, write
from cot_builder.params import Synthetic
from cot_builder.storage.parallel import thread_map

CONTRASTS = (0.16, 0.45, 1.0)
"""Strengths of the defects, used in turn: hard to see, visible, obvious."""
VARIANTS = 3
"""Number of variants of a category, with different colours, markings and layouts."""
VISIBLE_PIXELS = 10
"""Minimum number of changed pixels of a visible defect, in an image of 512 pixels a side."""
ATTEMPTS = 12
"""Attempts to draw a visible defect, each stronger than the one before."""
File = tuple[str, bytes]
"""Path in the official layout and content."""


@dataclass(frozen=True)
class Recipe:
    """Description of how to render a category."""

    draw: Callable[[Pen], None] | None
    """Draws the defect-free part, usually a function of ``parts``. None if the data set's module draws it itself."""
    defects: dict[str, tuple[str, ...]]
    """Kinds of defect by official label: names of ``defects.SURFACE_HARMS``, missing, or bent."""
    ground: Ground = "mat"
    wall: Wall | None = None
    spin: float = 0.1
    """Maximum rotation of a part from its usual pose, radians."""
    zoom: float = 0.94
    grey: bool = False
    aspect: float = 1.0


@dataclass(frozen=True)
class RenderedPhoto:
    """One photograph before encoding."""

    path: str
    category: str
    labels: tuple[str, ...]
    """Official labels of the visible defects; empty for a good image."""
    pixels: np.ndarray
    """(height, width, 3) BGR, or (height, width) if the official set is grey; uint8."""
    normal: np.ndarray
    """The same photograph without the defect, with the same noise; ``pixels`` itself for a good image."""
    mask: np.ndarray
    """(height, width) uint8: 0, or 1 + the index in ``labels`` of the defect that changed the pixel."""


def no_files(_settings: Synthetic) -> list[File]:
    """Return no files, for data sets without files about all groups."""
    return []


@dataclass(frozen=True)
class Rendering:
    """Functions that render a small copy of a data set in its official layout, group by group."""

    benchmark: str
    groups: Callable[[Synthetic], Sequence[str]]
    """Returns the names of the groups, which are usually categories."""
    photographs: Callable[[str, Synthetic, int], Iterator[RenderedPhoto]]
    """Renders the photographs of a group, from its name, the settings and the random seed."""
    files: Callable[[str, list[RenderedPhoto]], list[File]]
    """Encodes the photographs of a group, its masks and its labels as files."""
    lists: Callable[[Synthetic], list[File]] = no_files
    """Returns files about all groups, such as a list of the test images."""
    unit: str = "categories"
    """Name of a group, for the progress bar."""


def render_files(rendering: Rendering, settings: Synthetic, seed: int, workers: int = 1) -> Iterator[File]:
    """Render a data set and yield path and bytes of every file, group by group, then the files about all groups.

    Args:
        rendering: Rendering of the data set.
        settings: Size and counts.
        seed: Random seed.
        workers: Number of threads. The files and their order do not depend on it.
    """
    # Import here, because `rich` is slow to import and every check of a data set's name imports this module.
    from cot_builder.progress import track

    def render(group: str) -> list[File]:
        return rendering.files(group, list(rendering.photographs(group, settings, seed)))

    groups = rendering.groups(settings)
    description = f"render {rendering.benchmark} ({rendering.unit})"
    for files in track(thread_map(render, groups, workers), description, len(groups)):
        yield from files
    yield from rendering.lists(settings)


def render_photographs(rendering: Rendering, settings: Synthetic, seed: int) -> Iterator[RenderedPhoto]:
    """Render the photographs of a data set, each with its version without the defect."""
    for group in rendering.groups(settings):
        yield from rendering.photographs(group, settings, seed)


@dataclass(frozen=True)
class Fault:
    """A defect of a part."""

    label: str
    """Label of the data set."""
    kind: str
    """Kind of the defect, as in :attr:`Recipe.defects`."""
    strength: float
    """One of :data:`CONTRASTS`."""


@dataclass(frozen=True)
class Part:
    """One physical part. Its rendering is a function of these fields."""

    seed: int
    benchmark: str
    category: str
    index: int
    recipe: Recipe
    size: int
    """Longest side of a photograph, pixels."""
    faults: tuple[Fault, ...]

    def rng(self, *purpose: object) -> np.random.Generator:
        """Return the random number generator for one purpose."""
        return random_numbers(self.seed, self.benchmark, self.category, self.index, *purpose)

    @property
    def min_visible_pixels(self) -> float:
        """Minimum number of changed pixels of a visible defect."""
        return max(4, VISIBLE_PIXELS * (self.size / 512) ** 2)


class Shot(NamedTuple):
    """Photographs without noise of the clean and of the defective part, and the pixels that each fault changed."""

    clean: np.ndarray
    image: np.ndarray
    seen: list[np.ndarray]


@dataclass(frozen=True)
class PlannedPart:
    """One part of a category before rendering. The first half of the parts is good; the others alternate in label."""

    index: int
    label: str | None
    """Label of the data set; None for a good part."""
    trains: bool
    """Whether the part belongs to the training split, as does the first half of the good parts."""
    faults: tuple[Fault, ...]


def plan_parts(recipe: Recipe, parts: int) -> Iterator[PlannedPart]:
    """Plan the given number of parts of a category."""
    good = parts - parts // 2
    labels = list(recipe.defects)
    for index in range(parts):
        label = None if index < good else labels[(index - good) % len(labels)]
        yield PlannedPart(index, label, index < (good + 1) // 2, _faults(recipe, label, index))


def _faults(recipe: Recipe, label: str | None, index: int) -> tuple[Fault, ...]:
    if label is None:
        return ()
    kinds = recipe.defects[label]
    turn = index // len(recipe.defects)
    return (Fault(label, kinds[turn % len(kinds)], CONTRASTS[(index + turn) % len(CONTRASTS)]),)


def take_photographs(part: Part, paths: Sequence[str]) -> Iterator[RenderedPhoto]:
    """Photograph a part with one camera per path. Each fault is visible from at least one camera."""
    for path, (view, shot) in zip(paths, _shoot(part, len(paths)), strict=True):
        yield develop(path, part, shot, view)


def _choose_view(part: Part, camera: int) -> View:
    recipe, size = part.recipe, part.size
    rig, pose = random_numbers(part.seed, part.benchmark, part.category, "rig", camera), part.rng("pose")
    turn = float(pose.uniform(-recipe.spin, recipe.spin))
    zoom = recipe.zoom * float(pose.uniform(0.97, 1.03))
    shift = pose.uniform(-0.012, 0.012, 2) * size
    pose = part.rng("pose", camera)
    tilted = camera > 0
    return View(
        width=size,
        height=round(size * recipe.aspect),
        turn=turn + (camera - 1) * np.pi / 2 * tilted,
        tilt=float(rig.uniform(0.58, 0.72)) if tilted else float(rig.uniform(0, 0.05)),
        scale=zoom,
        shift=(float(shift[0]), float(shift[1]) - 0.02 * size * tilted),
        lamp=float(rig.uniform(-2.6, -0.5)),
        lamp_height=float(rig.uniform(0.6, 0.78)) if tilted else float(rig.uniform(0.74, 0.9)),
        exposure=float(rig.uniform(0.94, 1.04) * pose.uniform(0.97, 1.03)),
        fall=float(rig.uniform(0.02, 0.09)),
        blur=float(pose.uniform(0.45, 0.7)),
        noise=float(rig.uniform(1.3, 2.6)),
        ground=recipe.ground,
        seed=int(pose.integers(1 << 30)),
    )


def _shoot(part: Part, cameras: int = 1) -> Iterator[tuple[View, Shot]]:
    """Photograph a part without noise from each camera. Each fault is visible from at least one camera."""
    views = [_choose_view(part, camera) for camera in range(cameras)]
    drawn = _draw_part(part, None, None)
    state = _individualise(part, drawn.surface, drawn.surface)
    wall = replace(part.recipe.wall, colour=_rim_colour(state)) if part.recipe.wall else None
    clean = images = [photograph(state, view, wall) for view in views]
    seen: list[list[np.ndarray]] = [[] for _ in views]
    for number, fault in enumerate(part.faults):
        for attempt in range(ATTEMPTS):
            rng = part.rng("fault", number, attempt)
            strength = fault.strength * float(rng.uniform(0.85, 1.2)) * 1.45**attempt
            mark = _choose_wall_mark(state, wall, fault.kind, strength, views, rng)
            harmed = state if mark else _apply_fault(part, state, drawn, fault.kind, strength, rng)
            after = [photograph(harmed, view, wall, mark) for view in views]
            masks = [find_changed_pixels(*pair) for pair in zip(images, after, strict=True)]
            if max(int(mask.sum()) for mask in masks) >= part.min_visible_pixels:
                break
        else:
            raise RuntimeError(
                f"{part.category} {part.index}: {fault.kind} is still invisible after {ATTEMPTS} attempts"
            )
        state, images = harmed, after
        for found, mask in zip(seen, masks, strict=True):
            found.append(mask)
    for view, before, image, found in zip(views, clean, images, seen, strict=True):
        yield view, Shot(before, image, found)


def _apply_fault(
    part: Part, state: Surface, drawn: Pen, kind: str, strength: float, rng: np.random.Generator
) -> Surface:
    if kind in ("missing", "bent"):
        chosen = int(rng.integers(drawn.pieces))
        other = _draw_part(part, chosen if kind == "missing" else None, chosen if kind == "bent" else None)
        return _individualise(part, other.surface, drawn.surface)
    harmed = state.copy()
    SURFACE_HARMS[kind](harmed, rng, strength)
    return harmed


def _rim_colour(surface: Surface) -> tuple[float, float, float]:
    """Return the mean colour along the outline, RGB, which is used for the side wall."""
    solid = np.ascontiguousarray(surface.alpha[::4, ::4] > 0.98).astype(np.uint8)
    rim = (solid > 0) & (cv2.erode(solid, np.ones((7, 7), np.uint8)) == 0)
    blue, green, red = surface.albedo[::4, ::4][rim].mean(0) * 0.95
    return float(red), float(green), float(blue)


def _choose_wall_mark(
    surface: Surface, wall: Wall | None, kind: str, strength: float, views: list[View], rng: np.random.Generator
) -> WallMark | None:
    """Choose at random whether a defect is on the side wall, where few cameras see it; None if not."""
    chosen = rng.random() < 0.5 and kind in ("scratch", "stain", "abrasion", "pit")
    if not chosen or len(views) < 2 or wall is None or wall.height < 0.06:
        return None
    towards = np.pi / 2 - views[int(rng.integers(1, len(views)))].turn + rng.uniform(-0.5, 0.5)
    reach = np.arange(0, surface.size * 0.49)
    x, y = surface.size / 2 + reach * np.cos(towards), surface.size / 2 + reach * np.sin(towards)
    inside = np.flatnonzero(surface.alpha[y.astype(int), x.astype(int)] > 0.5)
    if not len(inside):
        return None
    last = int(inside[-1])
    sign = 1 if np.mean(wall.colour) < 110 else -1
    contrast = sign * (10 + 60 * strength)
    return WallMark(float(x[last]), float(y[last]), kind == "scratch", contrast, int(rng.integers(1 << 30)))


def _draw_part(part: Part, missing: int | None, bent: int | None) -> Pen:
    make = int(part.rng("make").integers(VARIANTS))
    return _draw(part.seed, part.benchmark, part.category, make, part.recipe.draw, part.size, missing, bent)


@lru_cache(maxsize=8)
def _draw(
    seed: int,
    benchmark: str,
    category: str,
    make: int,
    draw: Callable[[Pen], None] | None,
    size: int,
    missing: int | None,
    bent: int | None,
) -> Pen:
    assert draw is not None
    pen = new_pen(size, random_numbers(seed, benchmark, category, "make", make), missing, bent)
    draw(pen)
    return pen


def _individualise(one: Part, surface: Surface, sound: Surface) -> Surface:
    """Vary the surface for one part: its own tint, and normal marks that may look like defects."""
    rng = one.rng("part")
    part = surface.copy()
    cloud = noise("cloud", part.size)
    y, x = rng.integers(0, cloud.shape[0] - part.size + 1, 2)
    tint = np.float32(1) + rng.normal(0, 0.006, 3).astype(np.float32) + np.float32(rng.normal(0, 0.025))
    uneven = np.float32(1) + np.float32(0.015) * cloud[y : y + part.size, x : x + part.size]
    part.albedo = cv2.multiply(part.albedo, cv2.merge([uneven * level for level in tint]))
    unit = part.size / 512
    if sound.alpha.min() < 0.5:
        if rng.random() < 0.4:
            at = np.array(choose_spot(sound, rng, 26)) / part.size
            ink = Material((236, 236, 232) if sound.albedo.mean() < 60 else (56, 56, 62), 0.2)
            letter, lot, week, year = (
                rng.choice(list("ABKLT")),
                rng.integers(10, 99),
                rng.integers(1, 53),
                rng.integers(21, 25),
            )
            batch = f"{letter}{lot} {week:02d}/{year}"
            write(Pen(part, rng), batch, at[0], at[1], 0.024, ink)
        if rng.random() < 0.35:
            row = int(rng.uniform(0.3, 0.7) * part.size)
            part.height[row : row + max(1, round(2 * unit))] += np.float32(0.35 * unit)
    if rng.random() < 0.4:
        x0, y0 = choose_spot(sound, rng, 10)
        columns = np.arange(part.size, dtype=np.float32)
        reach = np.float32(rng.uniform(24, 60) * unit)
        glow = np.exp(-((columns - x0) ** 2) / reach**2) * np.exp(-((columns[:, None] - y0) ** 2) / reach**2)
        part.gloss += np.float32(0.22) * glow
    return part


def develop(path: str, part: Part, shot: Shot, view: View) -> RenderedPhoto:
    """Add noise to a photograph, and add the labels and the mask of its visible faults."""
    mask = np.zeros(shot.clean.shape[:2], np.uint8)
    labels: list[str] = []
    for fault, seen in zip(part.faults, shot.seen, strict=True):
        if seen.sum() >= part.min_visible_pixels:
            labels.append(fault.label)
            mask[seen] = len(labels)
    # A photograph without a visible defect is a good image, even in the folder of a defective part.
    pixels = expose(shot.image, view)
    normal = expose(shot.clean, view) if labels else pixels
    if part.recipe.grey:
        pixels, normal = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (pixels, normal))
    return RenderedPhoto(path, part.category, tuple(labels), pixels, normal, mask)


def random_numbers(*key: object) -> np.random.Generator:
    """Return a random number generator that is seeded by the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def to_binary(mask: np.ndarray) -> np.ndarray:
    """Convert a mask to the values 0 and 255."""
    return np.where(mask > 0, np.uint8(255), np.uint8(0))


def encode_jpg(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels, (height, width, 3) BGR or (height, width), as JPEG of quality 93."""
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].tobytes()

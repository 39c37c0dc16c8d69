"""Small rendered benchmarks, each in the layout of the official one, so that every loader runs without a download.

A physical part is drawn once (``synthetic_parts``), harmed (``synthetic_defects``) and photographed by one or several
cameras (``synthetic_camera``), with and without its defect. The mask is what the defect visibly changed in that
photograph; where that is nothing, the image is a good one, whatever folder its part lies in. Equal settings and seeds
give equal bytes with equal versions of NumPy, OpenCV and Pillow.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image

from cot_builder.benchmarks import sdd
from cot_builder.benchmarks.synthetic.camera import Ground, View, Wall, changed, expose, photograph
from cot_builder.benchmarks.synthetic.defects import SURFACE_HARMS, WallMark, crack_along, spot
from cot_builder.benchmarks.synthetic.parts import PARTS, commutator
from cot_builder.benchmarks.synthetic.surface import Material, Pen, Surface, new_pen, noise, write
from cot_builder.params import Synthetic
from cot_builder.progress import track
from cot_builder.storage.images import encode_png
from cot_builder.storage.parallel import thread_map
from schemas.errors import IndusCotError

CONTRASTS = (0.16, 0.45, 1.0)
"""Strengths of the defects, in turn: hard, fair, plain."""
VARIANTS = 3
"""Makes of a category: other colours, markings and layouts."""
VISIBLE_PIXELS = 10
"""Fewest changed pixels of a defect that counts as visible, at 512 pixels a side."""
ATTEMPTS = 12
STAMP = "20231021130716"
File = tuple[str, bytes]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Recipe:
    """How a category is rendered: official label to the kinds of defect that look like it, and how it is shown."""

    defects: dict[str, tuple[str, ...]]
    ground: Ground = "mat"
    wall: Wall | None = None
    spin: float = 0.1
    """Largest turn of a part from its usual pose, radians."""
    zoom: float = 0.94
    grey: bool = False
    aspect: float = 1.0
    ids: tuple[str, ...] = ()
    """VisA: labels in the order of their ids in masks, from 1."""


@dataclass(frozen=True)
class Rendered:
    """One photograph before it becomes a file."""

    path: str
    category: str
    labels: tuple[str, ...]
    """Official raw labels of what can be seen; empty for a good image."""
    pixels: np.ndarray
    """(height, width, 3) BGR, or (height, width) where the official set is grey; uint8."""
    normal: np.ndarray
    """The same photograph of the same part without its defect, to the noise; ``pixels`` itself where it is good."""
    mask: np.ndarray
    """(height, width) uint8: 0, or 1 + the index in ``labels`` of what changed the pixel."""


_PIT, _LINE, _FILM, _BODY = ("pit",), ("scratch",), ("stain",), ("foreign",)
_RUB, _BROKEN, _CHUNK, _GONE, _BENT = ("abrasion",), ("chip", "crack"), ("chip", "gouge"), ("missing",), ("bent",)

REAL_IAD: dict[str, Recipe] = {
    "bottle_cap": Recipe({"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.13, 60), 3.0),
    "pcb": Recipe({"HS": _LINE, "QS": _GONE, "YW": _BODY, "ZW": _FILM}, "mat", Wall(0.018)),
    "button_battery": Recipe({"AK": _PIT, "CH": _RUB, "HS": _LINE, "ZW": _FILM}, "belt", Wall(0.07), 3.0),
    "transistor1": Recipe({"BX": _BENT, "QS": _GONE, "ZW": _FILM}, "paper", Wall(0.05)),
    "tape": Recipe({"HS": _LINE, "PS": ("chip", "cut"), "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.15), 3.0),
    "toy_brick": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14)),
    "u_block": Recipe({"CH": _RUB, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.1)),
    "usb": Recipe({"BX": ("bent", "dent"), "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.05)),
    "plastic_plug": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "mat", Wall(0.08), 3.0),
    "eraser": Recipe({"AK": _PIT, "HS": _LINE, "QS": _CHUNK, "ZW": _FILM}, "belt", Wall(0.12)),
    "wooden_beads": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "mat", Wall(0.05), 3.0),
    "terminalblock": Recipe({"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14)),
    "mint": Recipe({"QS": ("chip", "gouge"), "YW": _BODY, "ZW": _FILM}, "belt", Wall(0.05), 3.0),
    "phone_battery": Recipe({"AK": _PIT, "HS": _LINE, "PS": ("chip", "cut"), "ZW": _FILM}, "paper", Wall(0.045)),
    "zipper": Recipe({"BX": _BENT, "PS": ("cut",), "QS": _GONE, "ZW": _FILM}, "table"),
    "switch": Recipe({"HS": _LINE, "QS": _GONE, "ZW": _FILM}, "paper", Wall(0.13)),
    "audiojack": Recipe({"BX": _BENT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "belt"),
    "plastic_nut": Recipe({"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "mat", Wall(0.12), 3.0),
    "vcpill": Recipe({"AK": _PIT, "HS": _LINE, "QS": _CHUNK, "ZW": _FILM}, "belt"),
    "woodstick": Recipe({"AK": _PIT, "HS": _LINE, "QS": ("chip", "missing"), "ZW": _FILM}, "mat", Wall(0.02)),
    "mounts": Recipe({"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.09)),
    "end_cap": Recipe({"HS": _LINE, "PS": _BROKEN, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14)),
    "regulator": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.1)),
    "rolled_strip_base": Recipe({"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.04)),
    "sim_card_set": Recipe({"CH": _RUB, "HS": _LINE, "ZW": _FILM}, "mat", Wall(0.012)),
    "toothbrush": Recipe({"CH": _RUB, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.06)),
    "toy": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.1)),
    "usb_adaptor": Recipe({"AK": _PIT, "CH": _RUB, "HS": _LINE, "ZW": _FILM}, "belt", Wall(0.16)),
    "fire_hood": Recipe({"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.08), 3.0),
    "porcelain_doll": Recipe({"CH": _RUB, "HS": _LINE, "ZW": _FILM}, "mat", Wall(0.05)),
}
"""Real-IAD's categories with their official codes, in the order in which ``settings.categories`` takes them."""

MVTEC_AD = {
    "grid": Recipe(
        {
            "bent": ("warp",), "broken": _GONE, "glue": ("glue",), "metal_contamination": ("metal_crumb",),
            "thread": ("fibre",),
        },
        "mat", zoom=1.3, grey=True,
    ),
    "leather": Recipe(
        {"color": ("discolour",), "cut": ("cut",), "fold": ("fold",), "glue": ("glue",), "poke": ("dent",)},
        zoom=1.3, spin=0.2,
    ),
    "metal_nut": Recipe({"bent": ("warp",), "color": ("discolour",), "scratch": _LINE}, "mat", spin=3.0),
    "transistor": Recipe({"bent_lead": _BENT, "cut_lead": _GONE, "damaged_case": _BROKEN}, "mat", zoom=1.15, spin=0.05),
}  # fmt: skip
VISA = {
    "candle": Recipe(
        {
            "chunk of wax missing": ("gouge",), "damaged corner of packaging": ("chip",),
            "different colour spot": ("discolour",), "foreign particals on candle": ("crumb",),
            "wax melded out of the candle": ("wax",), "weird candle wick": _GONE,
        },
        "mat", spin=0.03, aspect=0.75, zoom=0.82,
        ids=(
            "chunk of wax missing", "damaged corner of packaging", "weird candle wick", "different colour spot",
            "extra wax in candle", "foreign particals on candle", "wax melded out of the candle", "other",
        ),
    ),
    "macaroni1": Recipe(
        {
            "chip around edge and corner": ("chip",), "different colour spot": ("discolour",),
            "middle breakage": ("crack",), "small cracks": ("crack",), "small scratches": _LINE,
        },
        "belt", spin=0.03, aspect=0.75, zoom=0.82,
        ids=(
            "chip around edge and corner", "different colour spot", "middle breakage", "similar colour spot",
            "small cracks", "small scratches", "other",
        ),
    ),
    "pcb1": Recipe(
        {"bent": _BENT, "melt": ("glue",), "missing": _GONE, "scratch": _LINE},
        "table", spin=0.04, aspect=0.75, zoom=0.95, ids=("bent", "melt", "scratch", "missing"),
    ),
}  # fmt: skip
MPDD = {
    "bracket_black": Recipe({"hole": ("hole",), "scratches": _LINE}, "table", spin=1.5),
    "metal_plate": Recipe(
        {"major_rust": ("rust",), "scratches": _LINE, "total_rust": ("wide_rust",)}, "table", spin=0.12
    ),
    "tubes": Recipe({"flattening": ("flatten",)}, "belt", spin=0.3),
}
DTD = {
    "Marbled_078": Recipe({"bad": ("scratch", "stain", "crack")}, zoom=1.3, spin=0.1),
    "Perforated_037": Recipe({"bad": ("missing", "warp", "discolour")}, zoom=1.3, spin=0.1),
    "Woven_001": Recipe({"bad": ("warp", "fibre", "cut", "discolour")}, zoom=1.3, spin=0.1),
}
_MVTEC_LIKE = {"mvtec_ad": MVTEC_AD, "mpdd": MPDD, "dtd": DTD}
_SHARE = {"dtd": 0.75}
"""Side of a set's images as a share of ``settings.size``, where it is not 1."""


def members(benchmark: str, settings: Synthetic, seed: int, workers: int = 1) -> Iterator[File]:
    """Path and bytes of every file of a rendered benchmark, in the official layout of ``benchmark``.

    Args:
        benchmark: One of the six sets.
        settings: What to render.
        seed: Of everything random.
        workers: Threads that render; the files and their order do not depend on them.

    Raises:
        IndusCotError: there is no such benchmark to render.
    """

    def each(work: Callable[[str], Made], names: Collection[str]) -> Iterator[Made]:
        what = "commutators" if benchmark == "sdd" else "categories"
        return track(thread_map(work, names, workers), f"render {benchmark} ({what})", len(names))

    if benchmark == "real_iad":
        chosen = list(REAL_IAD)[: settings.categories]
        for files in each(lambda category: _real_iad_files(category, settings, seed), chosen):
            yield from files
    elif benchmark == "visa":
        split: list[tuple[str, ...]] = []
        for files, rows in each(lambda category: _visa_files(category, settings, seed), VISA):
            yield from files
            split += rows
        yield "split_csv/1cls.csv", _csv(("object", "split", "label", "image", "mask"), split)
    elif benchmark == "sdd":
        for files in each(lambda name: _sdd_files(name, settings, seed), _commutators(settings)):
            yield from files
    else:
        like = _mvtec_like(benchmark)
        for files in each(lambda category: _mvtec_files(benchmark, category, settings, seed), like):
            yield from files


def renders(benchmark: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    """The photographs of a rendered benchmark, each beside what it would show without its defect.

    Raises:
        IndusCotError: there is no such benchmark to render.
    """
    if benchmark == "real_iad":
        for category in list(REAL_IAD)[: settings.categories]:
            yield from _real_iad_category(category, settings, seed)
    elif benchmark == "visa":
        for category in VISA:
            yield from _visa_category(category, settings, seed)
    elif benchmark == "sdd":
        for name in _commutators(settings):
            yield from _sdd(name, settings, seed)
    else:
        for category in _mvtec_like(benchmark):
            yield from _mvtec_category(benchmark, category, settings, seed)


def _mvtec_like(benchmark: str) -> Mapping[str, Recipe]:
    if benchmark not in _MVTEC_LIKE:
        known = ", ".join(sorted([*_MVTEC_LIKE, "real_iad", "sdd", "visa"]))
        raise IndusCotError(f"synthetic: there is no layout of {benchmark!r} to render; there are {known}")
    return _MVTEC_LIKE[benchmark]


def _real_iad_files(category: str, settings: Synthetic, seed: int) -> list[File]:
    shots = list(_real_iad_category(category, settings, seed))
    files = [(f"realiad_jsons/{category}.json", _real_iad_record(category, shots))]
    for shot in shots:
        files.append((shot.path, _jpg(shot.pixels)))
        if shot.labels:
            files.append((shot.path.replace(".jpg", ".png"), encode_png(_binary(shot.mask))))
    return files


def _real_iad_category(category: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    recipe = REAL_IAD[category]
    numbers: dict[str, int] = {}
    for index in range(settings.parts):
        code = _label(recipe, index, settings.parts)
        folder = f"NG/{code}" if code else "OK"
        number = numbers[folder] = numbers.get(folder, 0) + 1
        part = _Part(seed, "real_iad", category, index, recipe, settings.size, _faults(recipe, code, index))
        for camera, (view, shot) in enumerate(_shoot(part, settings.views), 1):
            name = f"{category}_{number:04d}_{folder.replace('/', '_')}_C{camera}_{STAMP}.jpg"
            path = f"realiad_1024/{category}/{folder}/S{number:04d}/{name}"
            yield _rendered(path, part, shot, view)


def _real_iad_record(category: str, shots: list[Rendered]) -> bytes:
    prefix = f"realiad_1024/{category}/"
    rows: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}
    good = sorted({shot.path.split("/")[3] for shot in shots if "/OK/" in shot.path})
    for shot in shots:
        path = shot.path.removeprefix(prefix)
        trained = path.startswith("OK/") and path.split("/")[1] in good[: (len(good) + 1) // 2]
        rows["train" if trained else "test"].append(
            {
                "category": category,
                "anomaly_class": shot.labels[0] if shot.labels else "OK",
                "image_path": path,
                "mask_path": path.replace(".jpg", ".png") if shot.labels else None,
            }
        )
    meta = {"prefix": f"{category}/", "normal_class": "OK", "pre_transform": False}
    return json.dumps({"meta": meta, **rows}, indent=1).encode()


def _mvtec_files(benchmark: str, category: str, settings: Synthetic, seed: int) -> list[File]:
    files = []
    for shot in _mvtec_category(benchmark, category, settings, seed):
        files.append((shot.path, encode_png(shot.pixels)))
        if shot.labels:
            _, _, label, name = shot.path.split("/")
            mask = f"{category}/ground_truth/{label}/{name.replace('.png', '_mask.png')}"
            files.append((mask, encode_png(_binary(shot.mask))))
    return files


def _mvtec_category(benchmark: str, category: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    recipe = _MVTEC_LIKE[benchmark][category]
    numbers: dict[str, int] = {}
    for index in range(settings.parts):
        label = _label(recipe, index, settings.parts)
        folder = f"test/{label}" if label else ("train/good" if _trains(index, settings.parts) else "test/good")
        number = numbers[folder] = numbers.get(folder, -1) + 1
        size = round(settings.size * _SHARE.get(benchmark, 1))
        part = _Part(seed, benchmark, category, index, recipe, size, _faults(recipe, label, index))
        view, shot = next(_shoot(part))
        yield _rendered(f"{category}/{folder}/{number:03d}.png", part, shot, view)


def _visa_category(category: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    recipe = VISA[category]
    numbers: dict[str, int] = {}
    for index in range(settings.parts):
        label = _label(recipe, index, settings.parts)
        folder = "Anomaly" if label else "Normal"
        number = numbers[folder] = numbers.get(folder, -1) + 1
        faults = _faults(recipe, label, index)
        if index == settings.parts - 1:
            # VisA has images with several types, whose names it joins by commas.
            other = next(name for name, kinds in recipe.defects.items() if name != label and kinds[0] in SURFACE_HARMS)
            faults += (_Fault(other, recipe.defects[other][0], CONTRASTS[-1]),)
        part = _Part(seed, "visa", category, index, recipe, settings.size, faults)
        view, shot = next(_shoot(part))
        yield _rendered(f"{category}/Data/Images/{folder}/{number:03d}.JPG", part, shot, view)


def _visa_files(category: str, settings: Synthetic, seed: int) -> tuple[list[File], list[tuple[str, ...]]]:
    """The files of a category, and its rows of the split."""
    files: list[File] = []
    rows: list[tuple[str, ...]] = []
    split: list[tuple[str, ...]] = []
    for index, shot in enumerate(_visa_category(category, settings, seed)):
        files.append((shot.path, _jpg(shot.pixels)))
        mask = ""
        if shot.labels:
            ids = np.array([0, *(VISA[category].ids.index(label) + 1 for label in shot.labels)], np.uint8)
            mask = shot.path.replace("/Images/", "/Masks/").replace(".JPG", ".png")
            files.append((mask, encode_png(ids[shot.mask])))
        rows.append((shot.path, ",".join(shot.labels) or "normal", mask))
        train = "train" if not shot.labels and _trains(index, settings.parts) else "test"
        split.append((category, train, "anomaly" if shot.labels else "normal", shot.path, mask))
    files.append((f"{category}/image_anno.csv", _csv(("image", "label", "mask"), rows)))
    return files, split


_TWINS = {"kos26": "kos01", "kos34": "kos27"}
"""KolektorSDD holds the images of some commutators twice, with labels drawn by another hand."""
_SDD_ORDER = ("kos01", "kos26", "kos15", "kos03", "kos27", "kos34", "kos20")
"""First the commutators with something peculiar, then the others by number."""


def _commutators(settings: Synthetic) -> list[str]:
    others = [name for name in (f"kos{number:02d}" for number in range(1, 51)) if name not in _SDD_ORDER]
    return [*_SDD_ORDER, *others][: settings.parts]


def _sdd_files(name: str, settings: Synthetic, seed: int) -> list[File]:
    files = []
    for shot in _sdd(name, settings, seed):
        files.append((shot.path, _jpg(shot.pixels)))
        files.append((shot.path.replace(".jpg", "_label.bmp"), _label_bmp(shot.mask)))
    return files


def _sdd(name: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    """The photographs of a commutator."""
    harmed: dict[str, list[int]] = {}
    good: list[str] = []
    for third, label in sdd.published_thirds().items():
        commutator_name, part, band = third.split("_")
        if commutator_name == name and label == "anomalous":
            harmed.setdefault(part, []).append(int(band))
        elif commutator_name == name and part not in good:
            good.append(part)
    for part in sorted({*harmed, *[part for part in good if part not in harmed][:1]}):
        yield _sdd_image(name, part, harmed.get(part, []), settings, seed)


def _sdd_image(name: str, part: str, bands: list[int], settings: Synthetic, seed: int) -> Rendered:
    shown = _TWINS.get(name, name)
    rng = _rng(seed, "sdd", shown, part)
    # The scans are 500 wide; what is looked at are their thirds, and `size` is the largest side of those.
    width = min(500, round(settings.size * 500 / 512))
    height = round(width * float(rng.uniform(2.5, 2.55)))
    clean = commutator(rng, width, height)
    surfaces = [clean]
    number = int(shown[3:])
    for k in range((2 if name == "kos20" else 1) if bands else 0):
        surface = surfaces[-1].copy()
        strength = CONTRASTS[number % 3] * 0.6 + 0.4
        if len(bands) > 1:
            # The published test set lists both thirds: this crack runs across the cut between them.
            start = np.array([width * rng.uniform(0.35, 0.65), height * (max(bands) / 3 - 0.03)])
            turn, length = np.pi / 2 + rng.uniform(-0.3, 0.3), height * 0.08
        else:
            row = height * (bands[0] + 0.32 + 0.3 * k + rng.uniform(0, 0.1)) / 3
            left = rng.random() < 0.5
            start = np.array([0.0 if left else width - 1.0, row])
            turn, length = (0.0 if left else np.pi) + rng.uniform(-0.15, 0.15), width * rng.uniform(0.14, 0.4)
        crack_along(surface, rng, strength, start, float(turn), float(length), widest=3)
        surfaces.append(surface)
    view = View(width, height, 0, 0, 1, (0, 0), 0, 1, 1, 0, 0.55, 2.5, "table", int(rng.integers(1 << 30)))
    images = [cv2.GaussianBlur(surface.albedo, (0, 0), view.blur) for surface in surfaces]
    faults = (_Fault("defect", "crack", 1.0),) * (len(images) - 1)
    seen = [changed(before, after) for before, after in pairwise(images)]
    recipe = Recipe({"defect": ("crack",)}, grey=True)
    commutator_part = _Part(seed, "sdd", "commutator", number, recipe, width, faults)
    shot = _rendered(f"{name}/{part}.jpg", commutator_part, _Shot(images[0], images[-1], seen), view)
    if name in _TWINS and bands:
        return replace(shot, mask=cv2.dilate(shot.mask, np.ones((5, 5), np.uint8)))
    return shot


@dataclass(frozen=True)
class _Fault:
    label: str
    kind: str
    strength: float


@dataclass(frozen=True)
class _Part:
    """One physical part: everything of it follows from these."""

    seed: int
    benchmark: str
    category: str
    index: int
    recipe: Recipe
    size: int
    faults: tuple[_Fault, ...]

    def rng(self, *purpose: object) -> np.random.Generator:
        return _rng(self.seed, self.benchmark, self.category, self.index, *purpose)

    @property
    def least(self) -> float:
        """Fewest changed pixels that count as visible."""
        return max(4, VISIBLE_PIXELS * (self.size / 512) ** 2)


class _Shot(NamedTuple):
    """A photograph without noise: of the sound part, of the part as it is, and what each fault changed."""

    clean: np.ndarray
    image: np.ndarray
    seen: list[np.ndarray]


def _label(recipe: Recipe, index: int, parts: int) -> str | None:
    first = parts - parts // 2
    return None if index < first else list(recipe.defects)[(index - first) % len(recipe.defects)]


def _trains(index: int, parts: int) -> bool:
    normal = parts - parts // 2
    return index < (normal + 1) // 2


def _faults(recipe: Recipe, label: str | None, index: int) -> tuple[_Fault, ...]:
    if label is None:
        return ()
    kinds = recipe.defects[label]
    turn = index // len(recipe.defects)
    return (_Fault(label, kinds[turn % len(kinds)], CONTRASTS[(index + turn) % len(CONTRASTS)]),)


def _camera(part: _Part, camera: int) -> View:
    recipe, size = part.recipe, part.size
    rig, pose = _rng(part.seed, part.benchmark, part.category, "rig", camera), part.rng("pose")
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


def _shoot(part: _Part, cameras: int = 1) -> Iterator[tuple[View, _Shot]]:
    """The part from each camera; each of its faults is visible from one camera at least."""
    views = [_camera(part, camera) for camera in range(cameras)]
    drawn = _drawn(part, None, None)
    state = _individual(part, drawn.surface, drawn.surface)
    wall = replace(part.recipe.wall, colour=_rim_colour(state)) if part.recipe.wall else None
    clean = images = [photograph(state, view, wall) for view in views]
    seen: list[list[np.ndarray]] = [[] for _ in views]
    for number, fault in enumerate(part.faults):
        for attempt in range(ATTEMPTS):
            rng = part.rng("fault", number, attempt)
            strength = fault.strength * float(rng.uniform(0.85, 1.2)) * 1.45**attempt
            mark = _wall_mark(state, wall, fault.kind, strength, views, rng)
            harmed = state if mark else _harmed(part, state, drawn, fault.kind, strength, rng)
            after = [photograph(harmed, view, wall, mark) for view in views]
            masks = [changed(*pair) for pair in zip(images, after, strict=True)]
            if max(int(mask.sum()) for mask in masks) >= part.least:
                break
        else:
            raise RuntimeError(f"{part.category} {part.index}: {fault.kind} stays invisible in {ATTEMPTS} attempts")
        state, images = harmed, after
        for found, mask in zip(seen, masks, strict=True):
            found.append(mask)
    for view, before, image, found in zip(views, clean, images, seen, strict=True):
        yield view, _Shot(before, image, found)


def _harmed(part: _Part, state: Surface, drawn: Pen, kind: str, strength: float, rng: np.random.Generator) -> Surface:
    if kind in ("missing", "bent"):
        chosen = int(rng.integers(drawn.pieces))
        other = _drawn(part, chosen if kind == "missing" else None, chosen if kind == "bent" else None)
        return _individual(part, other.surface, drawn.surface)
    harmed = state.copy()
    SURFACE_HARMS[kind](harmed, rng, strength)
    return harmed


def _rim_colour(surface: Surface) -> tuple[float, float, float]:
    """The mean colour along the outline, RGB: that of the side wall."""
    solid = np.ascontiguousarray(surface.alpha[::4, ::4] > 0.98).astype(np.uint8)
    rim = (solid > 0) & (cv2.erode(solid, np.ones((7, 7), np.uint8)) == 0)
    blue, green, red = surface.albedo[::4, ::4][rim].mean(0) * 0.95
    return float(red), float(green), float(blue)


def _wall_mark(
    surface: Surface, wall: Wall | None, kind: str, strength: float, views: list[View], rng: np.random.Generator
) -> WallMark | None:
    """Now and then a defect lies on the side, where few cameras see it."""
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


def _drawn(part: _Part, missing: int | None, bent: int | None) -> Pen:
    make = int(part.rng("make").integers(VARIANTS))
    return _draw(part.seed, part.benchmark, part.category, make, part.size, missing, bent)


@lru_cache(maxsize=8)
def _draw(seed: int, benchmark: str, category: str, make: int, size: int, missing: int | None, bent: int | None) -> Pen:
    pen = new_pen(size, _rng(seed, benchmark, category, "make", make), missing, bent)
    PARTS[category](pen)
    return pen


def _individual(one: _Part, surface: Surface, sound: Surface) -> Surface:
    """A make's surface as one part of it: its own tint, and normal marks that may raise doubt."""
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
            at = np.array(spot(sound, rng, 26)) / part.size
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
        x0, y0 = spot(sound, rng, 10)
        columns = np.arange(part.size, dtype=np.float32)
        reach = np.float32(rng.uniform(24, 60) * unit)
        glow = np.exp(-((columns - x0) ** 2) / reach**2) * np.exp(-((columns[:, None] - y0) ** 2) / reach**2)
        part.gloss += np.float32(0.22) * glow
    return part


def _rendered(path: str, part: _Part, shot: _Shot, view: View) -> Rendered:
    mask = np.zeros(shot.clean.shape[:2], np.uint8)
    labels: list[str] = []
    for fault, seen in zip(part.faults, shot.seen, strict=True):
        if seen.sum() >= part.least:
            labels.append(fault.label)
            mask[seen] = len(labels)
    # A part whose defect this camera does not see is shown as it is, whatever its folder says.
    pixels = expose(shot.image, view)
    normal = expose(shot.clean, view) if labels else pixels
    if part.recipe.grey:
        pixels, normal = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (pixels, normal))
    return Rendered(path, part.category, tuple(labels), pixels, normal, mask)


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _binary(mask: np.ndarray) -> np.ndarray:
    return np.where(mask > 0, np.uint8(255), np.uint8(0))


def _jpg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].tobytes()


def _label_bmp(mask: np.ndarray) -> bytes:
    """As KolektorSDD has it: grey and black where there is no defect, else a palette image with index 1 and up."""
    image = Image.fromarray(mask)
    if mask.any():
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, *[0] * (253 * 3)])
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


def _csv(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()

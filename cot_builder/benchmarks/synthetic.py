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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from cot_builder.benchmarks import sdd
from cot_builder.benchmarks.synthetic_camera import Ground, View, Wall, changed, expose, photograph
from cot_builder.benchmarks.synthetic_defects import SURFACE_HARMS, WallMark, crack_along, spot
from cot_builder.benchmarks.synthetic_parts import PARTS, commutator
from cot_builder.benchmarks.synthetic_surface import Material, Pen, Surface, new_pen, noise, write
from cot_builder.params import Synthetic
from schemas.errors import IndusCotError

CONTRASTS = (0.16, 0.45, 1.0)
"""Strengths of the defects, in turn: hard, fair, plain."""
VARIANTS = 3
"""Makes of a category: other colours, markings and layouts."""
VISIBLE_PIXELS = 10
"""Fewest changed pixels of a defect that counts as visible, at 512 pixels a side."""
ATTEMPTS = 12
STAMP = "20231021130716"


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
_LIGHT, _DARK = (214, 214, 210), (48, 48, 52)

REAL_IAD: dict[str, Recipe] = {
    "bottle_cap": Recipe(
        {"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.13, (150, 90, 70), 60), 3.0
    ),
    "pcb": Recipe({"HS": _LINE, "QS": _GONE, "YW": _BODY, "ZW": _FILM}, "mat", Wall(0.018, (70, 96, 70))),
    "button_battery": Recipe(
        {"AK": _PIT, "CH": _RUB, "HS": _LINE, "ZW": _FILM}, "belt", Wall(0.07, (150, 152, 156)), 3.0
    ),
    "transistor1": Recipe({"BX": _BENT, "QS": _GONE, "ZW": _FILM}, "paper", Wall(0.05, _DARK)),
    "tape": Recipe(
        {"HS": _LINE, "PS": ("chip", "cut"), "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.15, (150, 130, 96)), 3.0
    ),
    "toy_brick": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14, (140, 66, 60))),
    "u_block": Recipe({"CH": _RUB, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.1, (136, 138, 142))),
    "usb": Recipe(
        {"BX": ("bent", "dent"), "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.05, (118, 120, 124))
    ),
    "plastic_plug": Recipe(
        {"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "mat", Wall(0.08, (170, 150, 120)), 3.0
    ),
    "eraser": Recipe({"AK": _PIT, "HS": _LINE, "QS": _CHUNK, "ZW": _FILM}, "belt", Wall(0.12, (196, 194, 190))),
    "wooden_beads": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "mat", Wall(0.05, (120, 84, 52)), 3.0),
    "terminalblock": Recipe({"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14, (46, 92, 82))),
    "mint": Recipe({"QS": ("chip", "gouge"), "YW": _BODY, "ZW": _FILM}, "belt", Wall(0.05, _LIGHT), 3.0),
    "phone_battery": Recipe(
        {"AK": _PIT, "HS": _LINE, "PS": ("chip", "cut"), "ZW": _FILM}, "paper", Wall(0.045, (110, 112, 116))
    ),
    "zipper": Recipe({"BX": _BENT, "PS": ("cut",), "QS": _GONE, "ZW": _FILM}, "table"),
    "switch": Recipe({"HS": _LINE, "QS": _GONE, "ZW": _FILM}, "paper", Wall(0.13, _DARK)),
    "audiojack": Recipe({"BX": _BENT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "belt"),
    "plastic_nut": Recipe(
        {"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "mat", Wall(0.12, (168, 158, 130)), 3.0
    ),
    "vcpill": Recipe({"AK": _PIT, "HS": _LINE, "QS": _CHUNK, "ZW": _FILM}, "belt"),
    "woodstick": Recipe(
        {"AK": _PIT, "HS": _LINE, "QS": ("chip", "missing"), "ZW": _FILM}, "mat", Wall(0.02, (170, 138, 94))
    ),
    "mounts": Recipe({"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.09, (120, 122, 124))),
    "end_cap": Recipe({"HS": _LINE, "PS": _BROKEN, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14, (84, 86, 90))),
    "regulator": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.1, (90, 92, 98))),
    "rolled_strip_base": Recipe({"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.04, (130, 132, 136))),
    "sim_card_set": Recipe({"CH": _RUB, "HS": _LINE, "ZW": _FILM}, "mat", Wall(0.012, _LIGHT)),
    "toothbrush": Recipe({"CH": _RUB, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.06, (190, 196, 200))),
    "toy": Recipe({"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.1, (140, 100, 70))),
    "usb_adaptor": Recipe({"AK": _PIT, "CH": _RUB, "HS": _LINE, "ZW": _FILM}, "belt", Wall(0.16, (170, 170, 168))),
    "fire_hood": Recipe(
        {"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.08, (110, 108, 104)), 3.0
    ),
    "porcelain_doll": Recipe({"CH": _RUB, "HS": _LINE, "ZW": _FILM}, "mat", Wall(0.05, (190, 188, 184))),
}
"""Real-IAD's categories with their official codes, in the order in which ``settings.categories`` takes them."""

MVTEC_AD = {
    "grid": Recipe(
        {"bent": ("warp",), "broken": _GONE, "glue": ("glue",), "metal_contamination": ("metal_crumb",), "thread": ("fibre",)},
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
_SHARE = {"mvtec_ad": 1.0, "visa": 1.0, "mpdd": 1.0, "dtd": 0.75}


def members(benchmark: str, settings: Synthetic, seed: int) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every file of a rendered benchmark, in the official layout of ``benchmark``.

    Raises:
        IndusCotError: there is no such benchmark to render.
    """
    if benchmark == "real_iad":
        for category in list(REAL_IAD)[: settings.categories]:
            shots = list(_real_iad_category(category, settings, seed))
            yield f"realiad_jsons/{category}.json", _real_iad_record(category, shots)
            for shot in shots:
                yield shot.path, _jpg(shot.pixels)
                if shot.labels:
                    yield shot.path.replace(".jpg", ".png"), _png(_binary(shot.mask))
    elif benchmark == "visa":
        yield from _visa_files(settings, seed)
    elif benchmark == "sdd":
        for shot in _sdd(settings, seed):
            yield shot.path, _jpg(shot.pixels)
            yield shot.path.replace(".jpg", "_label.bmp"), _label_bmp(shot.mask)
    else:
        for shot in renders(benchmark, settings, seed):
            yield shot.path, _png(shot.pixels)
            if shot.labels:
                category, _, label, name = shot.path.split("/")
                mask = f"{category}/ground_truth/{label}/{name.replace('.png', '_mask.png')}"
                yield mask, _png(_binary(shot.mask))


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
        yield from _sdd(settings, seed)
    elif benchmark in _MVTEC_LIKE:
        for category in _MVTEC_LIKE[benchmark]:
            yield from _mvtec_category(benchmark, category, settings, seed)
    else:
        raise IndusCotError(
            f"synthetic: no layout for {benchmark!r}; it renders {', '.join(sorted([*_MVTEC_LIKE, 'real_iad', 'sdd', 'visa']))}"
        )


def _real_iad_category(category: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    recipe = REAL_IAD[category]
    numbers: dict[str, int] = {}
    for index in range(settings.parts):
        code = _fault_label(recipe, index, settings.parts)
        folder = f"NG/{code}" if code else "OK"
        number = numbers[folder] = numbers.get(folder, 0) + 1
        views = [_camera("real_iad", category, index, camera, settings, seed) for camera in range(settings.views)]
        faults = [_fault(recipe, code, index)] if code else []
        for camera, (clean, steps) in enumerate(
            _shoot("real_iad", category, index, recipe, faults, views, settings.size, seed), 1
        ):
            name = f"{category}_{number:04d}_{folder.replace('/', '_')}_C{camera}_{STAMP}.jpg"
            path = f"realiad_1024/{category}/{folder}/S{number:04d}/{name}"
            yield _rendered(path, category, faults, clean, steps, views[camera - 1])


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


def _mvtec_category(benchmark: str, category: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    recipe = _MVTEC_LIKE[benchmark][category]
    numbers: dict[str, int] = {}
    for index in range(settings.parts):
        label = _fault_label(recipe, index, settings.parts)
        folder = f"test/{label}" if label else ("train/good" if _trains(index, settings.parts) else "test/good")
        number = numbers[folder] = numbers.get(folder, -1) + 1
        faults = [_fault(recipe, label, index)] if label else []
        yield _single(
            benchmark, category, index, recipe, faults, f"{category}/{folder}/{number:03d}.png", settings, seed
        )


def _visa_category(category: str, settings: Synthetic, seed: int) -> Iterator[Rendered]:
    recipe = VISA[category]
    numbers: dict[str, int] = {}
    for index in range(settings.parts):
        label = _fault_label(recipe, index, settings.parts)
        folder = "Anomaly" if label else "Normal"
        number = numbers[folder] = numbers.get(folder, -1) + 1
        faults = [_fault(recipe, label, index)] if label else []
        if faults and index == settings.parts - 1:
            # VisA has images with several types, whose names it joins by commas.
            other = next(name for name, kinds in recipe.defects.items() if name != label and kinds[0] in SURFACE_HARMS)
            faults.append(replace(_fault(recipe, other, index), strength=1.0))
        path = f"{category}/Data/Images/{folder}/{number:03d}.JPG"
        yield _single("visa", category, index, recipe, faults, path, settings, seed)


def _visa_files(settings: Synthetic, seed: int) -> Iterator[tuple[str, bytes]]:
    split: list[tuple[str, ...]] = []
    for category, recipe in VISA.items():
        rows: list[tuple[str, ...]] = []
        for index, shot in enumerate(_visa_category(category, settings, seed)):
            yield shot.path, _jpg(shot.pixels)
            mask = ""
            if shot.labels:
                ids = np.array([0, *(recipe.ids.index(label) + 1 for label in shot.labels)], np.uint8)
                mask = shot.path.replace("/Images/", "/Masks/").replace(".JPG", ".png")
                yield mask, _png(ids[shot.mask])
            rows.append((shot.path, ",".join(shot.labels) or "normal", mask))
            train = "train" if not shot.labels and _trains(index, settings.parts) else "test"
            split.append((category, train, "anomaly" if shot.labels else "normal", shot.path, mask))
        yield f"{category}/image_anno.csv", _csv(("image", "label", "mask"), rows)
    yield "split_csv/1cls.csv", _csv(("object", "split", "label", "image", "mask"), split)


def _single(
    benchmark: str,
    category: str,
    index: int,
    recipe: Recipe,
    faults: list["_Fault"],
    path: str,
    settings: Synthetic,
    seed: int,
) -> Rendered:
    size = round(settings.size * _SHARE[benchmark])
    view = _camera(benchmark, category, index, 0, settings.model_copy(update={"size": size}), seed, recipe)
    clean, steps = _shoot(benchmark, category, index, recipe, faults, [view], size, seed)[0]
    return _rendered(path, category, faults, clean, steps, view, recipe.grey)


_TWINS = {"kos26": "kos01", "kos34": "kos27"}
"""KolektorSDD holds the images of some commutators twice, with labels drawn by another hand."""
_SDD_ORDER = ("kos01", "kos26", "kos15", "kos03", "kos27", "kos34", "kos20")
"""First the commutators with something peculiar, then the others by number."""


def _sdd(settings: Synthetic, seed: int) -> Iterator[Rendered]:
    thirds = sdd.published_thirds()
    others = [name for name in (f"kos{number:02d}" for number in range(1, 51)) if name not in _SDD_ORDER]
    for commutator_name in [*_SDD_ORDER, *others][: settings.parts]:
        harmed: dict[str, list[int]] = {}
        good: list[str] = []
        for third, label in thirds.items():
            name, part, band = third.split("_")
            if name == commutator_name and label == "anomalous":
                harmed.setdefault(part, []).append(int(band))
            elif name == commutator_name and part not in good:
                good.append(part)
        for part in sorted({*harmed, *[part for part in good if part not in harmed][:1]}):
            yield _sdd_image(commutator_name, part, harmed.get(part, []), settings, seed)


def _sdd_image(name: str, part: str, bands: list[int], settings: Synthetic, seed: int) -> Rendered:
    shown = _TWINS.get(name, name)
    rng = _rng(seed, "sdd", shown, part)
    width = round(settings.size * 500 / 512)
    height = round(width * float(rng.uniform(2.5, 2.55)))
    clean = commutator(rng, width, height)
    surfaces = [clean]
    number = int(name[3:])
    for k in range((2 if name == "kos20" else 1) if bands else 0):
        surface = surfaces[-1].copy()
        strength = CONTRASTS[number % 3] * 0.6 + 0.25
        if len(bands) > 1:
            # The published test set lists both thirds: this crack runs across the cut between them.
            start = np.array([width * rng.uniform(0.35, 0.65), height * (max(bands) / 3 - 0.03)])
            turn, length = np.pi / 2 + rng.uniform(-0.3, 0.3), height * 0.08
        else:
            row = height * (bands[0] + 0.32 + 0.3 * k + rng.uniform(0, 0.1)) / 3
            left = rng.random() < 0.5
            start = np.array([0.0 if left else width - 1.0, row])
            turn, length = (0.0 if left else np.pi) + rng.uniform(-0.15, 0.15), width * rng.uniform(0.14, 0.4)
        crack_along(surface, rng, strength, start, float(turn), float(length))
        surfaces.append(surface)
    view = View(width, height, 0, 0, 1, (0, 0), 0, 1, 1, 0, 0.55, 2.5, "table", int(rng.integers(1 << 30)))
    photographs = [cv2.GaussianBlur(surface.albedo, (0, 0), view.blur) for surface in surfaces]
    faults = [_Fault("defect", "crack", 1.0)] * (len(photographs) - 1)
    shot = _rendered(f"{name}/{part}.jpg", "commutator", faults, photographs[0], photographs[1:], view, grey=True)
    if name in _TWINS and bands:
        loose = cv2.dilate(shot.mask, np.ones((5, 5), np.uint8))
        return replace(shot, mask=loose)
    return shot


@dataclass(frozen=True)
class _Fault:
    label: str
    kind: str
    strength: float


def _fault_label(recipe: Recipe, index: int, parts: int) -> str | None:
    first = parts - parts // 2
    return None if index < first else list(recipe.defects)[(index - first) % len(recipe.defects)]


def _trains(index: int, parts: int) -> bool:
    normal = parts - parts // 2
    return index < (normal + 1) // 2


def _fault(recipe: Recipe, label: str, index: int) -> _Fault:
    kinds = recipe.defects[label]
    turn = index // len(recipe.defects)
    return _Fault(label, kinds[turn % len(kinds)], CONTRASTS[(index + turn) % len(CONTRASTS)])


def _camera(
    benchmark: str, category: str, index: int, camera: int, settings: Synthetic, seed: int, recipe: Recipe | None = None
) -> View:
    recipe = recipe or REAL_IAD[category]
    rig, pose = _rng(seed, benchmark, category, "rig", camera), _rng(seed, benchmark, category, index, "pose")
    turn = float(pose.uniform(-recipe.spin, recipe.spin))
    zoom = recipe.zoom * float(pose.uniform(0.97, 1.03))
    shift = pose.uniform(-0.012, 0.012, 2) * settings.size
    pose = _rng(seed, benchmark, category, index, "pose", camera)
    tilted = camera > 0
    return View(
        width=settings.size,
        height=round(settings.size * recipe.aspect),
        turn=turn + (camera - 1) * np.pi / 2 * tilted,
        tilt=float(rig.uniform(0.58, 0.72)) if tilted else float(rig.uniform(0, 0.05)),
        scale=zoom,
        shift=(float(shift[0]), float(shift[1]) - 0.02 * settings.size * tilted),
        lamp=float(rig.uniform(-2.6, -0.5)),
        lamp_height=float(rig.uniform(0.6, 0.78)) if tilted else float(rig.uniform(0.74, 0.9)),
        exposure=float(rig.uniform(0.94, 1.04) * pose.uniform(0.97, 1.03)),
        fall=float(rig.uniform(0.02, 0.09)),
        blur=float(pose.uniform(0.45, 0.7)),
        noise=float(rig.uniform(1.3, 2.6)),
        ground=recipe.ground,
        seed=int(pose.integers(1 << 30)),
    )


def _shoot(
    benchmark: str,
    category: str,
    index: int,
    recipe: Recipe,
    faults: list[_Fault],
    views: list[View],
    size: int,
    seed: int,
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """For each view the photograph of the sound part, and one after each of its faults."""
    variant = int(_rng(seed, benchmark, category, index, "make").integers(VARIANTS))
    drawn = _drawn(seed, benchmark, category, variant, size, None, None)
    rng = _rng(seed, benchmark, category, index, "part")
    sound = _individual(drawn.surface, drawn.surface, rng)
    clean = [photograph(sound, view, recipe.wall) for view in views]
    if not faults:
        return [(image, []) for image in clean]
    least = max(4, VISIBLE_PIXELS * (size / 512) ** 2)
    for attempt in range(ATTEMPTS):
        steps: list[list[np.ndarray]] = [[] for _ in views]
        state, mark = sound, None
        for number, fault in enumerate(faults):
            rng = _rng(seed, benchmark, category, index, "fault", attempt, number)
            strength = fault.strength * float(rng.uniform(0.85, 1.2)) * 1.45**attempt
            mark = _wall_mark(sound, recipe, fault.kind, strength, views, rng) if benchmark == "real_iad" else None
            if mark is None:
                state = _harmed(
                    state, drawn, (seed, benchmark, category, variant, size, index), fault.kind, strength, rng
                )
            for k, view in enumerate(views):
                steps[k].append(photograph(state, view, recipe.wall, mark))
        if all(
            max(changed(before, after).sum() for before, after in zip(befores, afters, strict=True)) >= least
            for befores, afters in zip(
                [clean, *([s[n] for s in steps] for n in range(len(faults) - 1))],
                [[s[n] for s in steps] for n in range(len(faults))],
                strict=True,
            )
        ):
            return list(zip(clean, steps, strict=True))
    raise RuntimeError(f"no visible {[fault.kind for fault in faults]} on {category} {index} in {ATTEMPTS} attempts")


def _harmed(
    state: Surface,
    drawn: Pen,
    key: tuple[int, str, str, int, int, int],
    kind: str,
    strength: float,
    rng: np.random.Generator,
) -> Surface:
    seed, benchmark, category, variant, size, index = key
    if kind in ("missing", "bent"):
        chosen = int(rng.integers(drawn.pieces))
        missing, bent = (chosen, None) if kind == "missing" else (None, chosen)
        changed_part = _drawn(seed, benchmark, category, variant, size, missing, bent)
        return _individual(changed_part.surface, drawn.surface, _rng(seed, benchmark, category, index, "part"))
    harmed = state.copy()
    SURFACE_HARMS[kind](harmed, rng, strength)
    return harmed


def _wall_mark(
    surface: Surface, recipe: Recipe, kind: str, strength: float, views: list[View], rng: np.random.Generator
) -> WallMark | None:
    chosen = rng.random() < 0.35 and kind in ("scratch", "stain", "abrasion", "pit")
    if not chosen or len(views) < 2 or recipe.wall is None or recipe.wall.height < 0.06:
        return None
    towards = np.pi / 2 - views[int(rng.integers(1, len(views)))].turn + rng.uniform(-0.5, 0.5)
    reach = np.arange(0, surface.size * 0.49)
    x, y = surface.size / 2 + reach * np.cos(towards), surface.size / 2 + reach * np.sin(towards)
    inside = np.flatnonzero(surface.alpha[y.astype(int), x.astype(int)] > 0.5)
    if not len(inside):
        return None
    last = int(inside[-1])
    sign = 1 if np.mean(recipe.wall.colour) < 110 else -1
    contrast = sign * (10 + 60 * strength)
    return WallMark(float(x[last]), float(y[last]), kind == "scratch", contrast, int(rng.integers(1 << 30)))


@lru_cache(maxsize=6)
def _drawn(
    seed: int, benchmark: str, category: str, variant: int, size: int, missing: int | None, bent: int | None
) -> Pen:
    pen = new_pen(size, _rng(seed, benchmark, category, "make", variant), missing, bent)
    PARTS[category](pen)
    return pen


def _individual(surface: Surface, sound: Surface, rng: np.random.Generator) -> Surface:
    """A make's surface as one part of it: its own tint, and normal marks that may raise doubt."""
    part = surface.copy()
    cloud = noise("cloud", part.size)
    y, x = rng.integers(0, cloud.shape[0] - part.size + 1, 2)
    tint = np.float32(1) + rng.normal(0, 0.02, 3).astype(np.float32) + np.float32(rng.normal(0, 0.02))
    uneven = np.float32(1) + np.float32(0.015) * cloud[y : y + part.size, x : x + part.size]
    part.albedo *= uneven[..., None] * tint
    unit = part.size / 512
    if sound.alpha.min() < 0.5:
        if rng.random() < 0.4:
            at = np.array(spot(sound, rng, 26)) / part.size
            ink = Material((236, 236, 232) if part.albedo.mean() < 60 else (56, 56, 62), 0.2)
            code = f"{rng.choice(list('ABKLT'))}{int(rng.integers(10, 99))} {int(rng.integers(1, 53)):02d}/{int(rng.integers(21, 25))}"
            write(Pen(part, rng), code, at[0], at[1], 0.024, ink)
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


def _rendered(
    path: str,
    category: str,
    faults: list[_Fault],
    clean: np.ndarray,
    steps: list[np.ndarray],
    view: View,
    grey: bool = False,
) -> Rendered:
    least = max(4, VISIBLE_PIXELS * (view.width / 512) ** 2)
    mask = np.zeros(clean.shape[:2], np.uint8)
    labels: list[str] = []
    for fault, before, after in zip(faults, [clean, *steps], steps, strict=False):
        seen = changed(before, after)
        if seen.sum() >= least:
            labels.append(fault.label)
            mask[seen] = len(labels)
    # A part whose defect this camera does not see is photographed as it is, defect and all.
    pixels = expose(steps[-1] if steps else clean, view)
    normal = expose(clean, view) if labels else pixels
    if grey:
        pixels, normal = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (pixels, normal))
    return Rendered(path, category, tuple(labels), pixels, normal, mask)


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _binary(mask: np.ndarray) -> np.ndarray:
    return np.where(mask > 0, np.uint8(255), np.uint8(0))


def _jpg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].tobytes()


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


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

"""Real-IAD: 30 categories, each part photographed by five cameras.

Licence: CC BY-NC-SA 4.0 (as its page states; not checked in a licence file). Gated on the Hugging Face Hub,
``hf://datasets/Real-IAD/Real-IAD``; no checksum is published.

Layout::

    realiad_jsons/<category>.json                    the labels and the split; ``realiad/`` in another packing
    realiad_{256,512,1024}/<category>/OK/S0001/<category>_0001_OK_C1_<time>.jpg
    realiad_{256,512,1024}/<category>/NG/<code>/S0001/<category>_0001_NG_<code>_C2_<time>.{jpg,png}

Codes: AK pit, BX deformation, CH abrasion, HS scratch, PS damage, QS missing parts, YW foreign objects,
ZW contamination.

Quirks, checked on the 30 official files:

- 26,881 test images lie under ``NG/``, are labelled OK and have no mask, since the defect cannot be seen from
  that camera. The label is that of the JSON, never that of the folder.
- A part is a folder ``S0001`` with its five views. The numbers restart in ``OK`` and in each code:
  ``OK/S0001``, ``NG/HS/S0001`` and ``NG/AK/S0001`` were taken at different times (30,210 folders, as many times).
  Therefore the whole path of the folder identifies the part.
- The names of 2,590 files of audiojack and plastic_plug have two underscores after the category.
- Other JSON folders (``…_sv``, ``…_fuiad_…``) contain other protocols on the same images. They are ignored.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from cot_builder.benchmarks.benchmark import Benchmark, ClassifiedPath, Entry, Files, Layout, Listing
from cot_builder.benchmarks.synthetic.camera import Wall
from cot_builder.benchmarks.synthetic.parts import electrics, hardware, household
from cot_builder.benchmarks.synthetic.rendering import (
    File,
    Part,
    Recipe,
    RenderedPhoto,
    Rendering,
    encode_jpg,
    plan_parts,
    take_photographs,
    to_binary,
)
from cot_builder.params import PullSet, Synthetic
from cot_builder.storage.images import encode_png
from schemas.errors import IndusCotError

LABELS: dict[str, tuple[str, ...]] = {
    "scratch": ("HS",),
    "abrasion": ("CH",),
    "pit": ("AK",),
    "foreign_matter": ("YW",),
    "stain": ("ZW",),
    "broken": ("PS",),
    "deformation": ("BX",),
    "missing_part": ("QS",),
}
"""Codes of the defects, by type of the taxonomy."""
BENCHMARK = Benchmark(
    name="real_iad",
    title="Real-IAD",
    licence="CC BY-NC-SA 4.0",
    redistribution="unknown",
    clause="its page states CC BY-NC-SA 4.0, no licence file was checked, and access on the Hub is granted "
    "under terms of its own",
    attribution="Real-IAD, (c) C. Wang and others",
    citation="Wang, Zhu, Gan, Zhang, Gu, Ji, Ma, Li: Real-IAD, a real-world multi-view dataset for benchmarking "
    "versatile industrial anomaly detection. CVPR 2024",
    homepage="https://realiad4ad.github.io/Real-IAD/",
    labels=LABELS,
    settings={"resolution": "has one only"},
    published={("train", "normal"): 36465, ("test", "normal"): 63256, ("test", "anomalous"): 51329},
    categories=(
        "audiojack",
        "bottle_cap",
        "button_battery",
        "end_cap",
        "eraser",
        "fire_hood",
        "mint",
        "mounts",
        "pcb",
        "phone_battery",
        "plastic_nut",
        "plastic_plug",
        "porcelain_doll",
        "regulator",
        "rolled_strip_base",
        "sim_card_set",
        "switch",
        "tape",
        "terminalblock",
        "toothbrush",
        "toy",
        "toy_brick",
        "transistor1",
        "u_block",
        "usb",
        "usb_adaptor",
        "vcpill",
        "wooden_beads",
        "woodstick",
        "zipper",
    ),
)
RESOLUTIONS = ("256", "512", "1024", "raw")
_IMAGE = re.compile(
    r"(?:^|/)(?P<folder>(?:OK|NG/[^/]+)/S\d+)/(?P<name>(?P<category>[^/]+?)_+\d+_(?:OK|NG_[^_/]+)_C\d+_[^/]*"
    r"\.(?P<suffix>jpe?g|png))$",
    re.IGNORECASE,
)
_RECORD = re.compile(r"(?:^|/)(?P<folder>[^/]*)/(?P<key>[^/]+\.json)$")
_OTHER_PROTOCOL = re.compile(r"_sv(/|$)|fuiad", re.IGNORECASE)
_RESOLUTION = re.compile(r"(?:^|/)realiad_(\d+|raw)(?:/|$)")
_VIEW = re.compile(r"_(C\d+)_")


def ignore(settings: PullSet) -> list[str]:
    """Return shell patterns of the folders of other resolutions, which are not downloaded."""
    return [f"*realiad_{other}[/.]*" for other in RESOLUTIONS if other != settings.resolution]


def layout(settings: PullSet, _files: Files) -> Layout:
    """Return the layout for the resolution of the settings."""
    return Layout(
        partial(classify_path, resolution=settings.resolution), partial(entries, resolution=settings.resolution)
    )


def classify_path(path: str, resolution: str = "1024") -> ClassifiedPath | None:
    """Classify a path as image, mask or record, or as ``other`` for an image of another resolution."""
    if match := _IMAGE.search(path):
        key = f"{match['category']}/{match['folder']}/{match['name']}"
        found = _RESOLUTION.search(path)
        if found and found[1] != resolution:
            return ClassifiedPath("other", key)
        return ClassifiedPath("mask" if match["suffix"].lower() == "png" else "image", key)
    match = _RECORD.search(path)
    if match is None or _OTHER_PROTOCOL.search(path.rpartition("/")[0]):
        return None
    return ClassifiedPath("record", match["key"])


def entries(listing: Listing, resolution: str = "1024") -> Iterator[Entry]:
    """Yield one sample per row of the JSON files, in their order.

    Raises:
        IndusCotError: the JSON files are missing or malformed, or all images have another resolution.
    """
    if not listing.images and listing.other:
        raise IndusCotError(
            f"real_iad: the source has no realiad_{resolution}, but another resolution; set pull.<name>.resolution "
            f"to one of those that are there ({', '.join(RESOLUTIONS[:3])})"
        )
    read = 0
    for name, data in sorted(listing.records.items()):
        rows = _parse(name, data)
        if rows is None:
            continue
        read += 1
        for split in ("train", "test"):
            for number, row in enumerate(rows[split]):
                yield _entry(row, split, f"{name} {split}[{number}]")
    if not read:
        raise IndusCotError(
            "real_iad: no realiad_jsons/<category>.json in the source; only these files have the labels "
            "(many images under NG/ are labelled OK)"
        )


def _parse(name: str, data: bytes) -> dict[str, list[dict[str, Any]]] | None:
    try:
        rows = json.loads(data)
    except ValueError as error:
        raise IndusCotError(f"real_iad: {name} is not valid JSON ({error}); download it again") from error
    if not isinstance(rows, dict) or "train" not in rows or "test" not in rows:
        return None
    for split in ("train", "test"):
        if not isinstance(rows[split], list):
            raise IndusCotError(
                f"real_iad: {name}: {split} is {rows[split]!r:.40} instead of a list of rows; download it again"
            )
    return rows


def _entry(row: dict[str, Any], split: Any, where: str) -> Entry:
    try:
        category, kind, image, mask = (row[key] for key in ("category", "anomaly_class", "image_path", "mask_path"))
        view = _VIEW.search(image.rpartition("/")[2])
        if view is None:
            raise IndusCotError(f"real_iad: {where}, image_path: no camera C1 … C5 in {image!r}")
        return Entry(
            image=f"{category}/{image}",
            category=category,
            split=split,
            label="normal" if kind == "OK" else "anomalous",
            raw_type=None if kind == "OK" else kind,
            mask=f"{category}/{mask}" if mask else None,
            view=view[1],
            part=f"{category}/{image.rpartition('/')[0]}",
            where=where,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise IndusCotError(
            f"real_iad: {where} is not a row with category, anomaly_class, image_path and mask_path: {error!r}"
        ) from error


_PIT, _LINE, _FILM, _BODY = ("pit",), ("scratch",), ("stain",), ("foreign",)
_RUB, _BROKEN, _CHUNK, _GONE, _BENT = ("abrasion",), ("chip", "crack"), ("chip", "gouge"), ("missing",), ("bent",)

RECIPES: dict[str, Recipe] = {
    "bottle_cap": Recipe(
        household.bottle_cap, {"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.13, 60), 3.0
    ),
    "pcb": Recipe(electrics.pcb, {"HS": _LINE, "QS": _GONE, "YW": _BODY, "ZW": _FILM}, "mat", Wall(0.018)),
    "button_battery": Recipe(
        electrics.button_battery, {"AK": _PIT, "CH": _RUB, "HS": _LINE, "ZW": _FILM}, "belt", Wall(0.07), 3.0
    ),
    "transistor1": Recipe(electrics.transistor, {"BX": _BENT, "QS": _GONE, "ZW": _FILM}, "paper", Wall(0.05)),
    "tape": Recipe(
        household.tape, {"HS": _LINE, "PS": ("chip", "cut"), "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.15), 3.0
    ),
    "toy_brick": Recipe(household.toy_brick, {"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14)),
    "u_block": Recipe(hardware.u_block, {"CH": _RUB, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.1)),
    "usb": Recipe(electrics.usb, {"BX": ("bent", "dent"), "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.05)),
    "plastic_plug": Recipe(
        hardware.plastic_plug, {"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "mat", Wall(0.08), 3.0
    ),
    "eraser": Recipe(household.eraser, {"AK": _PIT, "HS": _LINE, "QS": _CHUNK, "ZW": _FILM}, "belt", Wall(0.12)),
    "wooden_beads": Recipe(
        household.wooden_beads, {"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "mat", Wall(0.05), 3.0
    ),
    "terminalblock": Recipe(electrics.terminalblock, {"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14)),
    "mint": Recipe(household.mint, {"QS": ("chip", "gouge"), "YW": _BODY, "ZW": _FILM}, "belt", Wall(0.05), 3.0),
    "phone_battery": Recipe(
        electrics.phone_battery, {"AK": _PIT, "HS": _LINE, "PS": ("chip", "cut"), "ZW": _FILM}, "paper", Wall(0.045)
    ),
    "zipper": Recipe(hardware.zipper, {"BX": _BENT, "PS": ("cut",), "QS": _GONE, "ZW": _FILM}, "table"),
    "switch": Recipe(electrics.switch, {"HS": _LINE, "QS": _GONE, "ZW": _FILM}, "paper", Wall(0.13)),
    "audiojack": Recipe(electrics.audiojack, {"BX": _BENT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "belt"),
    "plastic_nut": Recipe(
        hardware.plastic_nut, {"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "mat", Wall(0.12), 3.0
    ),
    "vcpill": Recipe(household.vcpill, {"AK": _PIT, "HS": _LINE, "QS": _CHUNK, "ZW": _FILM}, "belt"),
    "woodstick": Recipe(
        household.woodstick, {"AK": _PIT, "HS": _LINE, "QS": ("chip", "missing"), "ZW": _FILM}, "mat", Wall(0.02)
    ),
    "mounts": Recipe(hardware.mounts, {"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.09)),
    "end_cap": Recipe(hardware.end_cap, {"HS": _LINE, "PS": _BROKEN, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.14)),
    "regulator": Recipe(hardware.regulator, {"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.1)),
    "rolled_strip_base": Recipe(hardware.rolled_strip_base, {"AK": _PIT, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.04)),
    "sim_card_set": Recipe(electrics.sim_card_set, {"CH": _RUB, "HS": _LINE, "ZW": _FILM}, "mat", Wall(0.012)),
    "toothbrush": Recipe(household.toothbrush, {"CH": _RUB, "QS": _GONE, "ZW": _FILM}, "belt", Wall(0.06)),
    "toy": Recipe(household.toy, {"AK": _PIT, "HS": _LINE, "QS": _GONE, "ZW": _FILM}, "table", Wall(0.1)),
    "usb_adaptor": Recipe(
        electrics.usb_adaptor, {"AK": _PIT, "CH": _RUB, "HS": _LINE, "ZW": _FILM}, "belt", Wall(0.16)
    ),
    "fire_hood": Recipe(
        hardware.fire_hood, {"AK": _PIT, "HS": _LINE, "QS": ("chip",), "ZW": _FILM}, "table", Wall(0.08), 3.0
    ),
    "porcelain_doll": Recipe(household.porcelain_doll, {"CH": _RUB, "HS": _LINE, "ZW": _FILM}, "mat", Wall(0.05)),
}
"""Recipes by category. The setting ``categories`` takes that many from the beginning."""
STAMP = "20231021130716"
"""Time stamp in the file names of rendered photographs."""


def _photographs(category: str, settings: Synthetic, seed: int) -> Iterator[RenderedPhoto]:
    recipe = RECIPES[category]
    numbers: dict[str, int] = {}
    for planned in plan_parts(recipe, settings.parts):
        folder = f"NG/{planned.label}" if planned.label else "OK"
        number = numbers[folder] = numbers.get(folder, 0) + 1
        part = Part(seed, BENCHMARK.name, category, planned.index, recipe, settings.size, planned.faults)
        name = f"{category}_{number:04d}_{folder.replace('/', '_')}"
        path = f"realiad_1024/{category}/{folder}/S{number:04d}/{name}"
        yield from take_photographs(part, [f"{path}_C{camera}_{STAMP}.jpg" for camera in range(1, settings.views + 1)])


def _files(category: str, shots: list[RenderedPhoto]) -> list[File]:
    files = [(f"realiad_jsons/{category}.json", _record(category, shots))]
    for shot in shots:
        files.append((shot.path, encode_jpg(shot.pixels)))
        if shot.labels:
            files.append((shot.path.replace(".jpg", ".png"), encode_png(to_binary(shot.mask))))
    return files


def _record(category: str, shots: list[RenderedPhoto]) -> bytes:
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


RENDERING = Rendering(BENCHMARK.name, lambda settings: list(RECIPES)[: settings.categories], _photographs, _files)

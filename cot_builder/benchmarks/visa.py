"""VisA, the Visual Anomaly dataset: 12 objects.

Licence: CC BY 4.0, by Amazon. Archive: ``VisA_20220922.tar``, 1.9 GB.

Layout::

    <object>/Data/Images/{Normal,Anomaly}/000.JPG
    <object>/Data/Masks/Anomaly/000.png
    <object>/image_anno.csv           image,label,mask: the types
    split_csv/1cls.csv                object,split,label,image,mask: the split

Quirks: masks contain class ids that differ by object, not 0/255. A label may be several types, joined by commas. The
split is only in the file, not in the folders.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from cot_builder.benchmarks.benchmark import Benchmark, ClassifiedPath, Entry, Files, Layout, Listing
from cot_builder.benchmarks.synthetic.defects import SURFACE_HARMS
from cot_builder.benchmarks.synthetic.parts import electrics, household
from cot_builder.benchmarks.synthetic.rendering import (
    CONTRASTS,
    Fault,
    File,
    Part,
    PlannedPart,
    Recipe,
    RenderedPhoto,
    Rendering,
    encode_jpg,
    plan_parts,
    take_photographs,
)
from cot_builder.params import PullSet, Synthetic
from cot_builder.storage.images import encode_png
from schemas.errors import IndusCotError

TEST = {
    "candle": (100, 100),
    "capsules": (60, 100),
    "cashew": (50, 100),
    "chewinggum": (50, 100),
    "fryum": (50, 100),
    "macaroni1": (100, 100),
    "macaroni2": (100, 100),
    "pcb1": (100, 100),
    "pcb2": (100, 100),
    "pcb3": (101, 100),
    "pcb4": (101, 100),
    "pipe_fryum": (50, 100),
}
"""Numbers of normal and anomalous test images by category, as published."""
LABELS: dict[str, tuple[str, ...]] = {
    "scratch": (
        "Scratch",
        "Scratches",
        "Small Scratches",
    ),
    "crack": (
        "Small Cracks",
        "cracked",
    ),
    "hole": ("Small Holes",),
    "discolouration": (
        "Discolor",
        "Different Colour Spot",
        "Different Color spot",
        "Similar Colour Spot",
        "Same Colour Spot",
        "Color spot similar to the Object",
        "Burnt",
    ),
    "bubble": ("Bubble",),
    "foreign_matter": (
        "Foreign Particals on Candle",
        "Extra Wax in Candle",
    ),
    "stain": ("Dirt",),
    "leak": ("Leak",),
    "broken": (
        "Corner or Edge Breakage",
        "Corner And Edge Breakage",
        "Middle Breakage",
        "Breakage down the middle",
        "Chip Around Edge And Corner",
        "Small chip around edge",
        "Chunk Of Wax Missing",
        "Chunk of gum missing",
        "Corner Missing",
        "Damaged Corner of Packaging",
        "Damage",
    ),
    "deformation": (
        "Bent",
        "Melt",
        "Misshape",
        "Wax Melded out of the candle",
    ),
    "missing_part": ("Missing",),
    "extra_part": ("Extra",),
    "misplaced": (
        "Wrong Place",
        "weird candle wick",
    ),
    "stuck_together": (
        "Stuck Together",
        "Fryum Stuck Together",
    ),
    "unspecified": (
        "Other",
        "bad",
        "anomaly",
    ),
}
"""Class names in ``image_anno.csv`` and masks, by type of the taxonomy."""
BENCHMARK = Benchmark(
    name="visa",
    title="VisA",
    licence="CC BY 4.0",
    redistribution="allowed",
    clause="CC BY 4.0, section 2(a)(1): may be shared, with attribution",
    attribution="VisA, (c) Amazon.com, Inc. or its affiliates, CC BY 4.0",
    citation="Zou, Jeong, Pemula, Zhang, Dabeer: SPot-the-difference self-supervised pre-training for anomaly "
    "detection and segmentation. ECCV 2022",
    homepage="https://github.com/amazon-science/spot-diff",
    labels=LABELS,
    archive="VisA_20220922.tar",
    sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
    published={("train", "normal"): 8659, ("test", "normal"): 962, ("test", "anomalous"): 1200},
    categories=tuple(TEST),
    published_test=TEST,
)
SPLIT = "split_csv/1cls.csv"
TYPES = "image_anno.csv"
UNNAMED = "anomaly"
_IMAGE = re.compile(r"(?:^|/)(?P<key>[^/]+/Data/Images/(?:Normal|Anomaly)/[^/]+\.(?:jpe?g|png))$", re.IGNORECASE)
_MASK = re.compile(r"(?:^|/)(?P<key>[^/]+/Data/Masks/Anomaly/[^/]+\.png)$", re.IGNORECASE)
_RECORD = re.compile(rf"(?:^|/)(?P<key>{SPLIT}|[^/]+/{TYPES})$")


def layout(_settings: PullSet, _files: Files) -> Layout:
    """Return the original layout, not the MVTec-like one that the script of the authors produces."""
    return Layout(classify_path, entries)


def classify_path(path: str) -> ClassifiedPath | None:
    """Classify a path as image, mask or record."""
    if match := _IMAGE.search(path):
        return ClassifiedPath("image", match["key"])
    if match := _MASK.search(path):
        return ClassifiedPath("mask", match["key"])
    if match := _RECORD.search(path):
        return ClassifiedPath("record", match["key"])
    return None


def entries(listing: Listing) -> Iterator[Entry]:
    """Yield one sample per row of the split file, with its type from ``image_anno.csv``.

    Raises:
        IndusCotError: the split file is missing or a row of it is invalid.
    """
    if SPLIT not in listing.records:
        raise IndusCotError(
            f"visa: no {SPLIT} in the source; it says which images are for training. "
            "Take it from the published archive, beside the folders of the objects"
        )
    types = {
        row["image"]: row["label"]
        for key, data in listing.records.items()
        if key.endswith(TYPES)
        for _, row in _rows(key, data, ("image", "label"))
    }
    for number, row in _rows(SPLIT, listing.records[SPLIT], ("object", "split", "label", "image", "mask")):
        where = f"{SPLIT} row {number}"
        if row["split"] not in ("train", "test"):
            raise IndusCotError(f"visa: {where}, column split: {row['split']!r} is neither train nor test")
        if row["label"] not in ("normal", "anomaly"):
            raise IndusCotError(f"visa: {where}, column label: unknown label {row['label']!r}; normal or anomaly")
        split: Literal["train", "test"] = "train" if row["split"] == "train" else "test"
        image = row["image"]
        if row["label"] == "normal":
            yield Entry(image, row["object"], split, "normal", where=where)
            continue
        kind = types.get(image)
        if kind is None and image in listing.images:
            listing.notes.append(("anomalous image without a type", image, f"{TYPES} does not name it"))
        yield Entry(image, row["object"], split, "anomalous", kind or UNNAMED, row["mask"] or None, where=where)


def _rows(name: str, data: bytes, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise IndusCotError(f"visa: {name} has no column {', '.join(missing)}; it is not the published file")
        for number, row in enumerate(reader, 2):
            if any(row[column] is None for column in columns):
                raise IndusCotError(
                    f"visa: {name} row {number} has too few cells; take the file again from the published archive"
                )
            yield number, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise IndusCotError(
            f"visa: {name} is not valid CSV ({error}); take it again from the published archive"
        ) from error


RECIPES = {
    "candle": Recipe(
        household.candle,
        {
            "chunk of wax missing": ("gouge",),
            "damaged corner of packaging": ("chip",),
            "different colour spot": ("discolour",),
            "foreign particals on candle": ("crumb",),
            "wax melded out of the candle": ("wax",),
            "weird candle wick": ("missing",),
        },
        "mat",
        spin=0.03,
        aspect=0.75,
        zoom=0.82,
    ),
    "macaroni1": Recipe(
        household.macaroni,
        {
            "chip around edge and corner": ("chip",),
            "different colour spot": ("discolour",),
            "middle breakage": ("crack",),
            "small cracks": ("crack",),
            "small scratches": ("scratch",),
        },
        "belt",
        spin=0.03,
        aspect=0.75,
        zoom=0.82,
    ),
    "pcb1": Recipe(
        electrics.pcb,
        {"bent": ("bent",), "melt": ("glue",), "missing": ("missing",), "scratch": ("scratch",)},
        "table",
        spin=0.04,
        aspect=0.75,
        zoom=0.95,
    ),
}
CLASS_IDS = {
    "candle": (
        "chunk of wax missing",
        "damaged corner of packaging",
        "weird candle wick",
        "different colour spot",
        "extra wax in candle",
        "foreign particals on candle",
        "wax melded out of the candle",
        "other",
    ),
    "macaroni1": (
        "chip around edge and corner",
        "different colour spot",
        "middle breakage",
        "similar colour spot",
        "small cracks",
        "small scratches",
        "other",
    ),
    "pcb1": ("bent", "melt", "scratch", "missing"),
}
"""Labels of the rendered objects in lower case, in the order of their ids in masks, which begin at 1."""


def _plan(category: str, settings: Synthetic) -> Iterator[tuple[PlannedPart, str]]:
    """Yield the parts of an object, each with the path of its image."""
    numbers: dict[str, int] = {}
    for planned in plan_parts(RECIPES[category], settings.parts):
        folder = "Anomaly" if planned.label else "Normal"
        number = numbers[folder] = numbers.get(folder, -1) + 1
        yield planned, f"{category}/Data/Images/{folder}/{number:03d}.JPG"


def _photographs(category: str, settings: Synthetic, seed: int) -> Iterator[RenderedPhoto]:
    recipe = RECIPES[category]
    for planned, path in _plan(category, settings):
        faults = planned.faults
        if planned.index == settings.parts - 1:
            # Add a second fault, because VisA has images with several types, joined by commas.
            other = next(
                label for label, kinds in recipe.defects.items() if label != planned.label and kinds[0] in SURFACE_HARMS
            )
            faults += (Fault(other, recipe.defects[other][0], CONTRASTS[-1]),)
        part = Part(seed, BENCHMARK.name, category, planned.index, recipe, settings.size, faults)
        yield from take_photographs(part, [path])


def _mask_path(image: str) -> str:
    return image.replace("/Images/", "/Masks/").replace(".JPG", ".png")


def _files(category: str, shots: list[RenderedPhoto]) -> list[File]:
    files: list[File] = []
    rows: list[tuple[str, str, str]] = []
    for shot in shots:
        files.append((shot.path, encode_jpg(shot.pixels)))
        mask = _mask_path(shot.path) if shot.labels else ""
        if mask:
            ids = np.array([0, *(CLASS_IDS[category].index(label) + 1 for label in shot.labels)], np.uint8)
            files.append((mask, encode_png(ids[shot.mask])))
        rows.append((shot.path, ",".join(shot.labels) or "normal", mask))
    files.append((f"{category}/{TYPES}", _encode_csv(("image", "label", "mask"), rows)))
    return files


def _split(settings: Synthetic) -> list[File]:
    rows = [
        (
            category,
            "train" if planned.trains else "test",
            "anomaly" if planned.label else "normal",
            path,
            _mask_path(path) if planned.label else "",
        )
        for category in RECIPES
        for planned, path in _plan(category, settings)
    ]
    return [(SPLIT, _encode_csv(("object", "split", "label", "image", "mask"), rows))]


def _encode_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


RENDERING = Rendering(BENCHMARK.name, lambda _: list(RECIPES), _photographs, _files, _split)

"""VisA, the Visual Anomaly dataset: 12 objects.

Licence: CC BY 4.0, by Amazon. Archive: ``VisA_20220922.tar``, 1.9 GB.

Layout::

    <object>/Data/Images/{Normal,Anomaly}/000.JPG
    <object>/Data/Masks/Anomaly/000.png
    <object>/image_anno.csv           image,label,mask: names the types
    split_csv/1cls.csv                object,split,label,image,mask: is the split

Quirks: masks hold class ids that differ by object, not 0/255; a type may be several, comma-joined; the split
is the file's and cannot be told from the folders.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Literal

from cot_builder.benchmarks.benchmark import Benchmark, Entry, Layout, Listing, Place
from cot_builder.params import PullSet
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
"""Normal and anomalous test images by category, as published."""
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


def layout(_settings: PullSet, _records: Mapping[str, bytes]) -> Layout:
    """VisA's own layout, not the MVTec-like one that its authors' script rearranges it to."""
    return Layout(place, entries)


def place(path: str) -> Place | None:
    """Image, mask or record of a path in VisA's layout."""
    if match := _IMAGE.search(path):
        return Place("image", match["key"])
    if match := _MASK.search(path):
        return Place("mask", match["key"])
    if match := _RECORD.search(path):
        return Place("record", match["key"])
    return None


def entries(listing: Listing) -> Iterator[Entry]:
    """One sample a row of the split file, with the type that ``image_anno.csv`` has for it.

    Raises:
        IndusCotError: there is no split file, or a row of it is wrong.
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
                raise IndusCotError(f"visa: {name} row {number} is cut short")
            yield number, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise IndusCotError(f"visa: {name} is no readable CSV ({error})") from error

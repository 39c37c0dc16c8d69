"""Builds the samples of a data set from its entries and the files of a copy."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cot_builder.benchmarks.benchmark import Benchmark, Entry, Listing
from cot_builder.benchmarks.labels import explain_adding_label, map_label
from cot_builder.benchmarks.mask import Mask, Region, band_rows
from cot_builder.storage.header import Header
from cot_builder.storage.output import Output
from schemas.errors import IndusCotError
from schemas.geometry import Box, from_pixels

MAX_NAME = 200
SHOWN = 20


class StoredImage(NamedTuple):
    """An image of the source, stored in a shard."""

    header: Header
    sha256: str
    shard: str
    row: int


class StoredMask(NamedTuple):
    """A mask of the source, stored in a shard."""

    mask: Mask
    shard: str
    row: int


@dataclass
class SourceContent:
    """Files found in a source, by key."""

    images: dict[str, StoredImage] = field(default_factory=dict)
    masks: dict[str, StoredMask] = field(default_factory=dict)
    damaged_images: set[str] = field(default_factory=set)
    damaged_masks: set[str] = field(default_factory=set)
    records: dict[str, bytes] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    unrecognised: list[str] = field(default_factory=list)
    """Paths of images that the layout does not recognise."""

    def listing(self) -> Listing:
        """Return the keys of all files. Damaged files are included, because they count if files are paired by order."""
        return Listing(
            self.images.keys() | self.damaged_images, self.masks.keys() | self.damaged_masks, self.records, self.other
        )


class Row(NamedTuple):
    """One sample with its stored image and mask."""

    sample_id: str
    entry: Entry
    image: StoredImage
    size: tuple[int, int]
    region: tuple[int, int, int, int] | None
    split: str
    label: str
    raw_type: str | None
    part: str
    found: Region | None
    mask: StoredMask | None


@dataclass
class Report:
    """Collects what is left out and what is kept with a warning. In a strict run, either of them raises an error."""

    output: Output
    warnings: list[tuple[str, str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Invalid values of a table, which are reported together."""

    def leave_out(self, reason: str, item: str, detail: str = "") -> None:
        """Record that an item is left out.

        Raises:
            IndusCotError: the run is strict.
        """
        self.output.leave_out(reason, item, detail)

    def warn(self, reason: str, item: str, detail: str = "") -> None:
        """Record a warning about an item that is kept.

        Raises:
            IndusCotError: the run is strict.
        """
        if self.output.strict:
            tail = f" ({detail})" if detail else ""
            raise IndusCotError(f"{item}: {reason}{tail}; strict runs stop here (run.strict)")
        self.warnings.append((reason, item, detail))


def build_rows(
    name: str, benchmark: Benchmark, entries: Iterable[Entry], found: SourceContent, report: Report
) -> list[Row]:
    """Build the samples of the set ``name``. Inconsistencies between entries and files are reported.

    Raises:
        IndusCotError: boxes of a table are outside their images, or a strict run finds an inconsistency.
    """
    rows: list[Row] = []
    missing_by_category: dict[str, list[Entry]] = {}
    named: set[str | None] = set()
    doubted: set[str] = set()
    for entry in entries:
        named |= {entry.image, entry.mask}
        if entry.image in found.images:
            mask = _find_mask(entry, found, report, doubted)
            row = _build_row(name, benchmark, entry, found.images[entry.image], mask, report)
            rows += [row] if row else []
        elif entry.image not in found.damaged_images:
            missing_by_category.setdefault(entry.category, []).append(entry)
    if report.problems:
        more = f"\n  … and {len(report.problems) - SHOWN} more" if len(report.problems) > SHOWN else ""
        raise IndusCotError(f"{len(report.problems)} wrong value(s):\n  " + "\n  ".join(report.problems[:SHOWN]) + more)
    here = {row.entry.category for row in rows}
    for category, missing in missing_by_category.items():
        if category in here:
            for entry in missing:
                report.leave_out("listed and absent", entry.image, entry.where)
        else:
            report.leave_out("category listed and absent", category, f"{len(missing)} listed images")
    for key in sorted(found.images.keys() - named):
        report.leave_out("present and unlisted", key, f"{benchmark.name} has no record of it")
    for key in sorted(found.masks.keys() - named):
        report.leave_out("mask without an image", key)
    return rows


def _find_mask(entry: Entry, found: SourceContent, report: Report, doubted: set[str]) -> StoredMask | None:
    """Return the mask of the entry if it is usable. Otherwise warn once per mask and return None."""
    if entry.mask is None:
        return None
    mask, image = found.masks.get(entry.mask), found.images[entry.image].header
    detail = "the image is kept without boxes" if entry.label else "the image is left out: its label is unknown"
    if mask is None:
        reason = "damaged mask" if entry.mask in found.damaged_masks else "missing mask"
    elif (mask.mask.width, mask.mask.height) != (image.width, image.height):
        reason = "mask of another size"
        detail = f"{mask.mask.width} x {mask.mask.height}, the image is {image.width} x {image.height}; {detail}"
    else:
        return mask
    if entry.mask not in doubted:
        doubted.add(entry.mask)
        report.warn(reason, entry.mask, detail)
    return None


def _build_row(
    name: str, benchmark: Benchmark, entry: Entry, image: StoredImage, mask: StoredMask | None, report: Report
) -> Row | None:
    width, height = image.header.width, image.header.height
    key, region = entry.image, None
    if benchmark.bands > 1:
        top, bottom = band_rows(entry.band, benchmark.bands, height)
        region, height = (0, top, width, bottom), bottom - top
        key = f"{entry.image}#{entry.band}"
    sample_id = f"{name}/{entry.category}/{_short_hash(key)}"
    if max(len(sample_id), len(entry.view)) > MAX_NAME:
        report.leave_out("category or view too long", key, f"over {MAX_NAME} characters together with the set's name")
        return None
    marked = mask.mask.bands[entry.band] if mask else None
    label, split = entry.label, entry.split
    if label is None:
        if marked is None:
            report.leave_out("label unknown", key, f"the label depends on the mask {entry.mask}, which is unusable")
            return None
        label = "anomalous" if marked.area_fraction else "normal"
        split = "test" if label == "anomalous" else split
        if entry.listed and entry.listed != label:
            report.warn(
                "label differs from the published list", key, f"{label} by its mask, {entry.listed} by the list"
            )
    elif label == "anomalous" and marked is not None and not marked.boxes:
        report.warn("empty mask", str(entry.mask), "the image is kept without boxes")
    if label == "normal":
        marked = mask = None
    if entry.boxes and marked is None:
        try:
            marked = Region(
                tuple(from_pixels(box, width, height) for box in entry.boxes), _measure_area(entry.boxes, image)
            )
        except ValueError as error:
            report.problems.append(f"{entry.where}, column boxes: {error}")
            return None
    return Row(
        sample_id=sample_id,
        entry=entry,
        image=image,
        size=(width, height),
        region=region,
        split=split,
        label=label,
        raw_type=entry.raw_type if label == "anomalous" else None,
        part=f"{entry.category}/{_short_hash(entry.part if entry.part is not None else entry.image)}",
        found=marked,
        mask=mask,
    )


def _measure_area(boxes: Iterable[Box], image: StoredImage) -> float:
    covered = np.zeros((image.header.height, image.header.width), bool)
    for x1, y1, x2, y2 in boxes:
        covered[y1:y2, x1:x2] = True
    return float(covered.mean())


DuplicateImage = tuple[str, str, str, str]
"""sha256, path, label and sample id of a sample whose image is byte-identical to that of another one."""


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def map_defect_types(benchmark: str, rows: list[Row]) -> dict[str, str]:
    """Return the type of each label that occurs in the rows.

    Raises:
        IndusCotError: labels are unknown; the message lists them all.
    """
    labels = Counter(row.raw_type for row in rows if row.raw_type is not None)
    types: dict[str, str] = {}
    unknown: list[str] = []
    for label, count in sorted(labels.items()):
        try:
            types[label] = map_label(benchmark, label)
        except IndusCotError:
            unknown.append(f"{label!r} ({count} images)")
    if unknown:
        raise IndusCotError(
            f"{benchmark}: {len(unknown)} defect label(s) that the taxonomy does not know: {', '.join(unknown[:SHOWN])}"
            f". Correct them in the data; to make one known, {explain_adding_label(benchmark)}"
        )
    return types


def group_physical_parts(rows: list[Row]) -> tuple[dict[str, str], list[DuplicateImage]]:
    """Merge parts that share a byte-identical image.

    Returns:
        The physical part of each part name, and the samples with a duplicated image.
    """
    leader: dict[str, str] = {}

    def find_leader(part: str) -> str:
        while (above := leader.setdefault(part, part)) != part:
            part = above
        return part

    first: dict[str, Row] = {}
    repeated: dict[str, list[Row]] = {}
    for row in rows:
        known = first.setdefault(row.image.sha256, row)
        if known.entry.image != row.entry.image:
            repeated.setdefault(row.image.sha256, []).append(row)
        low, high = sorted((find_leader(known.part), find_leader(row.part)))
        leader[high] = low
    duplicates = [
        (row.image.sha256, row.entry.image, row.label, row.sample_id) for row in rows if row.image.sha256 in repeated
    ]
    return {row.part: find_leader(row.part) for row in rows}, sorted(duplicates)

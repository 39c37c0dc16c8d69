"""A table, ``.csv`` (comma or semicolon) or ``.jsonl``, named as the source or found in it, one row an image:

======== ========= ===========================================================================================
column   needed    holds
======== ========= ===========================================================================================
image    yes       path relative to the table's folder
label    yes       normal (or good, ok, 0) or anomalous (or bad, ng, defect, defective, anomaly, 1)
mask     no        path relative to the table's folder; a pixel > 0 is a defect; of a JPEG, >= 128
boxes    no        pixels of the image, half-open: ``x1 y1 x2 y2; x1 y1 x2 y2`` in CSV, a list of lists in JSONL;
                   read where there is no mask
type     no        a type of the taxonomy or any label it knows; ``bad`` (unspecified) where empty
category no        where empty the image's first folder, unless the folders tell the label (``bad/0.png``): then, and
                   where there is no folder, the table's folder
view     no        ``default`` where empty
part     no        name of the physical part; each image is a part of its own where empty
split    no        train or test; where empty, train for a training source and test for a set to evaluate on
======== ========= ===========================================================================================

A column that resembles one of these and is none is refused; any other is told, once, and not read.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, partial
from typing import Any

from cot_builder.benchmarks.benchmark import IMAGE_SUFFIXES, ClassifiedPath, Entry, Files, Layout, Listing, path_within
from cot_builder.benchmarks.forms.verdicts import LABELS, tells_the_label
from cot_builder.params import PullSet
from schemas.errors import IndusCotError

FORM = "a table, .csv or .jsonl"
NEEDED = ("image", "label")
COLUMNS = (*NEEDED, "mask", "boxes", "type", "category", "view", "part", "split")
SURPLUS = "\0"
"""Stands for the cells of a row that lie beyond the header."""
UNNAMED = "bad"
SHOWN = 20
ALIASES = {
    "box": "boxes", "bbox": "boxes", "defect": "type", "kind": "type", "defect class": "type", "segmentation": "mask",
    "object": "category", "product": "category", "camera": "view", "subset": "split",
}  # fmt: skip
BESIDES = {
    "anomaly", "bounding", "camera", "data", "defect", "fault", "file", "gt", "id", "image", "img", "name", "no",
    "number", "object", "path", "physical", "sample",
}  # fmt: skip
"""Words beside a column's name that make no other column of it: ``mask_path``, ``part_id``, ``bounding_boxes``."""


def is_record(path: str) -> bool:
    """A file that may be a table."""
    return path.lower().endswith((".csv", ".jsonl"))


def read(settings: PullSet, files: Files) -> Layout | None:
    """The layout of the tables: of the one that the source names, else of all there are; None where none is one.

    Raises:
        IndusCotError: naming file, row and column of every wrong row, up to 20.
    """
    named = settings.source if isinstance(settings.source, str) else ""
    tables = {key: data for path, data in files.records.items() if (key := path_within(path)) and _is_named(key, named)}
    found: list[Entry] = []
    unnamed: dict[int, tuple[str, str]] = {}
    notes: list[tuple[str, str, str]] = []
    problems: list[str] = []
    counted = 0
    for key, data in sorted(tables.items()):
        rows = _read(key, data, must=bool(_table_name(named)))
        if rows is None:
            continue
        counted += 1
        _check_columns(key, rows, problems, notes)
        for entry, folders in _entries(key, rows, settings, problems):
            if not entry.category:
                unnamed[len(found)] = folders
            found.append(entry)
    _raise(problems)
    if not counted:
        return None
    if not found:
        raise IndusCotError(f"{', '.join(sorted(tables))}: the table has no row")
    for index, category in _categories(found, unnamed, settings, notes).items():
        found[index] = replace(found[index], category=category)
    images = {entry.image for entry in found}
    masks = {entry.mask for entry in found if entry.mask}

    def entries(listing: Listing) -> Iterator[Entry]:
        listing.notes.extend(notes)
        yield from found

    return Layout(partial(_place, images=images, masks=masks), entries)


def _place(path: str, images: set[str], masks: set[str]) -> ClassifiedPath | None:
    key = path_within(path)
    if key in images:
        return ClassifiedPath("image", key)
    if key in masks:
        return ClassifiedPath("mask", key)
    return ClassifiedPath("unlisted", key) if key.lower().endswith(IMAGE_SUFFIXES) else None


def _table_name(source: str) -> str:
    name = source.replace("\\", "/").rpartition("/")[2]
    return name if name.lower().endswith((".csv", ".jsonl")) else ""


def _is_named(key: str, source: str) -> bool:
    return key == _table_name(source) if _table_name(source) else key.lower().endswith((".csv", ".jsonl"))


def _read(key: str, data: bytes, must: bool) -> list[tuple[int, dict[str, Any]]] | None:
    """Numbered rows of a table; None for a file that is none (an error if it ``must`` be)."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IndusCotError(f"{key}: is not UTF-8 ({error}); save it as UTF-8") from error
    if key.lower().endswith(".jsonl"):
        rows = _json_rows(key, text)
        columns = set().union(*(row for _, row in rows)) if rows else set()
    else:
        columns, rows = _csv_rows(key, text)
    missing = [column for column in NEEDED if column not in columns]
    if missing and (must or len(missing) == 1):
        raise IndusCotError(
            f"{key}: has no column {', '.join(missing)}; its columns are {', '.join(sorted(columns)) or 'none'}. "
            f"A table has the columns {', '.join(NEEDED)} and may have {', '.join(COLUMNS[2:])}"
        )
    return None if missing else rows


def _csv_rows(key: str, text: str) -> tuple[set[str], list[tuple[int, dict[str, Any]]]]:
    """Columns and numbered rows; of a file without the needed columns, which may be anything, no rows."""
    first = text.partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    # Strict, or a quote that is never closed would swallow the rows after it.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows: list[tuple[int, dict[str, Any]]] = []
    read = 0
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise IndusCotError(f"{key}: has the column {', '.join(twice)} twice; keep one")
        if set(NEEDED) <= set(names):
            read = reader.line_num
            for row in reader:
                # A field with line breaks makes line numbers and row numbers differ: the line is what an editor shows.
                read = reader.line_num
                surplus = [cell for cell in row.pop(None, None) or () if cell.strip()]
                cells = {name.strip(): value for name, value in row.items()}
                rows.append((read, cells | ({SURPLUS: surplus} if surplus else {})))
    except csv.Error as error:
        rest = "".join(io.StringIO(text, newline="").readlines()[read:])
        column = _broken_column(rest, delimiter)
        named = names[column] if column < len(names) else str(column + 1)
        raise IndusCotError(
            f"{key} row {read + 1}, column {named}: is no CSV ({error}); "
            'close the quotes, and double those within a field: "4"" bolt"'
        ) from error
    return set(names), rows


def _broken_column(text: str, delimiter: str) -> int:
    """Index of the first field of ``text`` that is not quoted as CSV wants it."""
    sound = re.compile(rf'(?:"(?:[^"]|"")*"|(?!")[^{delimiter}\r\n]*){delimiter}')
    column = position = 0
    while match := sound.match(text, position):
        column, position = column + 1, match.end()
    return column


def _json_rows(key: str, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    # Not `splitlines`: JSON may hold U+2028 and others of its line ends within a text.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise IndusCotError(f"{key} row {number}: is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise IndusCotError(f"{key} row {number}: must be an object {{…}}, is {line[:40]!r}")
        rows.append((number, row))
    return rows


def _check_columns(
    key: str, rows: Sequence[tuple[int, dict[str, Any]]], problems: list[str], notes: list[tuple[str, str, str]]
) -> None:
    """Refuse columns that seem misspelt and cells beyond the header; note any other column that is not read."""
    unread: dict[str, None] = {}
    misspelt: set[str] = set()
    for number, row in rows:
        if surplus := row.pop(SURPLUS, None):
            problems.append(
                f"{key} row {number}: has more cells than the header has columns ({', '.join(map(repr, surplus))}); "
                "quote a field that holds the separator"
            )
        for column in sorted(row.keys() - set(COLUMNS) - {""} - misspelt):
            meant = _meant(column)
            if meant and meant not in row:
                misspelt.add(column)
                problems.append(
                    f"{key} row {number}: the column {column} is not known; if it holds {meant}, name it {meant}, "
                    "else name it otherwise"
                )
            else:
                unread[column] = None
    known = ", ".join(COLUMNS)
    notes += [("column not read", f"{key}: {column}", f"known are {known}") for column in sorted(unread)]


@cache
def _meant(column: str) -> str | None:
    """The known column that the name of an unknown one resembles."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
    core = [word for word in words if word not in BESIDES] or words
    name = " ".join(core)
    if found := ALIASES.get(name) or ALIASES.get(" ".join(words)):
        return found
    alike = [known for known in COLUMNS if abs(len(known) - len(name)) < 2]
    return next(iter(get_close_matches(name, alike, 1, 0.75)), None)


def _entries(
    key: str, rows: Iterable[tuple[int, dict[str, Any]]], settings: PullSet, problems: list[str]
) -> Iterator[tuple[Entry, tuple[str, str]]]:
    """The entries, and the folders an empty category may be named by: the image's first one, and the table's."""
    base = key.rpartition("/")[0]
    seen: dict[str, int] = {}
    for number, row in rows:
        where = f"{key} row {number}"
        values: dict[str, Any] = {}
        for column, parse in _PARSERS.items():
            try:
                values[column] = parse(row.get(column))
            except ValueError as error:
                problems.append(f"{where}, column {column}: {error}")
        if len(values) < len(_PARSERS):
            continue
        image = f"{base}/{values['image']}" if base else values["image"]
        if image in seen:
            problems.append(f"{where}, column image: {values['image']!r} is in row {seen[image]} already")
        seen[image] = number
        anomalous = values["label"] == "anomalous"
        if not anomalous and values["boxes"]:
            problems.append(f"{where}, column boxes: a normal image has no box")
        mask = f"{base}/{values['mask']}" if base and values["mask"] else values["mask"]
        first = values["image"].partition("/")[0] if "/" in values["image"] else ""
        entry = Entry(
            image=image,
            category=values["category"] or "",
            split=values["split"] or ("train" if settings.role == "train" else "test"),
            label=values["label"],
            raw_type=(values["type"] or UNNAMED) if anomalous else None,
            mask=mask if anomalous else None,
            view=values["view"] or "default",
            part=values["part"],
            boxes=values["boxes"],
            where=where,
        )
        yield entry, (first, base.rpartition("/")[2])


def _categories(
    found: Sequence[Entry],
    unnamed: Mapping[int, tuple[str, str]],
    settings: PullSet,
    notes: list[tuple[str, str, str]],
) -> dict[int, str]:
    """A category for each entry that has none: its folder's name, unless the folders tell the label.

    A student reads the category, so no folder may be one that says good or bad, or a type of defect, or that holds
    nothing but defects where others do not.
    """
    source = _source_name(settings)
    named: dict[int, str] = {}
    for level in (0, 1):
        named = {index: next(filter(None, folders[level:]), source) for index, folders in unnamed.items()}
        labels: dict[str, set[str | None]] = {}
        for index, name in named.items():
            labels.setdefault(name, set()).add(found[index].label)
        telling = sorted(
            name
            for name, held in labels.items()
            if tells_the_label(name) or (len(labels) > 1 and held == {"anomalous"})
        )
        if not telling:
            return named
        what = f"such as {telling[0]}: give a column category"
        notes.append(("folders tell the label and name no category", ", ".join(telling[:SHOWN]), what))
    return dict.fromkeys(unnamed, "parts" if tells_the_label(source) else source)


def _source_name(settings: PullSet) -> str:
    source = settings.source if isinstance(settings.source, str) else settings.source[0]
    parts = [part for part in source.replace("\\", "/").split("/") if part]
    if _table_name(source):
        parts.pop()
    return (parts[-1].partition(".")[0] if parts else "") or "parts"


def _raise(problems: list[str]) -> None:
    if problems:
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise IndusCotError(f"{len(problems)} wrong value(s):\n  " + "\n  ".join(problems[:SHOWN]) + more)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | dict | bool):
        raise ValueError(f"{value!r} is no text")
    return unicodedata.normalize("NFC", str(value).strip()) or None


def _path(value: Any) -> str | None:
    text = _text(value)
    if text is None:
        return None
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if text.startswith(("/", "\\")) or ".." in parts or text[1:3] in (":\\", ":/"):
        raise ValueError(f"{text!r} must be relative to the table's folder and lie in it")
    return "/".join(parts)


def _image(value: Any) -> str:
    path = _path(value)
    if not path:
        raise ValueError("is empty; every row needs one")
    return path


def _label(value: Any) -> str:
    text = _text(value) or ""
    if text.lower() not in LABELS:
        raise ValueError(f"unknown label {text!r}; use normal or anomalous")
    return LABELS[text.lower()]


def _split(value: Any) -> str | None:
    text = _text(value)
    if text not in (None, "train", "test"):
        raise ValueError(f"{text!r} is neither train nor test")
    return text


def _boxes(value: Any) -> tuple[tuple[int, int, int, int], ...]:
    if value is None or value == "":
        return ()
    boxes = (
        [part.replace(",", " ").split() for part in value.split(";") if part.strip()]
        if isinstance(value, str)
        else value
    )
    if not isinstance(boxes, list):
        raise ValueError(f"{value!r} is no list of boxes; write [[x1, y1, x2, y2], …] in pixels")
    result = []
    for box in boxes:
        try:
            edges = [float(number) for number in box]
            x1, y1, x2, y2 = map(round, edges)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{value!r} is no list of boxes; write pixels as x1 y1 x2 y2; x1 y1 x2 y2") from None
        if max(edges) <= 1 and edges != [x1, y1, x2, y2]:
            raise ValueError(f"{value!r} has shares of the image; write pixels as x1 y1 x2 y2; x1 y1 x2 y2")
        if not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise ValueError(f"box {x1} {y1} {x2} {y2} must have 0 <= x1 < x2 and 0 <= y1 < y2")
        result.append((x1, y1, x2, y2))
    return tuple(result)


_PARSERS = {
    "image": _image,
    "label": _label,
    "mask": _path,
    "boxes": _boxes,
    "type": _text,
    "category": _text,
    "view": _text,
    "part": _text,
    "split": _split,
}

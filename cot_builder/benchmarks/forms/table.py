"""A table with one row per image, ``.csv`` (comma or semicolon) or ``.jsonl``. It is the source or a file in it.

======== ========= ===========================================================================================
column   needed    holds
======== ========= ===========================================================================================
image    yes       path relative to the table's folder
label    yes       normal (or good, ok, 0) or anomalous (or bad, ng, defect, defective, anomaly, 1)
mask     no        path relative to the table's folder; a pixel > 0 is a defect; of a JPEG, >= 128
boxes    no        half-open boxes in pixels: ``x1 y1 x2 y2; x1 y1 x2 y2`` in CSV, a list of lists in JSONL;
                   ignored if there is a mask
type     no        a type of the taxonomy or any known label; ``bad`` (unspecified) if empty
category no        if empty, the first folder of the image. If the folders reveal the label (``bad/0.png``) or there
                   is no folder, the folder of the table
view     no        ``default`` if empty
part     no        name of the physical part; if empty, each image is a separate part
split    no        train or test; if empty, train for a set with the role train, otherwise test
======== ========= ===========================================================================================

An unknown column whose name resembles one of these is rejected. Other unknown columns are reported once and ignored.
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
"""Key for the cells of a row beyond the last column of the header."""
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
"""Words in the name of a column that do not change its meaning: ``mask_path``, ``part_id``, ``bounding_boxes``."""


def is_record(path: str) -> bool:
    """Return whether the file may be a table, by its suffix."""
    return path.lower().endswith((".csv", ".jsonl"))


def read(settings: PullSet, files: Files) -> Layout | None:
    """Return the layout of the table that the source names, or of all tables in the source; None without a table.

    Raises:
        IndusCotError: the message lists file, row and column of the invalid values, up to 20.
    """
    named = settings.source if isinstance(settings.source, str) else ""
    tables = {key: data for path, data in files.records.items() if (key := path_within(path)) and _is_named(key, named)}
    found: list[Entry] = []
    unnamed: dict[int, tuple[str, str]] = {}
    notes: list[tuple[str, str, str]] = []
    problems: list[str] = []
    counted = 0
    for key, data in sorted(tables.items()):
        rows = _read_rows(key, data, must=bool(_table_name(named)))
        if rows is None:
            continue
        counted += 1
        _check_columns(key, rows, problems, notes)
        for entry, folders in _parse_entries(key, rows, settings, problems):
            if not entry.category:
                unnamed[len(found)] = folders
            found.append(entry)
    _raise_if_any(problems)
    if not counted:
        return None
    if not found:
        raise IndusCotError(f"{', '.join(sorted(tables))}: the table has no row")
    for index, category in _fill_categories(found, unnamed, settings, notes).items():
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


def _read_rows(key: str, data: bytes, must: bool) -> list[tuple[int, dict[str, Any]]] | None:
    """Read the rows of a table with their numbers; None if the file is no table (an error if it ``must`` be one)."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IndusCotError(f"{key}: is not UTF-8 ({error}); save it as UTF-8") from error
    if key.lower().endswith(".jsonl"):
        rows = _read_json_rows(key, text)
        columns = set().union(*(row for _, row in rows)) if rows else set()
    else:
        columns, rows = _read_csv_rows(key, text)
    missing = [column for column in NEEDED if column not in columns]
    if missing and (must or len(missing) == 1):
        raise IndusCotError(
            f"{key}: has no column {', '.join(missing)}; its columns are {', '.join(sorted(columns)) or 'none'}. "
            f"A table has the columns {', '.join(NEEDED)} and may have {', '.join(COLUMNS[2:])}"
        )
    return None if missing else rows


def _read_csv_rows(key: str, text: str) -> tuple[set[str], list[tuple[int, dict[str, Any]]]]:
    """Read the columns and the numbered rows. A CSV file without the needed columns is no table: read no rows then."""
    first = text.partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    # Parse strictly: otherwise an unclosed quote would swallow the rows after it.
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
                # Count lines, not rows, because that is what an editor shows. Line breaks in fields make them differ.
                read = reader.line_num
                surplus = [cell for cell in row.pop(None, None) or () if cell.strip()]
                cells = {name.strip(): value for name, value in row.items()}
                rows.append((read, cells | ({SURPLUS: surplus} if surplus else {})))
    except csv.Error as error:
        rest = "".join(io.StringIO(text, newline="").readlines()[read:])
        column = _find_broken_column(rest, delimiter)
        named = names[column] if column < len(names) else str(column + 1)
        raise IndusCotError(
            f"{key} row {read + 1}, column {named}: is not valid CSV ({error}); "
            'close the quotes, and double those within a field: "4"" bolt"'
        ) from error
    return set(names), rows


def _find_broken_column(text: str, delimiter: str) -> int:
    """Return the index of the first field of ``text`` that is not quoted correctly."""
    sound = re.compile(rf'(?:"(?:[^"]|"")*"|(?!")[^{delimiter}\r\n]*){delimiter}')
    column = position = 0
    while match := sound.match(text, position):
        column, position = column + 1, match.end()
    return column


def _read_json_rows(key: str, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    # Do not use `splitlines`: it also splits at U+2028 and other characters that JSON texts may contain.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise IndusCotError(f"{key} row {number}: is not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise IndusCotError(f"{key} row {number}: must be an object {{…}}, is {line[:40]!r}")
        rows.append((number, row))
    return rows


def _check_columns(
    key: str, rows: Sequence[tuple[int, dict[str, Any]]], problems: list[str], notes: list[tuple[str, str, str]]
) -> None:
    """Reject misspelt columns and cells beyond the header. Note the other columns that are ignored."""
    unread: dict[str, None] = {}
    misspelt: set[str] = set()
    for number, row in rows:
        if surplus := row.pop(SURPLUS, None):
            problems.append(
                f"{key} row {number}: has more cells than the header has columns ({', '.join(map(repr, surplus))}); "
                "quote fields that contain the separator"
            )
        for column in sorted(row.keys() - set(COLUMNS) - {""} - misspelt):
            meant = _guess_column(column)
            if meant and meant not in row:
                misspelt.add(column)
                problems.append(
                    f"{key} row {number}: unknown column {column}; rename it to {meant} if that is its content, "
                    "otherwise choose a less similar name"
                )
            else:
                unread[column] = None
    known = ", ".join(COLUMNS)
    notes += [("column not read", f"{key}: {column}", f"known are {known}") for column in sorted(unread)]


@cache
def _guess_column(column: str) -> str | None:
    """Return the known column that the name of an unknown column resembles, or None."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
    core = [word for word in words if word not in BESIDES] or words
    name = " ".join(core)
    if found := ALIASES.get(name) or ALIASES.get(" ".join(words)):
        return found
    alike = [known for known in COLUMNS if abs(len(known) - len(name)) < 2]
    return next(iter(get_close_matches(name, alike, 1, 0.75)), None)


def _parse_entries(
    key: str, rows: Iterable[tuple[int, dict[str, Any]]], settings: PullSet, problems: list[str]
) -> Iterator[tuple[Entry, tuple[str, str]]]:
    """Yield each entry with the folders that can replace an empty category: the first of the image, the table's."""
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


def _fill_categories(
    found: Sequence[Entry],
    unnamed: Mapping[int, tuple[str, str]],
    settings: PullSet,
    notes: list[tuple[str, str, str]],
) -> dict[int, str]:
    """Return a category for each entry without one: the name of its folder, unless the folders reveal the label.

    The student reads the category. So a folder is unsuitable if its name says good or bad or a type of defect, or if it
    contains only defects while other folders do not.
    """
    source = _get_source_name(settings)
    named: dict[int, str] = {}
    for level in (0, 1):
        named = {index: next(filter(None, folders[level:]), source) for index, folders in unnamed.items()}
        labels: dict[str, set[str | None]] = {}
        for index, name in named.items():
            labels.setdefault(name, set()).add(found[index].label)
        revealing = sorted(
            name
            for name, found_labels in labels.items()
            if tells_the_label(name) or (len(labels) > 1 and found_labels == {"anomalous"})
        )
        if not revealing:
            return named
        what = f"such as {revealing[0]}: give a column category"
        notes.append(("folders tell the label and name no category", ", ".join(revealing[:SHOWN]), what))
    return dict.fromkeys(unnamed, "parts" if tells_the_label(source) else source)


def _get_source_name(settings: PullSet) -> str:
    source = settings.source if isinstance(settings.source, str) else settings.source[0]
    parts = [part for part in source.replace("\\", "/").split("/") if part]
    if _table_name(source):
        parts.pop()
    return (parts[-1].partition(".")[0] if parts else "") or "parts"


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise IndusCotError(f"{len(problems)} wrong value(s):\n  " + "\n  ".join(problems[:SHOWN]) + more)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | dict | bool):
        raise ValueError(f"{value!r} is not a text")
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
        raise ValueError("is empty; every row needs an image")
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

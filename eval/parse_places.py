"""Boxes and types in a text (rule 12 of :mod:`eval.parse`)."""

import re

from cot_builder.benchmarks.labels import FOLDER, map_label
from eval.parse_json import find_objects, list_entries
from schemas.errors import IndusCotError
from schemas.geometry import SCALE, Box, check_box
from schemas.taxonomy import leaves


def find_boxes(text: str) -> list[Box]:
    """List the boxes of a text in 0-1000, each once (rule 12)."""
    found = []
    number = r"\s*(\d{1,4}(?:\.\d+)?|\.\d+)\s*"
    for match in re.finditer(rf"[\[(]{number},{number},{number},{number}[\])]", text):
        values = [float(value) for value in match.groups()]
        if max(values) <= 1 and any(not value.is_integer() for value in values):
            values = [value * SCALE for value in values]
        x1, y1, x2, y2 = (round(value) for value in values)
        try:
            box = check_box((x1, y1, x2, y2))
        except ValueError:
            continue
        if box not in found:
            found.append(box)
    return found


def find_type(text: str) -> str | None:
    """Find the last type of the taxonomy that is stated as one (rule 12)."""
    stated = re.findall(r"<type>([^<>]{1,80})</type>", text)
    for _, value in find_objects(text):
        stated += [
            entry
            for name, entry in list_entries(value)
            if isinstance(entry, str)
            and re.fullmatch(r"(?:defect|anomaly)?_?(?:type|category|kind)|defect|anomaly", name.casefold())
        ]
    stated += re.findall(r"^\W*(?:defect |anomaly )?type\W*:\W*([\w -]{1,60})", text, re.IGNORECASE | re.MULTILINE)
    return next((name for words in reversed(stated) if (name := find_leaf(words))), None)


def find_leaf(words: str) -> str | None:
    """Map words to a leaf of the taxonomy, by its name or a benchmark's label; None if there is no match."""
    name = words.strip(" .*`_").casefold()
    if name.replace(" ", "_") in leaves():
        return name.replace(" ", "_")
    try:
        return map_label(FOLDER, name)
    except IndusCotError:
        return None

"""JSON objects within a text, whole or beside what is broken."""

import json
from collections.abc import Iterator
from typing import Any

MOST_JSON = 200
"""Openings of objects that are tried; a text of more is not read to its end."""


def find_objects(text: str) -> Iterator[tuple[int, Any]]:
    """Objects in a text, outermost ones, with where they end; what is broken is left out."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(MOST_JSON):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            value, place = decoder.raw_decode(text, place)
            yield place, value
        except (ValueError, RecursionError):
            place += 1


def list_entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value, outer ones first; an object can be as deep as the decoder reads."""
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                yield from item.items()
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, dict | list)]

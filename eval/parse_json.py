"""JSON objects within a text, also beside invalid JSON."""

import json
from collections.abc import Iterator
from typing import Any

MAX_OBJECTS = 200
"""Maximum number of opening braces that are tried."""


def find_objects(text: str) -> Iterator[tuple[int, Any]]:
    """Yield the outermost valid objects of a text, each with its end position."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(MAX_OBJECTS):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            value, place = decoder.raw_decode(text, place)
            yield place, value
        except (ValueError, RecursionError):
            place += 1


def list_entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value, outer levels first; iterative, so that deep nesting cannot overflow the stack."""
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

"""The page of all tables and columns, from ``schemas/``."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

import schemas
from docs_build.markdown import attribute_docs, code, described_table, first_paragraph
from docs_build.parameters import describe_field, is_section
from schemas.metrics import Metrics, Overview
from schemas.table import Table
from schemas.trajectory import Trajectory

JSON_RECORDS = (Trajectory, Metrics, Overview)
"""Records that are stored as JSON, not as a table."""


def tables_page() -> str:
    """Every table with its key, columns and rules; then the records inside them, and those stored as JSON."""
    parts = [
        "# Tables and columns",
        "Generated from `schemas/`. Every table is a parquet file and is validated when it is written and when it is "
        "read. [Files](files.md) says which file holds which table. Boxes are `[x1, y1, x2, y2]`, integers 0–1000 of "
        "the inspected image. A column is never null unless its type says so.",
    ]
    tables = list(find_tables())
    shown: list[type[BaseModel]] = [item.record for item in tables]
    for item in tables:
        parts += [f"## {item.name}", first_paragraph(item.record.__doc__), f"Key: {', '.join(map(code, item.key))}."]
        parts.append(_columns(item.record))
        if item.rules:
            parts.append("\n".join(f"- `{rule.column}`: {rule.text}." for rule in item.rules))
    parts += ["## Records", "Records inside the tables above, and those that are stored as JSON."]
    for record in _nested([*shown, *JSON_RECORDS], set(shown)):
        parts += [f"### {record.__name__}", first_paragraph(record.__doc__), _columns(record)]
    return "\n\n".join(parts) + "\n"


def find_tables() -> Iterator[Table]:
    """Every table of ``schemas/``, in the order of the modules' names; the published one first."""
    found = {}
    for module in pkgutil.iter_modules(schemas.__path__):
        for value in vars(importlib.import_module(f"schemas.{module.name}")).values():
            if isinstance(value, Table):
                found[value.name] = value
    yield found.pop("indus_cot")
    yield from found.values()


def _columns(record: type[BaseModel]) -> str:
    docs = attribute_docs(record)
    rows = [(code(name), describe_field(info), docs.get(name, "")) for name, info in record.model_fields.items()]
    return described_table(["column", "type", "description"], rows)


def _nested(records: list[type[BaseModel]], known: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    for record in records:
        if record not in known:
            known.add(record)
            yield record
        inner = [
            part
            for info in record.model_fields.values()
            for part in _parts(info.annotation)
            if is_section(part) and part not in known
        ]
        yield from _nested(list(dict.fromkeys(inner)), known)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)

"""Defect types, their families, and the similarity of two types.

The tree is in ``taxonomy.yaml``: root, family, type (leaf). The module of each data set maps its labels to these types
(``cot_builder.benchmarks.labels``).
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from schemas.errors import IndusCotError

UNSPECIFIED = "unspecified"
SAME_FAMILY = 0.5
UNSPECIFIED_CREDIT = 0.25


@dataclass(frozen=True)
class DefectType:
    """A leaf of the taxonomy."""

    name: str
    family: str
    description: str
    iso8785: str | None
    """Term and clause of ISO 8785; None if it was not checked."""


def leaves() -> list[str]:
    """Return the names of all types, in the order of ``taxonomy.yaml``."""
    return list(_types())


def families() -> list[str]:
    """Return the names of all families, in the order of ``taxonomy.yaml``."""
    return list(dict.fromkeys(item.family for item in _types().values()))


def family(leaf: str) -> str:
    """Return the family of a type.

    Raises:
        IndusCotError: no such type.
    """
    return _type(leaf).family


def describe(leaf: str) -> str:
    """Return one line that describes how a type looks.

    Raises:
        IndusCotError: no such type.
    """
    return _type(leaf).description


def iso8785(leaf: str) -> str | None:
    """Return the term and clause of ISO 8785 for a type; None if it was not checked.

    Raises:
        IndusCotError: no such type.
    """
    return _type(leaf).iso8785


def similarity(a: str, b: str) -> float:
    """Return the similarity of two types: 1 if equal, 0.5 within a family, 0 otherwise. It is symmetric.

    This is the measure of Wu and Palmer (ACL 1994), ``2 depth(common ancestor) / (depth(a) + depth(b))``, with the
    root at depth 0, families at 1 and types at 2. ``unspecified`` is an exception: it names no kind of defect, so
    compared with any other type it is neither right nor wrong. It gets 0.25, less than a type of the right family.

    Raises:
        IndusCotError: no such type.
    """
    first, second = _type(a), _type(b)
    if first == second:
        return 1.0
    if UNSPECIFIED in (a, b):
        return UNSPECIFIED_CREDIT
    return SAME_FAMILY if first.family == second.family else 0.0


def _type(name: str) -> DefectType:
    try:
        return _types()[name]
    except KeyError:
        raise IndusCotError(f"unknown defect type {name!r}; the taxonomy has: {', '.join(leaves())}") from None


@cache
def _types() -> dict[str, DefectType]:
    tree: dict[str, Any] = yaml.safe_load(resources.files("schemas").joinpath("taxonomy.yaml").read_text("utf-8"))
    return {
        name: DefectType(name, family_name, entry["description"], entry.get("iso8785"))
        for family_name, branch in tree.items()
        for name, entry in branch["types"].items()
    }

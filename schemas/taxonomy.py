"""Defect types, their families, and how alike two types are.

The tree is ``taxonomy.yaml``: root, family, type (leaf). The module of a data set says which type each of its own
labels means (``cot_builder.benchmarks.labels``).
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
    """Term and clause of ISO 8785, where checked."""


def leaves() -> list[str]:
    """Names of all types, by family in the order of ``taxonomy.yaml``."""
    return list(_types())


def families() -> list[str]:
    """Names of all families in the order of ``taxonomy.yaml``."""
    return list(dict.fromkeys(item.family for item in _types().values()))


def family(leaf: str) -> str:
    """Family of a type.

    Raises:
        IndusCotError: no such type.
    """
    return _type(leaf).family


def describe(leaf: str) -> str:
    """One plain line on what a type looks like.

    Raises:
        IndusCotError: no such type.
    """
    return _type(leaf).description


def iso8785(leaf: str) -> str | None:
    """Term and clause of ISO 8785 for a type; None where none was checked.

    Raises:
        IndusCotError: no such type.
    """
    return _type(leaf).iso8785


def similarity(a: str, b: str) -> float:
    """How alike two types are: 1 the same, 0.5 of one family, 0 otherwise; symmetric, in [0, 1].

    This is Wu and Palmer's measure (ACL 1994), ``2 depth(common ancestor) / (depth(a) + depth(b))``, with the
    root at depth 0, families at 1 and types at 2. ``unspecified`` is apart: it names no kind, so beside
    any other type it is neither right nor wrong and has 0.25, less than naming the right family earns.

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

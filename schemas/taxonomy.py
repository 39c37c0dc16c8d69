"""Defect types, their families, each benchmark's own labels for them, and how alike two types are.

The tree is ``taxonomy.yaml``: root, family, type (leaf), raw labels by benchmark.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from schemas.errors import IndusCotError

UNSPECIFIED = "unspecified"
FOLDER = "folder"
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
    labels: dict[str, tuple[str, ...]]
    """Benchmark to the labels it uses for this type, as published."""


def leaves() -> list[str]:
    """Names of all types, by family in the order of ``taxonomy.yaml``."""
    return list(_types())


def families() -> list[str]:
    """Names of all families in the order of ``taxonomy.yaml``."""
    return list(dict.fromkeys(item.family for item in _types().values()))


def benchmarks() -> list[str]:
    """Benchmarks whose labels are known, ``folder`` (people's own data) last."""
    names = dict.fromkeys(name for item in _types().values() for name in item.labels)
    return [*(name for name in names if name != FOLDER), FOLDER]


def labels(benchmark: str) -> dict[str, str]:
    """Each raw label of ``benchmark``, as published, to its type.

    Raises:
        IndusCotError: no such benchmark.
    """
    if benchmark not in benchmarks():
        raise IndusCotError(f"taxonomy: no benchmark {benchmark!r}; there are {', '.join(benchmarks())}")
    return {label: item.name for item in _types().values() for label in item.labels.get(benchmark, ())}


def leaf(benchmark: str, raw_label: str) -> str:
    """Type of a benchmark's own label, compared without regard to case, spaces, hyphens and underscores.

    A comma-joined combination (VisA has them) is the one type its members share, or ``unspecified``.
    For ``folder`` every type's own name and every label of any benchmark is known.

    Raises:
        IndusCotError: the label is not in the taxonomy.
    """
    known = _index(benchmark)
    parts = [part for part in raw_label.split(",") if part.strip()] or [raw_label]
    for part in parts:
        if _normalise(part) not in known:
            whole = f" (in {raw_label!r})" if len(parts) > 1 else ""
            choices = leaves() if benchmark == FOLDER else list(labels(benchmark))
            raise IndusCotError(
                f"unknown defect label {part.strip()!r}{whole} of {benchmark}; known are: {', '.join(choices)}. "
                f"Correct the label, or add it to schemas/taxonomy.yaml under the type it belongs to"
            )
    found = {known[_normalise(part)] for part in parts}
    return found.pop() if len(found) == 1 else UNSPECIFIED


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


def _normalise(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()


@cache
def _types() -> dict[str, DefectType]:
    tree: dict[str, Any] = yaml.safe_load(resources.files("schemas").joinpath("taxonomy.yaml").read_text("utf-8"))
    return {
        name: DefectType(
            name,
            family_name,
            entry["description"],
            entry.get("iso8785"),
            {benchmark: tuple(names) for benchmark, names in entry["labels"].items()},
        )
        for family_name, branch in tree.items()
        for name, entry in branch["types"].items()
    }


@cache
def _index(benchmark: str) -> dict[str, str]:
    own = {_normalise(label): name for label, name in labels(benchmark).items()}
    if benchmark != FOLDER:
        return own
    everyone = {_normalise(label): name for other in benchmarks() for label, name in labels(other).items()}
    return everyone | {_normalise(name): name for name in leaves()} | own

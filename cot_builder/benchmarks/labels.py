"""Each data set's own defect labels, and the type of the taxonomy that each means."""

import re
from functools import cache

from cot_builder.benchmarks.table import load_benchmarks
from schemas.errors import IndusCotError, check_name
from schemas.taxonomy import UNSPECIFIED, leaves

FOLDER = "folder"
"""People's own data: for it every type's own name and the labels of all data sets are known."""


def list_labels(benchmark: str) -> dict[str, str]:
    """Each raw label of a data set, as published, to its type, in the order of the taxonomy.

    Raises:
        IndusCotError: there is no such data set; it names a type that the taxonomy does not have.
    """
    check_name("benchmark", benchmark, load_benchmarks())
    labels = load_benchmarks()[benchmark].BENCHMARK.labels
    for name in labels:
        check_name(f"cot_builder/benchmarks/{benchmark}.py, labels", name, leaves())
    return {label: name for name in leaves() for label in labels.get(name, ())}


def map_label(benchmark: str, raw_label: str) -> str:
    """Type of a data set's own label, compared without regard to case, spaces, hyphens and underscores.

    A comma-joined combination (VisA has them) is the one type its members share, or ``unspecified``.
    For ``folder`` every type's own name and every label of any data set is known; one that several data sets use for
    different types is ``unspecified`` there, unless it is one of its own.

    Raises:
        IndusCotError: the data set does not have the label.
    """
    known = index_labels(benchmark)
    parts = [part for part in raw_label.split(",") if part.strip()] or [raw_label]
    for part in parts:
        if _normalise(part) not in known:
            whole = f" (in {raw_label!r})" if len(parts) > 1 else ""
            choices = leaves() if benchmark == FOLDER else list(list_labels(benchmark))
            raise IndusCotError(
                f"unknown defect label {part.strip()!r}{whole} of {benchmark}; known are: {', '.join(choices)}. "
                f"Correct the label, or {explain_adding_label(benchmark)}"
            )
    found = {known[_normalise(part)] for part in parts}
    return found.pop() if len(found) == 1 else UNSPECIFIED


def explain_adding_label(benchmark: str) -> str:
    """Advice for messages: how to make a label known."""
    module = f"cot_builder/benchmarks/{benchmark}.py"
    return f"add it to the labels in {module}, at the type of schemas/taxonomy.yaml it belongs to"


def _normalise(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()


@cache
def index_labels(benchmark: str) -> dict[str, str]:
    """Each label that is known for a data set, in the form in which labels are compared, to its type.

    Raises:
        IndusCotError: there is no such data set.
    """
    own = {_normalise(label): name for label, name in list_labels(benchmark).items()}
    if benchmark != FOLDER:
        return own
    everyone: dict[str, str] = {}
    for other in load_benchmarks():
        for label, name in list_labels(other).items():
            known = everyone.setdefault(_normalise(label), name)
            if known != name:
                everyone[_normalise(label)] = UNSPECIFIED
    return everyone | {_normalise(name): name for name in leaves()} | own

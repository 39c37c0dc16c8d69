"""Maps the defect labels of each data set to types of the taxonomy."""

import re
from functools import cache

from cot_builder.benchmarks.table import load_benchmarks
from schemas.errors import IndusCotError, check_name
from schemas.taxonomy import UNSPECIFIED, leaves

FOLDER = "folder"
"""Own data. Its labels may be names of types and labels of any data set."""


def list_labels(benchmark: str) -> dict[str, str]:
    """Return the type of each label of a data set, in the order of the taxonomy.

    Raises:
        IndusCotError: the data set is unknown, or it uses a type that is not in the taxonomy.
    """
    check_name("benchmark", benchmark, load_benchmarks())
    labels = load_benchmarks()[benchmark].BENCHMARK.labels
    for name in labels:
        check_name(f"cot_builder/benchmarks/{benchmark}.py, labels", name, leaves())
    return {label: name for name in leaves() for label in labels.get(name, ())}


def map_label(benchmark: str, raw_label: str) -> str:
    """Return the type of a label, which is compared without regard to case, spaces, hyphens and underscores.

    VisA has labels joined by commas. Such a combination gets the type that all its labels share, or ``unspecified``.
    For ``folder``, names of types and labels of all data sets are valid. A label with different types in several data
    sets is ``unspecified``, unless ``folder`` defines it itself.

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
    """Return the advice for messages on how to add a label."""
    module = f"cot_builder/benchmarks/{benchmark}.py"
    return f"add it to the labels in {module}, at the type of schemas/taxonomy.yaml it belongs to"


def _normalise(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()


@cache
def index_labels(benchmark: str) -> dict[str, str]:
    """Return the type of each valid label of a data set, by normalised label.

    Raises:
        IndusCotError: the data set is unknown.
    """
    own = {_normalise(label): name for label, name in list_labels(benchmark).items()}
    if benchmark != FOLDER:
        return own
    all_labels: dict[str, str] = {}
    for other in load_benchmarks():
        for label, name in list_labels(other).items():
            known = all_labels.setdefault(_normalise(label), name)
            if known != name:
                all_labels[_normalise(label)] = UNSPECIFIED
    return all_labels | {_normalise(name): name for name in leaves()} | own

"""Paired comparison of two runs on the same images, set by set.

The interval of the difference resamples physical parts, like the intervals of single runs. Two tests of the hypothesis
that the runs are equal: McNemar's exact test on images, and a permutation test of balanced accuracy that exchanges the
runs part by part.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cot_builder.storage.results import find_result_folders
from eval.metrics import read_metrics, read_predictions
from eval.statistics import (
    FEWEST_PARTS,
    balanced_accuracy_of,
    count_by_part,
    group_parts,
    interval,
    mcnemar,
    permutation_p,
    resamples,
)
from schemas.errors import IndusCotError

NAMED = 10
"""Maximum number of listed images that only one run has."""
TRUTH = ("source_set", "category", "part_id", "true_answer", "true_type")


class Difference(NamedTuple):
    """Difference of one set, or of the mean over sets: second run minus first, shares in [-1, 1]."""

    set: str
    images: int
    parts: int
    first: float
    """Balanced accuracy of the first run on the shared images."""
    second: float
    difference: float
    low: float | None
    high: float | None
    """95 % interval; None if a label has too few parts."""
    only_first_right: int
    only_second_right: int
    mcnemar_p: float
    """Exact and two-sided; for the mean over sets, computed on all images together."""
    permutation_p: float
    """Two-sided, for the difference of balanced accuracies."""


class Comparison(NamedTuple):
    """Comparison of two runs."""

    sets: list[Difference]
    macro: Difference | None
    """Mean over the sets that both runs have; None for a single set."""
    only_first: list[str]
    """Images, or whole sets, that only the first run has."""
    only_second: list[str]
    modes: dict[str, tuple[str, str]]
    """Model, mode, rounds and weights of the two runs, by set."""


class _Paired(NamedTuple):
    """Difference of one set, with the arrays that the mean over sets needs."""

    difference: Difference
    draws: np.ndarray
    gains: np.ndarray
    """Contribution of each part to the difference."""
    right: tuple[np.ndarray, np.ndarray]


def compare(first: Path, second: Path, *, draws: int, seed: int) -> Comparison:
    """Compare two folders of results on the sets and images that both have.

    Args:
        first: Root of the first run's results, or the folder of one set.
        second: The same of the second run.
        draws: Number of bootstrap resamples.
        seed: Seed of the resamples and permutations.

    Raises:
        IndusCotError: they share no set or no image; the truth of an image differs; a table is damaged.
    """
    comparison = [_folders_by_set(root) for root in (first, second)]
    shared = sorted(comparison[0].keys() & comparison[1].keys())
    if not shared:
        raise IndusCotError(
            f"no set in common: {first} has {', '.join(sorted(comparison[0]))}, "
            f"{second} has {', '.join(sorted(comparison[1]))}"
        )
    missing = [
        [f"{name} (all of it)" for name in sorted(comparison[one].keys() - comparison[1 - one].keys())]
        for one in (0, 1)
    ]
    paired = []
    for name in shared:
        tables = [read_predictions(folders_of[name]) for folders_of in comparison]
        for one in (0, 1):
            ids = tables[one].select("sample_id").join(tables[1 - one], on="sample_id", how="anti")["sample_id"]
            missing[one] += ids.to_list()
        paired.append(_pair(name, tables[0], tables[1], draws, seed))
    return Comparison(
        [item.difference for item in paired],
        _mean_over_sets(paired, seed) if len(paired) > 1 else None,
        missing[0],
        missing[1],
        {name: (_describe_run(comparison[0][name]), _describe_run(comparison[1][name])) for name in shared},
    )


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as values that JSON can hold."""
    return comparison._asdict() | {
        "sets": [item._asdict() for item in comparison.sets],
        "macro": comparison.macro._asdict() if comparison.macro else None,
    }


def list_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _folders_by_set(root: Path) -> dict[str, Path]:
    comparison: dict[str, Path] = {}
    for folder in find_result_folders(root):
        name = str(read_predictions(folder)["source_set"][0])
        if name in comparison:
            raise IndusCotError(
                f"{root}: {comparison[name].name} and {folder.name} both hold results of {name}; give one of them"
            )
        comparison[name] = folder
    return comparison


def _describe_run(folder: Path) -> str:
    return read_metrics(folder).run.title


def _pair(name: str, first: pl.DataFrame, second: pl.DataFrame, draws: int, seed: int) -> _Paired:
    both = first.join(second.select("sample_id", "answer", *TRUTH), on="sample_id", suffix="_second").sort("sample_id")
    if both.is_empty():
        raise IndusCotError(f"{name}: the two runs have no image in common")
    for column in TRUTH:
        changed = both.filter(pl.col(column).ne_missing(pl.col(f"{column}_second")))
        if not changed.is_empty():
            row = changed.row(0, named=True)
            raise IndusCotError(
                f"{name}: {column} of {changed.height} images differs between the two runs, first in "
                f"{row['sample_id']} ({row[column]!r}, {row[f'{column}_second']!r}): they were measured "
                "against different ground truth. Pull the set once and evaluate both again"
            )
    defective = (both["true_answer"] == "Yes").to_numpy()
    if defective.all() or not defective.any():
        raise IndusCotError(
            f"{name}: the shared images have only one label, so there is no balanced accuracy; evaluate more images"
        )
    parts = group_parts(both["part_id"].to_numpy(), defective)
    right = tuple(
        (both[column] == both["true_answer"]).fill_null(False).to_numpy() for column in ("answer", "answer_second")
    )
    counts = [count_by_part(parts, defective, is_right) for is_right in right]
    values = [float(balanced_accuracy_of(table.sum(axis=0))) for table in counts]
    # Each set is resampled independently, so that the draws can be averaged for the interval of the mean over sets.
    own = [seed, *name.encode()]
    drawn = [
        balanced_accuracy_of(weights @ counts[1]) - balanced_accuracy_of(weights @ counts[0])
        for weights in resamples(parts, draws, own)
    ]
    drawn_all = np.concatenate(drawn) if drawn else np.empty(0)
    gain = right[1].astype(float) - right[0]
    gains = np.bincount(parts.of, weights=gain / np.where(defective, defective.sum(), (~defective).sum()) / 2)
    few = min(len(np.unique(parts.of[mask])) for mask in (defective, ~defective)) < FEWEST_PARTS
    low, high = (None, None) if few or not len(drawn_all) else _interval_bounds(drawn_all)
    only_first, only_second, p = mcnemar(*right)
    difference = Difference(
        set=name,
        images=both.height,
        parts=parts.total,
        first=values[0],
        second=values[1],
        difference=values[1] - values[0],
        low=low,
        high=high,
        only_first_right=only_first,
        only_second_right=only_second,
        mcnemar_p=p,
        permutation_p=permutation_p(gains, seed),
    )
    return _Paired(difference, drawn_all, gains, (right[0], right[1]))


def _mean_over_sets(paired: Sequence[_Paired], seed: int) -> Difference:
    sets = [item.difference for item in paired]
    few = any(item.low is None for item in sets)
    low, high = (None, None) if few else _interval_bounds(np.mean([item.draws for item in paired], axis=0))
    only_first, only_second, p = mcnemar(*(np.concatenate([item.right[one] for item in paired]) for one in (0, 1)))
    return Difference(
        set="mean over sets",
        images=sum(item.images for item in sets),
        parts=sum(item.parts for item in sets),
        first=float(np.mean([item.first for item in sets])),
        second=float(np.mean([item.second for item in sets])),
        difference=float(np.mean([item.difference for item in sets])),
        low=low,
        high=high,
        only_first_right=only_first,
        only_second_right=only_second,
        mcnemar_p=p,
        permutation_p=permutation_p(np.concatenate([item.gains for item in paired]) / len(paired), seed),
    )


def _interval_bounds(drawn: np.ndarray) -> tuple[float, float]:
    low, high = interval(drawn[:, None])
    return float(low[0]), float(high[0])

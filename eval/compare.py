"""Two runs on the same images, set by set: how far apart they are, and how surely.

Both answered the same images, so each image is a pair. The interval of the difference resamples physical parts, as
those of single runs do; two tests ask whether the runs could be alike: McNemar's exact one on images, and a permutation
of balanced accuracy, in which the runs are exchanged part by part.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cot_builder.storage.results import folders
from eval.metrics import read_metrics, read_predictions
from eval.statistics import FEWEST_PARTS, balanced, by_part, interval, mcnemar, parts_of, permutation_p, resamples
from schemas.errors import IndusCotError

NAMED = 10
"""Images that only one run has, by name; of more the number."""
TRUTH = ("source_set", "category", "part_id", "true_answer", "true_type")


class Difference(NamedTuple):
    """Of one set, or of the mean over sets; the second run minus the first, shares in [-1, 1]."""

    set: str
    images: int
    parts: int
    first: float
    """Balanced accuracy of the first run on the shared images."""
    second: float
    difference: float
    low: float | None
    high: float | None
    """95 % interval; None where too few parts have each label."""
    only_first_right: int
    only_second_right: int
    mcnemar_p: float
    """Exact, two-sided; of the mean over sets, of all images together."""
    permutation_p: float
    """Two-sided, of the difference of balanced accuracies."""


class Comparison(NamedTuple):
    """Two runs."""

    sets: list[Difference]
    macro: Difference | None
    """Mean over the sets that both have; None for one set."""
    only_first: list[str]
    """Images, or whole sets, that only the first has."""
    only_second: list[str]
    modes: dict[str, tuple[str, str]]
    """What the two runs of each set were: model, mode, rounds and weights."""


class _Paired(NamedTuple):
    """What pairs of one set come to."""

    difference: Difference
    draws: np.ndarray
    gains: np.ndarray
    """What each part adds to the difference."""
    right: tuple[np.ndarray, np.ndarray]


def compare(first: Path, second: Path, *, draws: int, seed: int) -> Comparison:
    """Hold two folders of results against each other, on the sets and images that both have.

    Args:
        first: Root of a run's results, or the folder of one set.
        second: Likewise.
        draws: Bootstrap resamples.
        seed: Of the resamples and permutations.

    Raises:
        IndusCotError: they share no set or no image; the truth of an image differs; a table is damaged.
    """
    found = [_by_set(root) for root in (first, second)]
    shared = sorted(found[0].keys() & found[1].keys())
    if not shared:
        raise IndusCotError(
            f"{first} has {', '.join(sorted(found[0]))}, {second} has {', '.join(sorted(found[1]))}: no set in common"
        )
    missing = [[f"{name} (all of it)" for name in sorted(found[one].keys() - found[1 - one].keys())] for one in (0, 1)]
    paired = []
    for name in shared:
        tables = [read_predictions(folders_of[name]) for folders_of in found]
        for one in (0, 1):
            ids = tables[one].select("sample_id").join(tables[1 - one], on="sample_id", how="anti")["sample_id"]
            missing[one] += ids.to_list()
        paired.append(_pair(name, tables[0], tables[1], draws, seed))
    return Comparison(
        [item.difference for item in paired],
        _mean(paired, seed) if len(paired) > 1 else None,
        missing[0],
        missing[1],
        {name: (_what(found[0][name]), _what(found[1][name])) for name in shared},
    )


def plain(found: Comparison) -> dict[str, Any]:
    """As JSON takes it."""
    return found._asdict() | {
        "sets": [item._asdict() for item in found.sets],
        "macro": found.macro._asdict() if found.macro else None,
    }


def shown(names: Sequence[str]) -> str:
    """A few of the names, and how many there are."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _by_set(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders(root):
        name = str(read_predictions(folder)["source_set"][0])
        if name in found:
            raise IndusCotError(f"{root}: {found[name].name} and {folder.name} are both of {name}; name one of them")
        found[name] = folder
    return found


def _what(folder: Path) -> str:
    return read_metrics(folder).run.named


def _pair(name: str, first: pl.DataFrame, second: pl.DataFrame, draws: int, seed: int) -> _Paired:
    both = first.join(second.select("sample_id", "answer", *TRUTH), on="sample_id", suffix="_second").sort("sample_id")
    if both.is_empty():
        raise IndusCotError(f"{name}: the two runs have no image in common")
    for column in TRUTH:
        changed = both.filter(pl.col(column).ne_missing(pl.col(f"{column}_second")))
        if not changed.is_empty():
            row = changed.row(0, named=True)
            raise IndusCotError(
                f"{name}: {column} of {changed.height} images differs between the two runs, {row['sample_id']} first "
                f"({row[column]!r}, {row[f'{column}_second']!r}): they were measured against different truths, and "
                "cannot be compared; pull the set once and evaluate both again"
            )
    defective = (both["true_answer"] == "Yes").to_numpy()
    if defective.all() or not defective.any():
        raise IndusCotError(f"{name}: the images that both runs have are of one label: there is no balanced accuracy")
    parts = parts_of(both["part_id"].to_numpy(), defective)
    right = tuple(
        (both[column] == both["true_answer"]).fill_null(False).to_numpy() for column in ("answer", "answer_second")
    )
    counts = [by_part(parts, defective, said) for said in right]
    values = [float(balanced(table.sum(axis=0))) for table in counts]
    # Sets are drawn independently of each other: their mean has the interval that follows.
    own = [seed, *name.encode()]
    drawn = [balanced(weights @ counts[1]) - balanced(weights @ counts[0]) for weights in resamples(parts, draws, own)]
    drawn_all = np.concatenate(drawn) if drawn else np.empty(0)
    gain = right[1].astype(float) - right[0]
    gains = np.bincount(parts.of, weights=gain / np.where(defective, defective.sum(), (~defective).sum()) / 2)
    few = min(len(np.unique(parts.of[mask])) for mask in (defective, ~defective)) < FEWEST_PARTS
    low, high = (None, None) if few or not len(drawn_all) else _bounds(drawn_all)
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


def _mean(paired: Sequence[_Paired], seed: int) -> Difference:
    sets = [item.difference for item in paired]
    few = any(item.low is None for item in sets)
    low, high = (None, None) if few else _bounds(np.mean([item.draws for item in paired], axis=0))
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


def _bounds(drawn: np.ndarray) -> tuple[float, float]:
    low, high = interval(drawn[:, None])
    return float(low[0]), float(high[0])

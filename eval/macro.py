"""Mean of a run over its sets, with its interval."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from cot_builder.storage.output import write_text
from cot_builder.storage.results import METRICS_FILE, find_set_folders
from eval.metrics import read_metrics, read_predictions
from eval.scoreboard import SETS, group_runs
from eval.statistics import FEWEST_PARTS, balanced_accuracy_of, count_by_part, group_parts, interval, resamples
from schemas.metrics import Estimate, Metrics, Overview, RunMean


def overview(root: Path) -> Overview:
    """The mean over sets of each run below ``root``.

    Raises:
        IndusCotError: a table or figures are damaged.
    """
    found = [read_metrics(folder) for folder in find_set_folders(root, METRICS_FILE)]
    mean = over(root)
    return Overview(runs=[line for run in group_runs(found) if (line := mean(run)) is not None])


def write_overview(root: Path) -> Overview:
    """Write ``metrics.json`` into ``root``, beside the folders of its sets."""
    found = overview(root)
    write_text(root / METRICS_FILE, found.model_dump_json(indent=1) + "\n")
    return found


def write_headline(root: Path, path: Path) -> None:
    """Write the headline figures of each set of ``root`` to ``path``, for `dvc metrics`: shares in [0, 1]."""
    names = ("balanced_accuracy", "recall", "specificity")
    found = [read_metrics(folder) for folder in find_set_folders(root, METRICS_FILE)]
    figures = {
        item.run.set: {name: figure.value for name in names if (figure := getattr(item.overall, name))}
        for item in found
    }
    write_text(path, json.dumps(figures, indent=1) + "\n")


def over(root: Path) -> Callable[[Sequence[Metrics]], RunMean | None]:
    """Return the function that averages a run over its sets below ``root``: the paper's if it has any, else all."""
    read = [(read_metrics(folder), folder) for folder in find_set_folders(root, METRICS_FILE)]

    def predictions(of: Metrics) -> pl.DataFrame:
        # Several runs may lie side by side, each with a folder for the same set.
        return read_predictions(next(folder for found, folder in read if found == of))

    def mean(run: Sequence[Metrics]) -> RunMean | None:
        facts = {item.run.set: item for item in run if item.overall.balanced_accuracy}
        names = [name for name in SETS if name in facts] or sorted(facts)
        if not names:
            return None
        first = facts[names[0]]
        return RunMean(
            run=first.run.title,
            sets=names,
            missing=[name for name in SETS if name not in names],
            balanced_accuracy=mean_over(
                {name: predictions(facts[name]) for name in names}, first.draws, first.run.seed or 0
            ),
        )

    return mean


def mean_over(tables: Mapping[str, pl.DataFrame], draws: int, seed: int) -> Estimate:
    """Mean of the sets' balanced accuracies, with its bootstrap 95 % interval.

    Args:
        tables: Predictions by set; each set has both labels.
        draws: Number of resamples of physical parts; each set is resampled independently.
        seed: Seed of the resamples.
    """
    values, drawn, has_interval = [], [], draws > 0
    for name, table in tables.items():
        defective = (table["true_answer"] == "Yes").to_numpy()
        right = (table["answer"] == table["true_answer"]).fill_null(False).to_numpy()
        parts = group_parts(table["part_id"].to_numpy(), defective)
        counts = count_by_part(parts, defective, right)
        values.append(float(balanced_accuracy_of(counts.sum(axis=0))))
        chunks = [balanced_accuracy_of(weights @ counts) for weights in resamples(parts, draws, [seed, *name.encode()])]
        drawn.append(np.concatenate(chunks) if chunks else np.empty(0))
        has_interval &= min(len(np.unique(parts.of[mask])) for mask in (defective, ~defective)) >= FEWEST_PARTS
    low = high = None
    if has_interval:
        low, high = (float(bound[0]) for bound in interval(np.mean(drawn, axis=0)[:, None]))
    return Estimate(value=float(np.mean(values)), low=low, high=high, n=sum(table.height for table in tables.values()))

"""`rescore`: every figure again, from the predictions alone; or from the confusion counts that somebody published."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.metrics import COUNTS, METRICS_FILE, folders, metrics, read_metrics, read_predictions, write_metrics
from schemas.errors import IndusCotError
from schemas.metrics import Metrics


class Rescored(NamedTuple):
    """One set of one run."""

    folder: Path
    found: Metrics
    changes: list[tuple[str, Any, Any]]
    """Path of each figure that changed, before and after; None where there was or is none."""


def rescore(roots: Sequence[Path]) -> Iterator[Rescored]:
    """Compute ``metrics.json`` again beside each ``predictions.parquet``, and say what changed.

    What was run, the published list and the contamination are not in the predictions and are kept.

    Args:
        roots: Folders of one set, or of several.

    Raises:
        IndusCotError: a table is not there or breaks the contract.
    """
    for folder in [folder for root in roots for folder in folders(root)]:
        before, predictions = read_metrics(folder), read_predictions(folder)
        listing = before.listing
        if listing.evaluated != predictions.height:
            same = None if listing.published is None else False
            listing = listing.model_copy(update={"evaluated": predictions.height, "same_list": same})
        found = metrics(
            predictions, before.run, listing, before.contamination, draws=before.draws, seed=before.run.seed
        )
        changes = list(_changes(before.model_dump(), found.model_dump()))
        if changes:
            write_metrics(found, folder)
        yield Rescored(folder, found, changes)


def of_counts(counts: str) -> dict[str, float]:
    """Balanced accuracy, recall, specificity, precision and F1 of ``tp=…,fn=…,tn=…,fp=…``, as shares.

    A share without anything to compute it on is left out.

    Raises:
        IndusCotError: a count is missing, named twice, unknown or no whole number.
    """
    from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

    given = [item.partition("=") for item in counts.replace(" ", "").split(",")]
    names = [name for name, _, _ in given]
    if sorted(names) != sorted(COUNTS) or not all(value.isascii() and value.isdigit() for _, _, value in given):
        raise IndusCotError(f"--counts {counts}: write whole numbers, for example --counts tp=45,fn=9,tn=270,fp=16")
    weight = {name: int(value) for name, _, value in given}
    tp, fn, tn, fp = (weight[name] for name in COUNTS)
    truth, said, weights = [True, True, False, False], [True, False, False, True], [tp, fn, tn, fp]
    found: dict[str, float] = {}
    if tp + fn and tn + fp:
        found["balanced accuracy"] = balanced_accuracy_score(truth, said, sample_weight=weights)
    for label, defined in ((True, tp + fn), (False, tn + fp)):
        if not defined:
            continue
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, said, average="binary", pos_label=label, sample_weight=weights, zero_division=0
        )
        if not label:
            found["specificity"] = recall
            continue
        found["recall"] = recall
        if tp + fp:
            found["precision"] = precision
        found["F1"] = f1
    order = ("balanced accuracy", "recall", "specificity", "precision", "F1")
    return {name: float(found[name]) for name in order if name in found}


def _changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _changes(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
    elif before != after:
        yield path or METRICS_FILE, before, after

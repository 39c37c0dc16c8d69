"""`rescore`: recompute all figures from the predictions, or compute figures from published confusion counts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from cot_builder.storage.results import METRICS_FILE, folders
from eval.metrics import metrics, read_predictions, write_metrics
from eval.metrics.arrays import COUNTS
from schemas.errors import IndusCotError
from schemas.metrics import Contamination, Listing, Metrics, Run

Fact = TypeVar("Fact", bound=BaseModel)
DRAWS, SEED = 1000, 7
"""Number and seed of the resamples if no record names them."""
UNKNOWN_LISTING = Listing(evaluated=0, available=None, published=None, same_list=None)
UNKNOWN_CONTAMINATION = Contamination(trained_on=None, categories=[], images=0, zero_shot=None)


class Rescored(NamedTuple):
    """Result of rescoring one set of one run."""

    folder: Path
    found: Metrics
    changes: list[tuple[str, Any, Any]]
    """Path of each changed figure with its value before and after; None if it is absent."""


def rescore(roots: Sequence[Path]) -> Iterator[Rescored]:
    """Recompute ``metrics.json`` beside each ``predictions.parquet`` and yield the changes.

    The description of the run, the published list and the contamination are not in the predictions. They are taken from
    an existing ``metrics.json`` of any version; otherwise they are None, and a flag says so.

    Args:
        roots: Folders of one set or of several.

    Raises:
        IndusCotError: a table is missing or invalid.
    """
    for folder in [folder for root in roots for folder in folders(root)]:
        before, predictions = _read_metrics(folder), read_predictions(folder)
        run = _validate_or_none(Run, before.get("run")) or _unknown_run(str(predictions["source_set"].first()))
        listing = _validate_or_none(Listing, before.get("listing")) or UNKNOWN_LISTING
        if listing.evaluated != predictions.height:
            same = False if listing.same_list is not None else None
            listing = listing.model_copy(update={"evaluated": predictions.height, "same_list": same})
        contamination = _validate_or_none(Contamination, before.get("contamination")) or UNKNOWN_CONTAMINATION
        draws = before.get("draws")
        found = metrics(
            predictions,
            run,
            listing,
            contamination,
            draws=draws if isinstance(draws, int) else DRAWS,
            seed=SEED if run.seed is None else run.seed,
        )
        changes = list(_find_changes(before, found.model_dump(mode="json")))
        if changes:
            write_metrics(found, folder)
        yield Rescored(folder, found, changes)


def _read_metrics(folder: Path) -> dict[str, Any]:
    """The existing ``metrics.json``; empty if it is missing or not a JSON object."""
    try:
        found = json.loads((folder / METRICS_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _validate_or_none(kind: type[Fact], values: Any) -> Fact | None:
    try:
        return kind.model_validate(values)
    except ValidationError:
        return None


def _unknown_run(name: str) -> Run:
    nothing = dict.fromkeys(("mode", "rounds", "policy", "model", "model_sha256", "priors", "seed"))
    return Run.model_validate({**nothing, "set": name, "parameters": {}, "versions": {}})


def figures_of_counts(counts: str) -> dict[str, float]:
    """Balanced accuracy, recall, specificity, precision and F1 of ``tp=…,fn=…,tn=…,fp=…``, as shares.

    A figure whose denominator is zero is left out.

    Raises:
        IndusCotError: a count is missing, duplicated, unknown or not a whole number.
    """
    from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

    given = [item.partition("=") for item in counts.replace(" ", "").split(",")]
    names = [name for name, _, _ in given]
    if sorted(names) != sorted(COUNTS) or not all(value.isascii() and value.isdigit() for _, _, value in given):
        raise IndusCotError(f"--counts {counts}: write whole numbers, for example --counts tp=45,fn=9,tn=270,fp=16")
    weight = {name: int(value) for name, _, value in given}
    tp, fn, tn, fp = (weight[name] for name in COUNTS)
    truth, predicted, weights = [True, True, False, False], [True, False, False, True], [tp, fn, tn, fp]
    found: dict[str, float] = {}
    if tp + fn and tn + fp:
        found["balanced accuracy"] = balanced_accuracy_score(truth, predicted, sample_weight=weights)
    for label, defined in ((True, tp + fn), (False, tn + fp)):
        if not defined:
            continue
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, predicted, average="binary", pos_label=label, sample_weight=weights, zero_division=0
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


def _find_changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _find_changes(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
    elif before != after:
        yield path or METRICS_FILE, before, after

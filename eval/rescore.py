"""`rescore`: recompute all figures from the predictions, or compute figures from published confusion counts."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from cot_builder.storage.results import METRICS_FILE, find_result_folders
from eval.metrics import compute_metrics, read_predictions, write_metrics
from eval.metrics.arrays import COUNTS
from schemas.errors import IndusCotError
from schemas.metrics import Contamination, EvaluatedImages, Metrics, Run
from schemas.prediction import PREDICTION, Prediction

Fact = TypeVar("Fact", bound=BaseModel)
DRAWS, SEED = 1000, 7
"""Number and seed of the resamples if no record names them."""
UNKNOWN_LISTING = EvaluatedImages(evaluated=0, available=None, published=None, same_list=None)
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
    for folder in [folder for root in roots for folder in find_result_folders(root)]:
        before, predictions = _read_metrics(folder), read_predictions(folder)
        run = _validate_or_none(Run, before.get("run")) or _unknown_run(str(predictions["source_set"].first()))
        listing = _validate_or_none(EvaluatedImages, before.get("listing")) or UNKNOWN_LISTING
        if listing.evaluated != predictions.height:
            same = False if listing.same_list is not None else None
            listing = listing.model_copy(update={"evaluated": predictions.height, "same_list": same})
        contamination = _validate_or_none(Contamination, before.get("contamination")) or UNKNOWN_CONTAMINATION
        draws = before.get("draws")
        found = compute_metrics(
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


def score_predictions(predictions: Iterable[Mapping[str, Any]], draws: int = DRAWS, seed: int = SEED) -> Metrics:
    """Compute every figure from anybody's predictions on one set of images.

    Args:
        predictions: One mapping for each image, with fields of :class:`schemas.prediction.Prediction`. ``true_answer``
            (Yes or No) and ``answer`` (Yes, No, or None if it could not be read, which counts as wrong) are required.
            ``boxes`` and ``true_boxes`` are integers 0-1000, ``true_type`` and ``defect_type`` types of the taxonomy.
            Give ``part_id`` if several images show one physical part: intervals resample parts.
        draws: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        Figures in [0, 1] with 95 % intervals: ``overall``, ``by`` category, type, size and so on.

    Raises:
        IndusCotError: there is no prediction, a field is unknown or invalid, or a ``sample_id`` occurs twice.

    Example:
        >>> found = score_predictions([{"true_answer": "Yes", "answer": "Yes"}, {"true_answer": "No", "answer": "No"}])
        >>> found.overall.balanced_accuracy.value
        1.0
    """
    rows = [_to_prediction(number, row) for number, row in enumerate(predictions)]
    if not rows:
        raise IndusCotError("predictions: there is none; give one mapping for each image")
    frame = PREDICTION.validate(PREDICTION.frame(rows))
    run = _unknown_run(rows[0].source_set)
    listing = UNKNOWN_LISTING.model_copy(update={"evaluated": len(rows)})
    return compute_metrics(frame, run, listing, UNKNOWN_CONTAMINATION, draws=draws, seed=seed)


def _to_prediction(number: int, given: Mapping[str, Any]) -> Prediction:
    name = str(given.get("sample_id", number))
    missing = [field for field in ("true_answer", "answer") if field not in given]
    if missing:
        raise IndusCotError(f"prediction {name}: no {', '.join(missing)}; each needs true_answer and answer")
    defaults: dict[str, Any] = {
        "sample_id": name, "source_set": "predictions", "category": "all", "view": "default", "part_id": name,
        "true_type": None, "true_boxes": [], "area_fraction": None, "boxes": [], "defect_type": None,
        "parse": "unparsed" if given["answer"] is None else "strict", "fault": "", "margin": None,
        "answer_before": None, "tools": [], "observed": 0, "input_tokens": 0, "output_tokens": 0, "seconds": 0.0,
        "cost_usd": 0.0, "transcript": '{"turns": []}',
    }  # fmt: skip
    try:
        return Prediction.model_validate({**defaults, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise IndusCotError(f"prediction {name}, {field}: {first['msg']}") from None


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

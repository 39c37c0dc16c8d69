"""Computes every figure of a run from its predictions.

A figure is one function, declared with :func:`eval.metrics.figure.figure` in a file of this folder. Its value, its
interval, and its entries in ``metrics.json`` and on the page follow from it. An image without a parsed verdict counts
as wrong: as a missed defect or as a false alarm. Intervals resample physical parts (:mod:`eval.statistics`).

Defects are grouped by the share of the image that they cover (:data:`~eval.metrics.arrays.SIZES`), by type and by
family of the taxonomy. Such a group is measured against all normal images of the set, since a normal image has no size
and no type; its precision and F1 therefore depend on how many normal images there are.
"""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl

from cot_builder.inspection.tools import TOOLS
from cot_builder.storage.output import write_text
from cot_builder.storage.results import METRICS_FILE, PREDICTIONS_FILE
from eval.metrics.arrays import Grouping, Kind, PredictionArrays, group_images
from eval.metrics.figure import FIGURES, Counting, Ordering
from eval.metrics.flags import find_flags
from eval.metrics.resampling import Columns, average_shares, images_of, resample
from eval.statistics import FEWEST_PARTS, interval
from schemas.errors import IndusCotError
from schemas.metrics import (
    CalibrationBin,
    Contamination,
    Cost,
    Estimate,
    EvaluatedImages,
    Metrics,
    Run,
    Scores,
    ToolUse,
)
from schemas.prediction import PREDICTION

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

BINS = 10


def compute_metrics(
    predictions: pl.DataFrame,
    run: Run,
    listing: EvaluatedImages,
    contamination: Contamination,
    *,
    draws: int,
    seed: int,
) -> Metrics:
    """Compute all figures of one run on one set; the order of the rows does not matter.

    Args:
        predictions: Rows of :data:`schemas.prediction.PREDICTION`, of one set.
        run: Description of the run.
        listing: Which images were evaluated.
        contamination: Which of them the model may have seen in training.
        draws: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        IndusCotError: there is no row, or the rows are of several sets.
    """
    if predictions["source_set"].n_unique() != 1:
        raise IndusCotError(
            f"predictions of {run.set} hold {predictions.height} rows of the sets "
            f"{', '.join(sorted(predictions['source_set'].unique())) or 'none'}: figures are of one set; "
            "run `indus-cot evaluate` again"
        )
    images = PredictionArrays(predictions.sort("sample_id"), _is_place_asked(run, predictions))
    groupings = group_images(images)
    counted = {name: figure.count(images) for name, figure in FIGURES.items()}
    columns = Columns(counted, predictions.height)
    drawn = resample(images, groupings, counted, columns, draws, seed)
    scores = [
        _score_groups(images, grouping, counted, columns, values)
        for grouping, values in zip(groupings, drawn, strict=True)
    ]
    overall, by = scores[0]["all"], dict(zip(get_args(Kind), scores[1:], strict=True))
    known = [score.balanced_accuracy for score in by["category"].values() if score.balanced_accuracy]
    return Metrics(
        run=run,
        listing=listing,
        contamination=contamination,
        overall=overall,
        by=by,
        macro=_average_categories(known, drawn[1].get("balanced_accuracy"), overall.images),
        tools=_summarise_tools(images.frame),
        cost=Cost(
            input_tokens=int(images.frame["input_tokens"].sum()),
            output_tokens=int(images.frame["output_tokens"].sum()),
            seconds=float(images.frame["seconds"].sum()),
            usd=float(images.frame["cost_usd"].sum()),
        ),
        calibration=_bin_calibration(images),
        flags=find_flags(images, overall, run, listing, contamination),
        draws=draws,
    )


def read_predictions(folder: Path) -> pl.DataFrame:
    """Read the predictions of one run on one set, sorted by sample.

    Raises:
        IndusCotError: the file is missing or violates its schema.
    """
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        raise IndusCotError(f"{path}: no predictions; `indus-cot evaluate` writes results/SET/{PREDICTIONS_FILE}")
    return PREDICTION.read(path).sort("sample_id")


def read_metrics(folder: Path) -> Metrics:
    """Read the figures of one run on one set.

    Raises:
        IndusCotError: the file is missing, or of another version.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        raise IndusCotError(
            f"{path}: not there; `indus-cot evaluate` writes it, and `indus-cot rescore {folder}` what can be known "
            "without the run"
        )
    try:
        return Metrics.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise IndusCotError(
            f"{path}: no figures of this version of the project ({error}); run `indus-cot rescore {folder}`"
        ) from None


def write_metrics(found: Metrics, folder: Path) -> None:
    """Write ``metrics.json`` atomically."""
    write_text(folder / METRICS_FILE, found.model_dump_json(indent=1) + "\n")


def _is_place_asked(run: Run, predictions: pl.DataFrame) -> bool:
    """Whether the policy was asked for place and type; if no mode is recorded, a verdict in the grammar implies it."""
    if run.mode is None:
        return bool(predictions["parse"].is_in(["strict", "tolerant"]).any())
    return run.mode != "direct"


def _score_groups(
    images: PredictionArrays,
    grouping: Grouping,
    counted: Mapping[str, Counting],
    columns: Columns,
    drawn: Mapping[str, np.ndarray],
) -> dict[str, Scores]:
    """Score each group of ``grouping``, with intervals from the resampled figures ``drawn``."""
    bounds = {name: interval(values) for name, values in drawn.items()}
    found = {}
    for number, name in enumerate(grouping.names):
        inside = grouping.of == number
        if not grouping.own_normals:
            inside |= images.normal
        limits = {figure: (low[number], high[number]) for figure, (low, high) in bounds.items()}
        found[name] = _score_group(images, inside, counted, columns, limits)
    return found


def _score_group(
    images: PredictionArrays,
    inside: np.ndarray,
    counted: Mapping[str, Counting],
    columns: Columns,
    limits: Mapping[str, tuple[float, float]],
) -> Scores:
    parts = images.parts.of
    kinds = {kind: inside & getattr(images, kind) for figure in FIGURES.values() for kind in figure.needs}
    present = {kind: len(np.unique(parts[rows])) for kind, rows in kinds.items()}
    totals = columns.values[inside].sum(axis=0)
    estimates: dict[str, Estimate | None] = {}
    for name, counting in counted.items():
        needs = FIGURES[name].needs
        if isinstance(counting, Ordering):
            value = _compute_auroc(counting, images, inside)
        else:
            value = float(average_shares(totals, columns.shares[name]))
        known = present[needs[0]] > 0 and not np.isnan(value)
        on = int((inside & images_of(counting)).sum())
        fewest = min(present[kind] for kind in needs)
        estimates[name] = _make_estimate(value, on, limits.get(name), fewest) if known else None
    return Scores.model_validate(
        estimates
        | images.count_outcomes(inside)
        | {
            "images": int(inside.sum()),
            "parts": len(np.unique(parts[inside])),
            "unparsed": int(images.unread[inside].sum()),
        }
    )


def _compute_auroc(counting: Ordering, images: PredictionArrays, inside: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    scored = inside & images_of(counting)
    truth = images.defective[scored]
    return float(roc_auc_score(truth, counting.score[scored])) if len(np.unique(truth)) == 2 else np.nan


def _make_estimate(value: float, n: int, limits: tuple[float, float] | None, parts: int) -> Estimate:
    known = limits is not None and parts >= FEWEST_PARTS and not np.isnan(limits).any()
    low, high = (float(limit) for limit in limits) if known and limits else (None, None)
    return Estimate(value=float(value), low=low, high=high, n=n)


def _average_categories(categories: Sequence[Estimate], drawn: np.ndarray | None, images: int) -> Estimate | None:
    """Average balanced accuracy over the ``categories`` that have it, with resamples ``drawn`` (draws, categories)."""
    if not categories:
        return None
    value = float(np.mean([estimate.value for estimate in categories]))
    if drawn is None or any(estimate.low is None for estimate in categories):
        return Estimate(value=value, low=None, high=None, n=images)
    defined = ~np.isnan(drawn).all(axis=0)
    low, high = interval(drawn[:, defined].mean(axis=1)[:, None])
    return Estimate(value=value, low=float(low[0]), high=float(high[0]), n=images)


def _summarise_tools(frame: pl.DataFrame) -> ToolUse:
    used: Counter[str] = Counter()
    for called in frame["tools"]:
        # The policy may invent names, so group unknown ones.
        used.update({name if name in TOOLS else "unknown" for name in called})
    calls = int(frame["tools"].list.len().sum())
    looked = frame.filter(pl.col("tools").list.len() > 0)
    tells = pl.col("answer_before").is_not_null() & pl.col("margin").is_not_null()
    told = looked.filter(tells)
    before = told["answer_before"] == told["true_answer"]
    # Compare margins, not the written verdict: the verdict follows a thought, and may be unparsed.
    after = (told["margin"] > 0) == (told["true_answer"] == "Yes")
    given = frame.select(tells.any()).item()
    return ToolUse(
        share={name: used[name] / frame.height for name in (*TOOLS, "unknown") if name in TOOLS or used[name]},
        calls=calls / frame.height,
        success=int(frame["observed"].sum()) / calls if calls else None,
        looked=looked.height,
        better=int((~before & after).sum()) if given else None,
        worse=int((before & ~after).sum()) if given else None,
    )


def _bin_calibration(images: PredictionArrays) -> list[CalibrationBin]:
    from scipy.special import expit
    from sklearn.calibration import calibration_curve

    marked = ~np.isnan(images.margin)
    if not marked.any():
        return []
    chance, truth = expit(images.margin[marked]), images.defective[marked]
    defective, confidence = calibration_curve(truth, chance, n_bins=BINS, pos_label=True)
    edges = np.linspace(0, 1, BINS + 1)
    # Count as scikit-learn bins; it leaves empty bins out.
    held = np.bincount(np.searchsorted(edges[1:-1], chance), minlength=BINS)
    full = np.flatnonzero(held)
    return [
        CalibrationBin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            images=int(held[place]),
            confidence=float(mean),
            defective=float(share),
        )
        for place, mean, share in zip(full, confidence, defective, strict=True)
    ]


def format_headline(scores: Scores) -> str:
    """Format balanced accuracy, recall and specificity as one line."""
    names = ("balanced_accuracy", "recall", "specificity")
    return ", ".join(f"{FIGURES[name].title} {format_share(scores.figure(name))}" for name in names)


def format_share(estimate: Estimate | None) -> str:
    """Format a share in per cent with its interval, for tables."""
    if estimate is None:
        return "–"
    value = f"{100 * estimate.value:.1f}"
    return (
        value
        if estimate.low is None or estimate.high is None
        else f"{value} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    )

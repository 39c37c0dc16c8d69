"""Every figure of a run, from its predictions alone.

Point estimates are scikit-learn's. An image without a readable verdict is wrong, whichever it is: a defect that was
not found, or a normal part that was not passed. Intervals resample physical parts (:mod:`eval.statistics`).

Defects are grouped by the share of the image that they cover (:data:`SIZES`), by type and by family of the taxonomy.
Such a group is measured against all normal images of the set, since a normal image has no size and no type; its
precision and F1 therefore depend on how many normal images there are.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import polars as pl

from cot_builder.storage.output import write_text
from cot_builder.storage.results import METRICS_FILE, PREDICTIONS_FILE
from eval.arrays import COLUMNS, COUNTS, OVER_DEFECTS, Kind, _Grouping, _groupings, _Images, _images
from eval.auroc import _Area, _Order
from eval.flags import _flags
from eval.statistics import FEWEST_PARTS, interval, resamples
from schemas.errors import IndusCotError
from schemas.metrics import Bin, Contamination, Cost, Estimate, Listing, Metrics, Run, Scores, Tools
from schemas.prediction import PREDICTION
from schemas.trajectory import ToolName

BINS = 10
FIGURES = (
    "balanced_accuracy", "recall", "specificity", "precision", "f1", "auroc",
    "box_iou", "box_accuracy", "pointing", "type_exact", "type_family", "type_similarity",
)  # fmt: skip
NEEDS: dict[str, tuple[str, ...]] = {
    "recall": ("defective",),
    "specificity": ("normal",),
    **dict.fromkeys(("balanced_accuracy", "precision", "f1", "auroc"), ("defective", "normal")),
    **dict.fromkeys(("box_iou", "box_accuracy", "pointing"), ("located",)),
    **dict.fromkeys(("type_exact", "type_family", "type_similarity"), ("typed",)),
}
"""Of which images there must be parts to resample."""


def metrics(
    predictions: pl.DataFrame, run: Run, listing: Listing, contamination: Contamination, *, draws: int, seed: int
) -> Metrics:
    """All figures of one run on one set; the same rows give the same figures in any order.

    Args:
        predictions: Rows of :data:`schemas.prediction.PREDICTION`, of one set.
        run: What was run.
        listing: Which images were evaluated.
        contamination: What of them the model may have seen.
        draws: Bootstrap resamples.
        seed: Of the resamples.

    Raises:
        IndusCotError: there is no row, or rows are of several sets.
    """
    if predictions["source_set"].n_unique() != 1:
        raise IndusCotError(
            f"predictions of {run.set} hold {predictions.height} rows of the sets "
            f"{', '.join(sorted(predictions['source_set'].unique())) or 'none'}: figures are of one set; "
            "run `indus-cot evaluate` again"
        )
    images = _images(predictions.sort("sample_id"), _asks_for_place(run, predictions))
    groupings = _groupings(images)
    drawn = _draw(images, groupings, draws, seed)
    scores = [_scores(images, grouping, figures) for grouping, figures in zip(groupings, drawn.groups, strict=True)]
    overall, by = scores[0]["all"], dict(zip(get_args(Kind), scores[1:], strict=True))
    known = [score.balanced_accuracy for score in by["category"].values() if score.balanced_accuracy]
    return Metrics(
        run=run,
        listing=listing,
        contamination=contamination,
        overall=overall,
        by=by,
        macro=_macro(known, drawn.macro, overall.images),
        tools=_tools(images.frame),
        cost=Cost(
            input_tokens=int(images.frame["input_tokens"].sum()),
            output_tokens=int(images.frame["output_tokens"].sum()),
            seconds=float(images.frame["seconds"].sum()),
            usd=float(images.frame["cost_usd"].sum()),
        ),
        calibration=_calibration(images),
        flags=_flags(images, overall, run, listing, contamination),
        draws=draws,
    )


def read_predictions(folder: Path) -> pl.DataFrame:
    """The predictions of one run on one set, by sample.

    Raises:
        IndusCotError: they are not there, or break the contract.
    """
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        raise IndusCotError(f"{path}: no predictions; `indus-cot evaluate` writes results/SET/{PREDICTIONS_FILE}")
    return PREDICTION.read(path).sort("sample_id")


def read_metrics(folder: Path) -> Metrics:
    """The figures that were computed of them.

    Raises:
        IndusCotError: they are not there, or are not what this version writes.
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
    """Write ``metrics.json``; it appears whole or not at all."""
    write_text(folder / METRICS_FILE, found.model_dump_json(indent=1) + "\n")


def _asks_for_place(run: Run, predictions: pl.DataFrame) -> bool:
    """Whether the policy was to name place and type; where no mode is recorded, a verdict by the grammar shows it."""
    if run.mode is None:
        return bool((predictions["parse"] == "strict").any())
    return run.mode != "direct"


class _Drawn(NamedTuple):
    """Figures of all resamples."""

    groups: list[dict[str, np.ndarray]]
    """Of each grouping, by figure: (draws, groups)."""
    macro: np.ndarray
    """(draws,): mean over the categories."""


def _draw(images: _Images, groupings: Sequence[_Grouping], draws: int, seed: int) -> _Drawn:
    from scipy.sparse import csr_array

    sums, areas = [], []
    # Most ways to group share one order.
    orders: dict[bytes, _Order] = {}
    for grouping in groupings:
        row, column = np.nonzero(images.values * (grouping.of >= 0)[:, None])
        place = grouping.of[row] * len(COLUMNS) + column
        shape = (len(grouping.names) * len(COLUMNS), images.parts.total)
        sums.append(csr_array((images.values[row, column], (place, images.parts.of[row])), shape=shape))
        block = grouping.of if grouping.own_normals else np.zeros_like(grouping.of)
        key = block.tobytes()
        if key not in orders:
            orders[key] = _Order(images, block)
        areas.append((key, _Area(grouping, orders[key])))
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in groupings]
    for weights in resamples(images.parts, draws, seed):
        normals = None
        placed = {key: order.of(weights) for key, order in orders.items()}
        for number, grouping in enumerate(groupings):
            totals = np.asarray(sums[number] @ weights.T).T.reshape(len(weights), -1, len(COLUMNS))
            if normals is None:
                normals = totals[:, :, 2:4]
            if not grouping.own_normals:
                totals[:, :, 2:4] = normals
            key, area = areas[number]
            found[number].append(figures(totals) | {"auroc": area.of(*placed[key])})
    joined = [
        {name: np.concatenate([chunk[name] for chunk in chunks]) for name in FIGURES} if chunks else {}
        for chunks in found
    ]
    accuracies = joined[1]["balanced_accuracy"] if draws else np.empty((0, 1))
    whole = ~np.isnan(accuracies).all(axis=0)
    return _Drawn(joined, accuracies[:, whole].mean(axis=1) if whole.any() else np.full(draws, np.nan))


def figures(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Figures from sums over images, (…, columns) in the order of :data:`COLUMNS`; NaN where one is not defined."""
    sums = dict(zip(COLUMNS, np.moveaxis(totals, -1, 0), strict=True))
    tp, fn, tn, fp = (sums[name] for name in COUNTS)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, specificity = tp / (tp + fn), tn / (tn + fp)
        return {
            "balanced_accuracy": (recall + specificity) / 2,
            "recall": recall,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            **{name: sums[name] / sums["located"] for name in ("box_iou", "box_accuracy", "pointing")},
            **{name: sums[name] / sums["typed"] for name in ("type_exact", "type_family", "type_similarity")},
        }


def _scores(images: _Images, grouping: _Grouping, drawn: dict[str, np.ndarray]) -> dict[str, Scores]:
    bounds = {name: interval(values) for name, values in drawn.items()}
    found = {}
    for number, name in enumerate(grouping.names):
        inside = grouping.of == number
        if not grouping.own_normals:
            inside |= ~images.defective
        limits = {figure: (low[number], high[number]) for figure, (low, high) in bounds.items()}
        found[name] = _score(images, inside, limits)
    return found


def _score(images: _Images, inside: np.ndarray, limits: dict[str, tuple[float, float]]) -> Scores:
    from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support, roc_auc_score

    true, said, parts = images.defective[inside], images.said_yes[inside], images.parts.of[inside]
    values = images.values[inside]
    sums = dict(zip(COLUMNS, values.sum(axis=0), strict=True))
    margin = images.margin[inside]
    marked = ~np.isnan(margin)
    chosen = {
        "defective": true,
        "normal": ~true,
        "located": values[:, COLUMNS.index("located")] > 0,
        "typed": values[:, COLUMNS.index("typed")] > 0,
    }
    present = {name: len(np.unique(parts[rows])) for name, rows in chosen.items()}
    points: dict[str, tuple[float, int]] = {}
    if true.any():
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, said, average="binary", pos_label=True, zero_division=np.nan
        )
        points["recall"] = float(recall), int(true.sum())
        if said.any():
            points["precision"] = float(precision), int(said.sum())
        points["f1"] = float(f1), len(true)
    if (~true).any():
        _, specificity, _, _ = precision_recall_fscore_support(
            true, said, average="binary", pos_label=False, zero_division=np.nan
        )
        points["specificity"] = float(specificity), int((~true).sum())
    if true.any() and (~true).any():
        points["balanced_accuracy"] = float(balanced_accuracy_score(true, said)), len(true)
    if len(np.unique(true[marked])) == 2:
        points["auroc"] = float(roc_auc_score(true[marked], margin[marked])), int(marked.sum())
    for denominator, names in (("located", OVER_DEFECTS[1:4]), ("typed", OVER_DEFECTS[5:])):
        if sums[denominator]:
            points |= {name: (sums[name] / sums[denominator], int(sums[denominator])) for name in names}
    estimates = {
        name: _estimate(*point, limits.get(name), min(present[kind] for kind in NEEDS[name]))
        for name, point in points.items()
    }
    counts = {name: int(sums[name]) for name in COUNTS}
    return Scores.model_validate(
        dict.fromkeys(FIGURES)
        | estimates
        | counts
        | {"images": len(true), "parts": len(np.unique(parts)), "unparsed": int(images.unread[inside].sum())}
    )


def _estimate(value: float, n: int, limits: tuple[float, float] | None, parts: int) -> Estimate:
    known = limits is not None and parts >= FEWEST_PARTS and not np.isnan(limits).any()
    low, high = (float(limit) for limit in limits) if known and limits else (None, None)
    return Estimate(value=float(value), low=low, high=high, n=n)


def _macro(categories: Sequence[Estimate], drawn: np.ndarray, images: int) -> Estimate | None:
    if not categories:
        return None
    value = float(np.mean([estimate.value for estimate in categories]))
    if not len(drawn) or any(estimate.low is None for estimate in categories):
        return Estimate(value=value, low=None, high=None, n=images)
    low, high = interval(drawn[:, None])
    return Estimate(value=value, low=float(low[0]), high=float(high[0]), n=images)


def _tools(frame: pl.DataFrame) -> Tools:
    known = get_args(ToolName)
    used: Counter[str] = Counter()
    for called in frame["tools"]:
        # A name that the policy made up could be any.
        used.update({name if name in known else "unknown" for name in called})
    calls = int(frame["tools"].list.len().sum())
    looked = frame.filter(pl.col("tools").list.len() > 0)
    tells = pl.col("answer_before").is_not_null() & pl.col("margin").is_not_null()
    told = looked.filter(tells)
    before = told["answer_before"] == told["true_answer"]
    # The written verdict is another thing than a margin: it follows a thought, and may be unreadable.
    after = (told["margin"] > 0) == (told["true_answer"] == "Yes")
    given = frame.select(tells.any()).item()
    return Tools(
        share={name: used[name] / frame.height for name in (*known, "unknown") if name in known or used[name]},
        calls=calls / frame.height,
        success=int(frame["observed"].sum()) / calls if calls else None,
        looked=looked.height,
        better=int((~before & after).sum()) if given else None,
        worse=int((before & ~after).sum()) if given else None,
    )


def _calibration(images: _Images) -> list[Bin]:
    from scipy.special import expit
    from sklearn.calibration import calibration_curve

    marked = ~np.isnan(images.margin)
    if not marked.any():
        return []
    chance, truth = expit(images.margin[marked]), images.defective[marked]
    defective, confidence = calibration_curve(truth, chance, n_bins=BINS, pos_label=True)
    edges = np.linspace(0, 1, BINS + 1)
    # As scikit-learn bins, which leaves empty bins out.
    held = np.bincount(np.searchsorted(edges[1:-1], chance), minlength=BINS)
    full = np.flatnonzero(held)
    return [
        Bin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            images=int(held[place]),
            confidence=float(mean),
            defective=float(share),
        )
        for place, mean, share in zip(full, confidence, defective, strict=True)
    ]


def describe(estimate: Estimate | None) -> str:
    """A share in per cent with its interval, as tables show it."""
    if estimate is None:
        return "–"
    value = f"{100 * estimate.value:.1f}"
    return (
        value
        if estimate.low is None or estimate.high is None
        else f"{value} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    )

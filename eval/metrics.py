"""Every figure of a run, from its predictions alone.

Point estimates are scikit-learn's. An image without a readable verdict is wrong, whichever it is: a defect that was
not found, or a normal part that was not passed. Intervals resample physical parts (:mod:`eval.statistics`).

Defects are grouped by the share of the image that they cover (:data:`SIZES`), by type and by family of the taxonomy.
Such a group is measured against all normal images of the set, since a normal image has no size and no type; its
precision and F1 therefore depend on how many normal images there are.
"""

import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from eval.statistics import FEWEST_PARTS, Parts, interval, parts_of, resamples
from schemas.errors import IndusCotError
from schemas.geometry import Box, union_iou
from schemas.metrics import Bin, Contamination, Cost, Estimate, Listing, Metrics, Run, Scores, Tools
from schemas.prediction import PREDICTION
from schemas.taxonomy import UNSPECIFIED, family, leaves, similarity
from schemas.trajectory import ToolName

PREDICTIONS_FILE = "predictions.parquet"
METRICS_FILE = "metrics.json"
SIZES = (("below 0.1 %", 0.001), ("0.1 to 1 %", 0.01), ("1 to 10 %", 0.1), ("10 % and more", 1.01))
"""Sizes of defects, each up to its bound, as shares of the image. 0.1 % is a square of 32 pixels in one of 1,024."""
BINS = 10
MOST_UNPARSED = 0.02
FEW_PARTS = 30
"""Parts with a label below which a reader is warned: the quantiles of a bootstrap of so few are too narrow."""
GOOD_IOU = 0.5
NAMED = 3
"""Images that a flag names."""
COUNTS = ("tp", "fn", "tn", "fp")
OVER_DEFECTS = (
    "located",
    "box_iou",
    "box_accuracy",
    "pointing",
    "typed",
    "type_exact",
    "type_family",
    "type_similarity",
)
COLUMNS = (*COUNTS, *OVER_DEFECTS)
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
Kind = Literal["category", "type", "family", "view", "size"]


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
    path = folder / METRICS_FILE
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def folders(root: Path) -> list[Path]:
    """The sets that a folder of results holds, or the folder itself where it is of one set.

    Raises:
        IndusCotError: it holds none.
    """
    if (root / PREDICTIONS_FILE).is_file():
        return [root]
    found = sets_in(root, PREDICTIONS_FILE)
    if not found:
        raise IndusCotError(
            f"{root}: neither {PREDICTIONS_FILE} nor SET/{PREDICTIONS_FILE} in it; run `indus-cot evaluate`"
        )
    return found


def sets_in(root: Path, file: str) -> list[Path]:
    """Folders below ``root`` that hold ``file``.

    Not the hidden ones that a killed run leaves, nor results of another run that lie there: their metrics are a mean.
    """
    return sorted(
        folder
        for folder in (path.parent for path in root.glob(f"*/{file}"))
        if not folder.name.startswith(".")
        and ((folder / PREDICTIONS_FILE).is_file() or not any(folder.glob(f"*/{PREDICTIONS_FILE}")))
    )


def _asks_for_place(run: Run, predictions: pl.DataFrame) -> bool:
    """Whether the policy was to name place and type; where no mode is recorded, a verdict by the grammar shows it."""
    if run.mode is None:
        return bool((predictions["parse"] == "strict").any())
    return run.mode != "direct"


class _Images(NamedTuple):
    """The rows as arrays of (images,)."""

    frame: pl.DataFrame
    parts: Parts
    defective: np.ndarray
    said_yes: np.ndarray
    """What counts as Yes: of an unread verdict the opposite of the truth."""
    unread: np.ndarray
    values: np.ndarray
    """(images, columns), 0 where a column does not apply."""
    margin: np.ndarray
    """NaN where the policy gave none."""


class _Grouping(NamedTuple):
    """One way to put the images into groups."""

    names: list[str]
    of: np.ndarray
    """(images,): number of each image's group, -1 for none."""
    own_normals: bool
    """Whether a group is measured against its own normal images, or against all."""


def _images(frame: pl.DataFrame, place_asked: bool) -> _Images:
    defective = (frame["true_answer"] == "Yes").to_numpy()
    unread = frame["answer"].is_null().to_numpy()
    said_yes = np.where(unread, ~defective, (frame["answer"] == "Yes").fill_null(False).to_numpy())
    return _Images(
        frame=frame,
        parts=parts_of(frame["part_id"].to_numpy(), defective),
        defective=defective,
        said_yes=said_yes,
        unread=unread,
        values=np.column_stack(
            [
                defective & said_yes,
                defective & ~said_yes,
                ~defective & ~said_yes,
                ~defective & said_yes,
                *_places(frame, defective & place_asked),
                *_kinds(frame, defective & place_asked),
            ]
        ).astype(float),
        margin=frame["margin"].fill_null(np.nan).to_numpy(),
    )


def _places(frame: pl.DataFrame, defective: np.ndarray) -> list[np.ndarray]:
    """Whether the true place is published, IoU, whether it is good, and whether the first box points into it."""
    located = defective & (frame["true_boxes"].list.len() > 0).to_numpy()
    iou, pointing = np.zeros(len(located)), np.zeros(len(located))
    named = located & (frame["boxes"].list.len() > 0).to_numpy()
    rows = frame.filter(pl.Series(named)).select("boxes", "true_boxes")
    for row, (boxes, true) in zip(np.flatnonzero(named), rows.iter_rows(), strict=True):
        iou[row] = union_iou(boxes, true)
        pointing[row] = any(_points_into(boxes[0], box) for box in true)
    return [located, iou, iou >= GOOD_IOU, pointing]


def _points_into(box: Box, true: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return true[0] <= x <= true[2] and true[1] <= y <= true[3]


def _kinds(frame: pl.DataFrame, defective: np.ndarray) -> list[np.ndarray]:
    """Whether the true type is known, whether the named one is it, is of its family, and how like it is.

    ``unspecified`` is what a set says that publishes no types: nobody could name it.
    """
    typed = defective & (frame["true_type"].is_not_null() & (frame["true_type"] != UNSPECIFIED)).to_numpy()
    scores = np.zeros((len(typed), 3))
    for row, (named, true) in enumerate(frame.select("defect_type", "true_type").iter_rows()):
        if typed[row] and named is not None:
            scores[row] = _alike(named, true)
    return [typed, *scores.T]


@cache
def _alike(named: str, true: str) -> tuple[float, float, float]:
    if not {named, true} <= set(leaves()):
        return (float(named == true),) * 3
    return float(named == true), float(family(named) == family(true)), similarity(named, true)


def _groupings(images: _Images) -> list[_Grouping]:
    """All images, then those of each :data:`Kind`."""
    frame = images.frame
    types = frame["true_type"]
    families = types.map_elements(lambda name: family(name) if name in leaves() else name, return_dtype=pl.String)
    return [
        _Grouping(["all"], np.zeros(frame.height, dtype=np.int64), True),
        _grouping(frame["category"], True),
        _grouping(types, False),
        _grouping(families, False),
        _grouping(frame["view"], True),
        _sizes(frame["area_fraction"], images.defective),
    ]


def _grouping(column: pl.Series, own_normals: bool) -> _Grouping:
    names = sorted(column.drop_nulls().unique())
    number = {name: place for place, name in enumerate(names)}
    return _Grouping(names, np.array([number.get(name, -1) for name in column], dtype=np.int64), own_normals)


def _sizes(column: pl.Series, defective: np.ndarray) -> _Grouping:
    # Before a bound, not up to it: a defect of exactly 1 % is of the larger size.
    found = np.searchsorted([bound for _, bound in SIZES], column.fill_null(0).to_numpy(), side="right")
    found = np.where(defective & column.is_not_null().to_numpy(), found, -1)
    held = sorted(set(found.tolist()) - {-1})
    renumbered = np.full(len(SIZES) + 1, -1)
    renumbered[held] = np.arange(len(held))
    return _Grouping([SIZES[place][0] for place in held], np.where(found < 0, -1, renumbered[found]), False)


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


class _Order:
    """Normal images in the order of their margins, one block behind the other, and where defective ones fall in it.

    AUROC is the share of pairs that the margin puts in the right order. The weight of the normal images below a
    defective one, ties half, is a difference of cumulative sums.
    """

    def __init__(self, images: _Images, block: np.ndarray) -> None:
        has = ~np.isnan(images.margin)
        normal, self.bad = np.flatnonzero(has & ~images.defective), np.flatnonzero(has & images.defective)
        normal = normal[np.lexsort((images.margin[normal], block[normal]))]
        self._normal_part, self._bad_part = images.parts.of[normal], images.parts.of[self.bad]
        self.bounds = np.searchsorted(block[normal], np.arange(block.max() + 2))
        own = block[self.bad]
        self._low, self._high = np.zeros(len(own), np.int64), np.zeros(len(own), np.int64)
        for number in np.unique(own):
            start, end = self.bounds[number], self.bounds[number + 1]
            ordered, asked = images.margin[normal[start:end]], images.margin[self.bad[own == number]]
            self._low[own == number] = start + np.searchsorted(ordered, asked, side="left")
            self._high[own == number] = start + np.searchsorted(ordered, asked, side="right")
        self._start = self.bounds[own]

    def of(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of weights (draws, parts): cumulative weight of the normal images, weight of the defective ones, and the
        weighted pairs that each of them wins; each (draws, images)."""
        below = np.zeros((len(weights), len(self._normal_part) + 1))
        np.cumsum(weights[:, self._normal_part], axis=1, out=below[:, 1:])
        bad = weights[:, self._bad_part]
        lower = below[:, self._low]
        if (self._low != self._high).any():
            lower = (lower + below[:, self._high]) / 2
        return below, bad, bad * (lower - below[:, self._start])


class _Area:
    """AUROC of each group of one way to put the images into groups."""

    def __init__(self, grouping: _Grouping, order: _Order) -> None:
        from scipy.sparse import csr_array

        group = grouping.of[order.bad]
        known = np.flatnonzero(group >= 0)
        shape = (len(grouping.names), len(group))
        self._member = csr_array((np.ones(len(known)), (group[known], known)), shape=shape)
        block = np.arange(len(grouping.names)) if grouping.own_normals else np.zeros(len(grouping.names), np.int64)
        self._start, self._end = order.bounds[block], order.bounds[block + 1]

    def of(self, below: np.ndarray, bad: np.ndarray, won: np.ndarray) -> np.ndarray:
        """(draws, groups) of what :meth:`_Order.of` gives; NaN where a group has no pair."""
        pairs = np.asarray(self._member @ bad.T).T * (below[:, self._end] - below[:, self._start])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self._member @ won.T).T / pairs


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


def _flags(images: _Images, overall: Scores, run: Run, listing: Listing, contamination: Contamination) -> list[str]:
    """What to know before believing a figure."""
    found = []
    if overall.balanced_accuracy and f"{100 * overall.balanced_accuracy.value:.1f}" == "50.0":
        found.append("balanced accuracy is exactly 50.0, which one answer for everything would get")
    answers = images.frame["answer"].drop_nulls().unique().to_list()
    if len(answers) == 1 and images.frame.height > 1:
        score = "recall 100, specificity 0" if answers == ["Yes"] else "recall 0, specificity 100"
        found.append(f"always the same answer, {answers[0]}" + ("" if images.unread.any() else f": {score}"))
    if overall.unparsed > MOST_UNPARSED * overall.images:
        share = 100 * overall.unparsed / overall.images
        failed = int((images.frame["parse"] == "failed").sum())
        found.append(
            f"{overall.unparsed} of {overall.images} verdicts ({share:.1f} %) could not be read and count as wrong"
            + (f"; {failed} of them were never given" if failed else "")
        )
    found += _reservations(run, listing, contamination)
    for label, mask in (("defective", images.defective), ("normal", ~images.defective)):
        if (parts := len(np.unique(images.parts.of[mask]))) < FEW_PARTS:
            found.append(f"only {parts} parts with {label} images: intervals are rough")
    if 0 < (given := int((~np.isnan(images.margin)).sum())) < overall.images:
        found.append(f"AUROC and calibration are of the {given} of {overall.images} images that have a margin")
    return found


def _reservations(run: Run, listing: Listing, contamination: Contamination) -> list[str]:
    """What speaks against setting the figures beside others."""
    found = []
    if run.model is None:
        found.append("what was run is not recorded beside the predictions: model, mode, list and training are unknown")
    if listing.available is not None and listing.evaluated < listing.available:
        found.append(f"incomplete: {listing.evaluated} of the {listing.available} test images here")
    if listing.same_list is False and listing.published is None:
        found.append("rendered images, not those of the benchmark: figures cannot be set beside published ones")
    elif listing.same_list is False:
        found.append(
            f"the list is not the published one: {listing.evaluated} images were evaluated, {listing.published} are "
            "published; figures cannot be set beside published ones"
        )
    if contamination.zero_shot is False:
        what = [f"categories {', '.join(contamination.categories)}"] if contamination.categories else []
        what += [_counted(contamination)] if contamination.images else []
        found.append(f"not zero-shot: the model was trained on {' and '.join(what)}")
    if contamination.trained_on and contamination.zero_shot is None:
        found.append("not known to be zero-shot: the corpus that the model was trained on is not here")
    if contamination.prior_categories:
        found.append(
            f"the texts of the prior tool describe evaluated categories: {', '.join(contamination.prior_categories)}"
        )
    return found


def _counted(contamination: Contamination) -> str:
    named = ", ".join(contamination.image_ids[:NAMED])
    more = ", …" if contamination.images > NAMED else ""
    return f"{contamination.images} of the evaluated images" + (f" ({named}{more})" if named else "")


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

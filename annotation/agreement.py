"""How far several experts agree, how much each has done, whether they still read: from the reviews pulled so far."""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from statistics import mean, median
from typing import NamedTuple

import krippendorff
import numpy as np
from scipy.stats import binomtest, bootstrap, fisher_exact
from sklearn.metrics import cohen_kappa_score

from annotation import page
from annotation.adjudication import disagreements, verdict
from annotation.assignment import assign
from cot_builder.corpus.reviews import read_reviews, select_latest_reviews
from cot_builder.params import Params
from cot_builder.storage.output import write_text
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.geometry import union_iou
from schemas.review import Review
from schemas.trajectory import DRAFT

RESAMPLES = 1000
NORMAL = "normal"
"""Stands for the type where the answer is No."""
FILE = "agreement.json"


class Figure(NamedTuple):
    """A figure with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    units: int
    """What it was computed from: drafts, or pages with a planted mistake."""


class Agreement(NamedTuple):
    """How two experts, or all of them, judge the same drafts."""

    who: str
    verdict: Figure
    """Cohen's κ (1960) of two, Krippendorff's α (2011) of all: accepted, fixed or rejected."""
    type: Figure
    """Likewise of the type that each leaves, or that there is no defect; drafts one of them rejects do not count."""
    box_iou: Figure
    """Mean IoU of the regions that the boxes of each pair cover, where both see a defect."""
    mask_dice: Figure
    """Mean Dice coefficient of what each pair has painted, likewise."""


class Expert(NamedTuple):
    """What one expert has done."""

    who: str
    assigned: int
    """Pages they were given, those with a planted mistake among them; 0 where ``annotators`` does not name them."""
    reviews: int
    verdicts: dict[str, int]
    hours: float
    seconds: float
    """Median on a page."""
    caught: Figure
    """Share of planted mistakes that were rejected or put right (Wilson 1927)."""
    caught_first: Figure
    """Of the earlier half of these pages."""
    caught_last: Figure
    drift: float | None
    """p-value of the difference between the halves (Fisher's exact test); None below two pages."""


class Agreed(NamedTuple):
    """All of it."""

    groups: list[Agreement]
    """All experts together first where there are more than two, then each pair."""
    experts: list[Expert]
    shared: int
    """Drafts that at least two have reviewed."""
    disagreements: int
    """Of these, how many wait to be settled."""
    settled: int


def agree(params: Params, workspace: Workspace) -> Agreed:
    """Hold the experts' last words against each other; writes ``reports/agreement.json`` too.

    Intervals are percentiles of 1,000 bootstrap samples of the drafts (Efron 1979); samples in which a coefficient
    is not defined, because everybody says the same of everything, are left out.

    Raises:
        IndusCotError: nothing is reviewed yet; there are no drafts.
    """
    reviews = read_reviews(workspace)
    if not reviews:
        raise IndusCotError(f"{workspace.review}: no reviews yet; review, then run `indus-cot review pull`")
    said = {digest: words for digest, words in select_latest_reviews(reviews, "review").items() if len(words) > 1}
    people = sorted({row.reviewer for words in said.values() for row in words})
    groups = [people] if len(people) > 2 else []
    groups += [list(pair) for pair in combinations(people, 2)]
    assigned: Counter[str] = Counter()
    if params.review.annotators:
        drafts = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
        given = assign(drafts, params.review, params.run.seed)
        assigned |= {
            name.lower(): len(given[title])
            for name, title in zip(params.review.annotators, params.review.titles, strict=True)
        }
    found = Agreed(
        groups=[_agreement(group, list(said.values())) for group in groups],
        experts=[
            _expert(name, [row for row in reviews if row.reviewer == name and not row.problems], assigned[name.lower()])
            for name in sorted({row.reviewer for row in reviews})
        ],
        shared=len(said),
        disagreements=len(disagreements(reviews)),
        settled=len(select_latest_reviews(reviews, "adjudication")),
    )
    write_text(workspace.reports / FILE, json.dumps(_plain(found), indent=1, ensure_ascii=False) + "\n")
    return found


def _agreement(people: Sequence[str], said: Sequence[Sequence[Review]]) -> Agreement:
    rows = [[row for row in words if row.reviewer in people] for words in said]
    rows = [words for words in rows if len(words) > 1]
    types = [[row for row in words if row.verdict != "rejected"] for words in rows]
    types = [words for words in types if len(words) > 1]
    seen = [[row for row in words if verdict(row).answer == "Yes"] for words in types]
    seen = [words for words in seen if len(words) > 1]
    dice = [score for score in (_pairwise(words, _dice) for words in seen) if score is not None]
    iou = [score for score in (_pairwise(words, _iou) for words in seen) if score is not None]
    return Agreement(
        who=" and ".join(people) if len(people) == 2 else "all",
        verdict=_coefficient(people, rows, lambda row: row.verdict),
        type=_coefficient(people, types, lambda row: verdict(row).defect_type or NORMAL),
        box_iou=_mean(iou),
        mask_dice=_mean(dice),
    )


def _coefficient(people: Sequence[str], rows: Sequence[Sequence[Review]], label: Callable[[Review], str]) -> Figure:
    """κ of two, α of more."""
    names: dict[str, int] = {}
    codes = np.full((len(people), len(rows)), np.nan)
    for unit, words in enumerate(rows):
        for row in words:
            codes[people.index(row.reviewer), unit] = names.setdefault(label(row), len(names))

    def coefficient(units: np.ndarray) -> float:
        drawn = codes[:, units.astype(int)]
        if len(np.unique(drawn[~np.isnan(drawn)])) < 2:
            return np.nan
        if len(people) == 2:
            return float(cohen_kappa_score(drawn[0], drawn[1]))
        return float(krippendorff.alpha(reliability_data=drawn, level_of_measurement="nominal"))

    return _figure(len(rows), coefficient)


def _mean(values: Sequence[float]) -> Figure:
    scores = np.asarray(values)
    return _figure(len(scores), lambda units: float(scores[units.astype(int)].mean()))


def _figure(units: int, statistic: Callable[[np.ndarray], float]) -> Figure:
    if not units:
        return Figure(None, None, None, 0)
    value = statistic(np.arange(units))
    if units == 1 or np.isnan(value):
        return Figure(_defined(value), None, None, units)
    with warnings.catch_warnings():
        # Said of a coefficient that is not defined in some resample: these are left out below.
        warnings.simplefilter("ignore")
        drawn = bootstrap(
            (np.arange(units),), statistic, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=0
        ).bootstrap_distribution
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Figure(value, float(low), float(high), units)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pairwise(words: Sequence[Review], score: Callable[[Review, Review], float | None]) -> float | None:
    scores = [found for first, second in combinations(words, 2) if (found := score(first, second)) is not None]
    return mean(scores) if scores else None


def _iou(first: Review, second: Review) -> float:
    return union_iou(verdict(first).boxes, verdict(second).boxes)


def _dice(first: Review, second: Review) -> float | None:
    """None where neither has painted anything, or the pages had images of different sizes."""
    masks = [page.mask(json.loads(row.result)) for row in (first, second)]
    shapes = {mask.shape for mask in masks if mask is not None}
    if len(shapes) != 1:
        return None
    a, b = (np.zeros(next(iter(shapes)), dtype=bool) if mask is None else mask for mask in masks)
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _expert(name: str, rows: Sequence[Review], assigned: int) -> Expert:
    pages = [row for words in _by_page(rows).values() for row in words[-1:]]
    golds = sorted((row for row in pages if row.role == "gold"), key=lambda row: row.reviewed_at)
    first, last = golds[: len(golds) // 2], golds[len(golds) // 2 :]
    counts = [(sum(bool(row.caught) for row in half), len(half)) for half in (first, last)]
    table = [[caught, count - caught] for caught, count in counts]
    return Expert(
        who=name,
        assigned=assigned,
        reviews=len(pages),
        verdicts=dict(Counter(row.verdict for row in pages if row.role != "gold").most_common()),
        hours=sum(row.seconds for row in pages) / 3600,
        seconds=median([row.seconds for row in pages] or [0.0]),
        caught=_share(golds),
        caught_first=_share(first),
        caught_last=_share(last),
        drift=float(fisher_exact(table).pvalue) if len(golds) > 1 else None,
    )


def _by_page(rows: Iterable[Review]) -> dict[tuple[str, str], list[Review]]:
    found: dict[tuple[str, str], list[Review]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.reviewed_at):
        found[row.draft_sha256, row.role].append(row)
    return found


def _share(golds: Sequence[Review]) -> Figure:
    if not golds:
        return Figure(None, None, None, 0)
    caught = sum(bool(row.caught) for row in golds)
    interval = binomtest(caught, len(golds)).proportion_ci(method="wilson")
    return Figure(caught / len(golds), float(interval.low), float(interval.high), len(golds))


def _plain(value: object) -> object:
    """Named tuples as objects, for JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value

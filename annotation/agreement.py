"""Measures agreement between experts, their progress and their attention, from the reviews pulled so far."""

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
from annotation.adjudication import find_disagreements, parse_verdict
from annotation.assignment import assign_drafts
from cot_builder.corpus.reviews import read_reviews, select_latest_reviews
from cot_builder.params import Params
from cot_builder.storage.output import write_text
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.geometry import union_iou
from schemas.review import Review
from schemas.trajectory import DRAFT

RESAMPLES = 1000
NO_DEFECT = "normal"
"""Label in place of the defect type if the answer is No."""
AGREEMENT_FILE = "agreement.json"


class IntervalEstimate(NamedTuple):
    """A figure with its 95 % interval; None if it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    units: int
    """Number of units it was computed from: drafts, or pages with a planted mistake."""


class GroupAgreement(NamedTuple):
    """Agreement of two experts, or of all, on the drafts they share."""

    who: str
    verdict: IntervalEstimate
    """Agreement on accepted, fixed or rejected: Cohen's κ (1960) of two experts, Krippendorff's α (2011) of all."""
    type: IntervalEstimate
    """The same coefficient for the final type, with "no defect" as one more type; rejected drafts do not count."""
    box_iou: IntervalEstimate
    """Mean IoU, over pairs of experts who both see a defect, of the regions that their boxes cover."""
    mask_dice: IntervalEstimate
    """Mean Dice coefficient of the painted masks, over the same pairs."""


class ExpertSummary(NamedTuple):
    """Progress and attention of one expert."""

    who: str
    assigned: int
    """Assigned pages, with those that have a planted mistake; 0 if ``annotators`` does not name the expert."""
    reviews: int
    verdicts: dict[str, int]
    hours: float
    seconds: float
    """Median time spent on a page."""
    caught: IntervalEstimate
    """Share of planted mistakes that were rejected or corrected, with Wilson's interval (1927)."""
    caught_first: IntervalEstimate
    """The same share in the earlier half of these pages."""
    caught_last: IntervalEstimate
    """The same share in the later half."""
    drift: float | None
    """p-value of the difference between the halves (Fisher's exact test); None if there are fewer than two pages."""


class AgreementReport(NamedTuple):
    """Everything that `indus-cot review agree` reports."""

    groups: list[GroupAgreement]
    """All experts together if there are more than two, then each pair."""
    experts: list[ExpertSummary]
    shared: int
    """Drafts that at least two experts have reviewed."""
    disagreements: int
    """How many of the shared drafts wait for adjudication."""
    settled: int
    """How many drafts were adjudicated."""


def measure_agreement(params: Params, workspace: Workspace) -> AgreementReport:
    """Compare the experts' latest reviews of each shared draft; writes ``reports/agreement.json`` too.

    Intervals are percentiles of 1,000 bootstrap samples of the drafts (Efron 1979). Samples in which a coefficient is
    not defined, because all experts give all drafts the same label, are left out.

    Raises:
        IndusCotError: there are no reviews yet, or no drafts.
    """
    reviews = read_reviews(workspace)
    if not reviews:
        raise IndusCotError(
            f"{workspace.review}: no reviews yet; review some drafts in Label Studio, then run `indus-cot review pull`"
        )
    shared = {digest: rows for digest, rows in select_latest_reviews(reviews, "review").items() if len(rows) > 1}
    people = sorted({row.reviewer for rows in shared.values() for row in rows})
    groups = [people] if len(people) > 2 else []
    groups += [list(pair) for pair in combinations(people, 2)]
    assigned: Counter[str] = Counter()
    if params.review.annotators:
        drafts = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
        given = assign_drafts(drafts, params.review, params.run.seed)
        assigned |= {
            name.lower(): len(given[title])
            for name, title in zip(params.review.annotators, params.review.titles, strict=True)
        }
    report = AgreementReport(
        groups=[_measure_group(group, list(shared.values())) for group in groups],
        experts=[
            _summarize_expert(
                name, [row for row in reviews if row.reviewer == name and not row.problems], assigned[name.lower()]
            )
            for name in sorted({row.reviewer for row in reviews})
        ],
        shared=len(shared),
        disagreements=len(find_disagreements(reviews)),
        settled=len(select_latest_reviews(reviews, "adjudication")),
    )
    write_text(
        workspace.reports / AGREEMENT_FILE, json.dumps(_to_plain_data(report), indent=1, ensure_ascii=False) + "\n"
    )
    return report


def _measure_group(people: Sequence[str], shared: Sequence[Sequence[Review]]) -> GroupAgreement:
    drafts = [[row for row in rows if row.reviewer in people] for rows in shared]
    drafts = [rows for rows in drafts if len(rows) > 1]
    kept = [[row for row in rows if row.verdict != "rejected"] for rows in drafts]
    kept = [rows for rows in kept if len(rows) > 1]
    defective = [[row for row in rows if parse_verdict(row).answer == "Yes"] for rows in kept]
    defective = [rows for rows in defective if len(rows) > 1]
    dice = [score for score in (_mean_over_pairs(rows, _mask_dice) for rows in defective) if score is not None]
    iou = [score for score in (_mean_over_pairs(rows, _box_iou) for rows in defective) if score is not None]
    return GroupAgreement(
        who=" and ".join(people) if len(people) == 2 else "all",
        verdict=_estimate_coefficient(people, drafts, lambda row: row.verdict),
        type=_estimate_coefficient(people, kept, lambda row: parse_verdict(row).defect_type or NO_DEFECT),
        box_iou=_estimate_mean(iou),
        mask_dice=_estimate_mean(dice),
    )


def _estimate_coefficient(
    people: Sequence[str], drafts: Sequence[Sequence[Review]], label: Callable[[Review], str]
) -> IntervalEstimate:
    """Return Cohen's κ of two experts or Krippendorff's α of more, with its interval.

    Args:
        people: The experts.
        drafts: The reviews of each draft.
        label: What a review says of its draft.
    """
    label_codes: dict[str, int] = {}
    codes = np.full((len(people), len(drafts)), np.nan)
    for unit, rows in enumerate(drafts):
        for row in rows:
            codes[people.index(row.reviewer), unit] = label_codes.setdefault(label(row), len(label_codes))

    def coefficient(units: np.ndarray) -> float:
        drawn = codes[:, units.astype(int)]
        if len(np.unique(drawn[~np.isnan(drawn)])) < 2:
            return np.nan
        if len(people) == 2:
            return float(cohen_kappa_score(drawn[0], drawn[1]))
        return float(krippendorff.alpha(reliability_data=drawn, level_of_measurement="nominal"))

    return _bootstrap(len(drafts), coefficient)


def _estimate_mean(values: Sequence[float]) -> IntervalEstimate:
    scores = np.asarray(values)
    return _bootstrap(len(scores), lambda units: float(scores[units.astype(int)].mean()))


def _bootstrap(units: int, statistic: Callable[[np.ndarray], float]) -> IntervalEstimate:
    """Return ``statistic`` of the indices of all units, with its bootstrap interval."""
    if not units:
        return IntervalEstimate(None, None, None, 0)
    value = statistic(np.arange(units))
    if units == 1 or np.isnan(value):
        return IntervalEstimate(_none_if_nan(value), None, None, units)
    with warnings.catch_warnings():
        # SciPy warns if the coefficient is not defined in a resample; such resamples are left out below.
        warnings.simplefilter("ignore")
        drawn = bootstrap(
            (np.arange(units),), statistic, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=0
        ).bootstrap_distribution
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return IntervalEstimate(value, float(low), float(high), units)


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean_over_pairs(reviews: Sequence[Review], score: Callable[[Review, Review], float | None]) -> float | None:
    scores = [value for first, second in combinations(reviews, 2) if (value := score(first, second)) is not None]
    return mean(scores) if scores else None


def _box_iou(first: Review, second: Review) -> float:
    return union_iou(parse_verdict(first).boxes, parse_verdict(second).boxes)


def _mask_dice(first: Review, second: Review) -> float | None:
    """Return None if neither expert has painted anything, or if the images of the two pages differ in size."""
    masks = [page.decode_mask(json.loads(row.result)) for row in (first, second)]
    shapes = {mask.shape for mask in masks if mask is not None}
    if len(shapes) != 1:
        return None
    a, b = (np.zeros(next(iter(shapes)), dtype=bool) if mask is None else mask for mask in masks)
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _summarize_expert(name: str, rows: Sequence[Review], assigned: int) -> ExpertSummary:
    pages = [row for reviews in _group_by_page(rows).values() for row in reviews[-1:]]
    golds = sorted((row for row in pages if row.role == "gold"), key=lambda row: row.reviewed_at)
    first, last = golds[: len(golds) // 2], golds[len(golds) // 2 :]
    counts = [(sum(bool(row.caught) for row in half), len(half)) for half in (first, last)]
    table = [[caught, count - caught] for caught, count in counts]
    return ExpertSummary(
        who=name,
        assigned=assigned,
        reviews=len(pages),
        verdicts=dict(Counter(row.verdict for row in pages if row.role != "gold").most_common()),
        hours=sum(row.seconds for row in pages) / 3600,
        seconds=median([row.seconds for row in pages] or [0.0]),
        caught=_estimate_caught_share(golds),
        caught_first=_estimate_caught_share(first),
        caught_last=_estimate_caught_share(last),
        drift=float(fisher_exact(table).pvalue) if len(golds) > 1 else None,
    )


def _group_by_page(rows: Iterable[Review]) -> dict[tuple[str, str], list[Review]]:
    by_page: dict[tuple[str, str], list[Review]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.reviewed_at):
        by_page[row.draft_sha256, row.role].append(row)
    return by_page


def _estimate_caught_share(golds: Sequence[Review]) -> IntervalEstimate:
    if not golds:
        return IntervalEstimate(None, None, None, 0)
    caught = sum(bool(row.caught) for row in golds)
    interval = binomtest(caught, len(golds)).proportion_ci(method="wilson")
    return IntervalEstimate(caught / len(golds), float(interval.low), float(interval.high), len(golds))


def _to_plain_data(value: object) -> object:
    """Convert named tuples to dictionaries, for JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _to_plain_data(item) for name, item in value._asdict().items()}
    return [_to_plain_data(item) for item in value] if isinstance(value, list) else value

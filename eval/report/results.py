"""Reads evaluation results for the report: the scoreboard, and the figures of each set with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cot_builder.storage.results import METRICS_FILE, find_set_folders
from cot_builder.storage.workspace import Workspace
from eval.macro import over
from eval.metrics import read_metrics
from eval.metrics.arrays import Kind
from eval.metrics.figure import FIGURES
from eval.scoreboard import SETS, ScoreboardLine, scoreboard
from schemas.metrics import CalibrationBin, Estimate, Metrics, Scores

KINDS: tuple[Kind, ...] = get_args(Kind)
LEFT, RIGHT, TOP, BOTTOM = 40.0, 250.0, 8.0, 218.0
"""Edges of the plot area of a calibration curve, in chart units."""


@dataclass(frozen=True)
class Bar:
    """Balanced accuracy of one group in per cent, for a bar chart; None if the group has only one label."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    images: int


@dataclass(frozen=True)
class Curve:
    """A calibration curve in chart units."""

    points: str
    dots: list[tuple[float, float, float]]
    """x, y and radius; the area is proportional to the number of images in the bin."""
    description: str
    """The curve as text."""


@dataclass(frozen=True)
class SetResult:
    """Figures of one set, as text."""

    name: str
    facts: Metrics
    headline: list[tuple[str, str]]
    places: list[tuple[str, str]]
    groups: list[tuple[str, list[Bar]]]
    """Bars by category, type, family, view and size; a kind with a single group is left out."""
    calibration: Curve | None
    scope: str
    """Number of evaluated images, compared with the available and the published ones."""


@dataclass(frozen=True)
class Results:
    """Everything that the evaluation section shows."""

    sets: list[SetResult]
    lines: list[ScoreboardLine]
    columns: tuple[str, ...]
    flags: list[tuple[str, str]]


def read_results(workspace: Workspace) -> Results | None:
    """Return the evaluation results; None if nothing was evaluated.

    Raises:
        IndusCotError: a metrics file is damaged, or of another version.
    """
    folders = find_set_folders(workspace.results, METRICS_FILE)
    if not folders:
        return None
    found = sorted((read_metrics(folder) for folder in folders), key=_sort_key)
    return Results(
        sets=[_make_set_result(item) for item in found],
        lines=scoreboard(found, over(workspace.results)),
        columns=tuple(dict.fromkeys([*SETS, *(item.run.set for item in found)])),
        flags=[(item.run.set, flag) for item in found for flag in item.flags],
    )


def list_evaluated(workspace: Workspace) -> list[Path]:
    """List the folders of the sets that have results, in the order of the report."""
    return sorted(find_set_folders(workspace.results, METRICS_FILE), key=lambda folder: _sort_key(read_metrics(folder)))


def _sort_key(found: Metrics) -> tuple[int, str]:
    name = found.run.set
    return (SETS.index(name) if name in SETS else len(SETS), name)


def format_interval(estimate: Estimate | None) -> str:
    """Format a share in per cent, with its interval in brackets."""
    if estimate is None:
        return "–"
    around = "" if estimate.low is None else f" [{_to_percent(estimate.low)}, {_to_percent(estimate.high)}]"
    return f"{_to_percent(estimate.value)}{around}"


def _to_percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _make_set_result(found: Metrics) -> SetResult:
    listing = found.listing
    scope = f"on {listing.evaluated:,} images"
    if listing.available is not None:
        scope = f"on {listing.evaluated:,} of {listing.available:,} available test images"
    if listing.published is not None:
        scope += f", {listing.published:,} are published"
    groups = ((kind, [_make_bar(name, scores) for name, scores in found.by[kind].items()]) for kind in KINDS)
    return SetResult(
        name=found.run.set,
        facts=found,
        headline=[
            *_format_figures(found.overall, over_defects=False),
            ("balanced, mean of categories", format_interval(found.macro)),
        ],
        places=_format_figures(found.overall, over_defects=True),
        groups=[(kind, bars) for kind, bars in groups if len(bars) > 1],
        calibration=_make_curve(found.calibration),
        scope=scope,
    )


def _format_figures(scores: Scores, *, over_defects: bool) -> list[tuple[str, str]]:
    return [
        (figure.title, format_interval(scores.figure(name)))
        for name, figure in FIGURES.items()
        if figure.is_over_defects == over_defects
    ]


def _make_bar(name: str, scores: Scores) -> Bar:
    found = scores.balanced_accuracy
    if found is None:
        return Bar(name, None, None, None, scores.images)
    low, high = (None if bound is None else 100 * bound for bound in (found.low, found.high))
    return Bar(name, 100 * found.value, low, high, scores.images)


def _make_curve(bins: Sequence[CalibrationBin]) -> Curve | None:
    held = [item for item in bins if item.images]
    if not held:
        return None
    most = max(item.images for item in held)
    dots = [
        (*_to_chart(item.confidence, item.defective), round(2 + 5 * math.sqrt(item.images / most), 1)) for item in held
    ]
    words = (f"p {item.confidence:.2f}: {item.defective:.2f} of {item.images} defective" for item in held)
    return Curve(" ".join(f"{x},{y}" for x, y, _ in dots), dots, "; ".join(words))


def _to_chart(confidence: float, defective: float) -> tuple[float, float]:
    return round(LEFT + (RIGHT - LEFT) * confidence, 1), round(BOTTOM - (BOTTOM - TOP) * defective, 1)


def classify_outcome(true_answer: str, answer: str | None) -> str:
    """Return ``tp``, ``tn``, ``fp`` or ``fn``; ``unparsed`` if no verdict could be parsed."""
    names: Mapping[tuple[str, str], str] = {
        ("Yes", "Yes"): "tp",
        ("No", "No"): "tn",
        ("No", "Yes"): "fp",
        ("Yes", "No"): "fn",
    }
    return "unparsed" if answer is None else names[true_answer, answer]

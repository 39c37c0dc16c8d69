"""Reads trainings for the report: curves, figures, sample rollouts, and the result of `make learn`."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cot_builder.corpus.validated import identify_corpus
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace
from eval.report.pipeline import read_json
from schemas.errors import IndusCotError
from train.rewards import TERMS

MAX_POINTS = 160
"""Limit on the points of a line; with more steps, neighbours are averaged."""
MAX_ROLLOUTS = 4
"""Limit on the rollouts shown of a step."""
LEFT, RIGHT, TOP, BOTTOM = 40.0, 324.0, 8.0, 112.0
"""Edges of the plot area, in chart units."""
SHARE = (0.0, 1.0)
Line = Sequence[tuple[float, float]]
"""Points as (step, value)."""
Quantity = tuple[str, str, str, tuple[float, float] | None]
"""Column of a curve, title, description, and range if it is known."""

SFT: tuple[Quantity, ...] = (
    ("loss", "Loss", "cross-entropy of the policy's own tokens", None),
    ("mean_token_accuracy", "Token accuracy", "share of tokens that are the likeliest prediction", SHARE),
)
GRPO: tuple[Quantity, ...] = (
    ("reward", "Reward", "mean over the completions of a step", None),
    *((term.column, term.title, term.note, term.limits) for term in TERMS),
    ("valid", "Valid output", "share of completions that follow the output grammar", SHARE),
    ("tool_calls", "Tool calls", "mean per completion", None),
    (
        "confidence_gain",
        "Confidence",
        "rise of the true answer's margin through observations, over right completions",
        None,
    ),
    ("completions/mean_length", "Length", "mean tokens that the policy writes per completion", None),
    ("completions/clipped_ratio", "Cut off", "share of completions that reached the length limit", SHARE),
    ("kl", "KL", "divergence from the start model", None),
    ("loss", "Loss", "near 0 by design, because the advantages of a group cancel; a jump is a warning", None),
)
LEARN = ("reward", "accuracy", "tool_calls", "valid")
"""Curves of `make learn` that are drawn, with one line per seed."""


@dataclass(frozen=True)
class Chart:
    """A chart with one line per run, ready to be drawn."""

    title: str
    note: str
    lines: list[str]
    """Points of each line in SVG syntax."""
    dots: list[tuple[str, str]]
    """Points of runs with a single step."""
    low: str
    high: str
    first: str
    last: str
    description: str
    """The chart as text."""


@dataclass(frozen=True)
class RolloutStep:
    """Rollouts that were kept of one step."""

    step: int
    reward: float
    rollouts: list[Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """A training: its charts, its table of figures, and the rollouts of the first and the last kept step."""

    charts: list[Chart]
    head: list[str]
    figures: list[list[str]]
    moments: list[RolloutStep]
    kept: int
    """Number of steps whose rollouts were kept."""
    other_corpus: bool
    """Whether it was trained on another corpus than the one on the page."""


@dataclass(frozen=True)
class LearnResult:
    """Result of `make learn`."""

    seeds: int
    images: int | None
    """Number of test images per seed; None if it was not recorded."""
    statistics: list[str]
    arms: list[tuple[str, list[str]]]
    claims: list[tuple[str, str, str, bool]]
    seen: list[tuple[str, str]]
    charts: list[Chart]


@dataclass(frozen=True)
class Training:
    """The trainings and the result of `make learn`; each is None if it has not run."""

    sft: Run | None
    grpo: Run | None
    proof: LearnResult | None


def read_training(workspace: Workspace) -> Training | None:
    """Return everything that was trained so far, including a run in progress; None if nothing was trained.

    Raises:
        IndusCotError: a file is damaged.
    """
    learned = workspace.reports / "learn.json"
    found = Training(
        _read_run("sft", SFT, workspace),
        _read_run("grpo", GRPO, workspace),
        read_learn_result(learned) if learned.is_file() else None,
    )
    return found if found.sft or found.grpo or found.proof else None


def _read_run(stage: str, quantities: Sequence[Quantity], workspace: Workspace) -> Run | None:
    curve, figures = workspace.reports / stage / "curve.csv", workspace.reports / f"{stage}.json"
    if not curve.is_file():
        return None
    logs = _read_curve(curve, stage)
    drawn = (make_chart(title, note, [_take_column(logs, name)], limits) for name, title, note, limits in quantities)
    folder = workspace.models / stage
    kept = sorted((folder / "rollouts").glob("*.json"))
    head, rows = _format_figures(read_json(figures, f"indus-cot {stage}")) if figures.is_file() else ([], [])
    return Run(
        charts=[item for item in drawn if item],
        head=head,
        figures=rows,
        moments=[read_step(path, stage, MAX_ROLLOUTS) for path in dict.fromkeys([*kept[:1], *kept[-1:]])],
        kept=len(kept),
        other_corpus=(folder / "manifest.json").is_file()
        and not identify_corpus(read_manifest(folder)["inputs"], workspace.indus_cot)[1],
    )


def _read_curve(path: Path, stage: str) -> list[dict[str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    except (ValueError, TypeError) as error:
        raise IndusCotError(f"{path}: invalid curve ({error}); run `indus-cot {stage}` again") from error


def _take_column(logs: Sequence[Mapping[str, float]], name: str) -> Line:
    return [(entry["step"], entry[name]) for entry in logs if name in entry]


def read_step(path: Path, stage: str, most: int | None = None) -> RolloutStep:
    """Read the rollouts of a step, at most ``most`` of them.

    Raises:
        IndusCotError: the file is damaged.
    """
    found = read_json(path, f"indus-cot {stage}")
    rewards = [item["terms"]["reward"] for item in found["rollouts"]]
    return RolloutStep(found["step"], sum(rewards) / max(len(rewards), 1), found["rollouts"][:most])


def _format_figures(figures: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    if "first" not in figures:
        return ["", "value"], [[_to_words(name), _format_figure(value)] for name, value in figures.items()]
    both = [(name, value, figures["last"][name]) for name, value in figures["first"].items()]
    return ["", "first quarter", "last quarter"], [
        [_to_words(name), _format_figure(one), _format_figure(two)] for name, one, two in both
    ]


def make_chart(title: str, note: str, lines: Sequence[Line], limits: tuple[float, float] | None = None) -> Chart | None:
    """Make a chart of lines over steps; None if there is no point.

    Args:
        title: Title of the chart.
        note: Description of the chart.
        lines: One line per run.
        limits: Range of the values; None for the range that occurs.
    """
    thin = [_thin(line) for line in lines if line]
    points = [point for line in thin for point in line]
    if not points:
        return None
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = limits or (min(value for _, value in points), max(value for _, value in points))
    wide, tall = last - first or 1.0, high - low or 1.0

    def place(step: float, value: float) -> tuple[str, str]:
        # Draw a constant line in the middle.
        height = (value - low) / tall if high > low else 0.5
        return f"{LEFT + (RIGHT - LEFT) * (step - first) / wide:.1f}", f"{BOTTOM - (BOTTOM - TOP) * height:.1f}"

    ends = [f"{_format_figure(line[0][1])} to {_format_figure(line[-1][1])}" for line in thin]
    return Chart(
        title=title,
        note=note,
        lines=[" ".join(",".join(place(*point)) for point in line) for line in thin if len(line) > 1],
        dots=[place(*line[0]) for line in thin if len(line) == 1],
        low=_format_figure(low),
        high=_format_figure(high) if high > low else "",
        first=_format_figure(first),
        last=_format_figure(last) if last > first else "",
        description=f"steps {_format_figure(first)} to {_format_figure(last)}: {'; '.join(ends)}",
    )


def _thin(line: Line) -> Line:
    size = -(-len(line) // MAX_POINTS)
    parts = [line[start : start + size] for start in range(0, len(line), size)]
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def read_learn_result(path: Path) -> LearnResult:
    """Read the result of `make learn`.

    Raises:
        IndusCotError: the file is missing or damaged.
    """
    found = read_json(path, "make learn")
    names: Mapping[str, str] = found.get("names", {})

    def spread(values: Mapping[str, float]) -> str:
        return f"{values['mean']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"

    arms: Mapping[str, Mapping[str, Any]] = found["arms"]
    statistics = list(dict.fromkeys(name for arm in arms.values() for name in arm))
    curves = found.get("curves", [])
    lines = {
        name: [[(step, entry[name]) for step, entry in enumerate(curve, 1) if name in entry] for curve in curves]
        for name in LEARN
    }
    drawn = (make_chart(_to_words(name).capitalize(), "GRPO, one line per seed", lines[name]) for name in LEARN)
    return LearnResult(
        seeds=found["seeds"],
        images=found.get("images"),
        statistics=[_to_words(name) for name in statistics],
        arms=[
            (names.get(name, _to_words(name)), [spread(arm[key]) if key in arm else "–" for key in statistics])
            for name, arm in arms.items()
        ],
        claims=[
            (claim["claim"], _to_words(claim["statistic"]), spread(claim), bool(claim["holds"]))
            for claim in found["claims"]
        ],
        seen=[(_to_words(name), _format_figure(value)) for name, value in found.get("seen", {}).items()],
        charts=[item for item in drawn if item],
    )


def _to_words(name: str) -> str:
    return name.replace("_", " ")


def _format_figure(value: float | None) -> str:
    if value is None:
        return "–"
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"

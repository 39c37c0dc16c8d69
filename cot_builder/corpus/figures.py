"""Compute statistics of a corpus from its index, and choose trajectories for the gallery of the report."""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

NO_TOOL = "no tool"
BINS = 12


@dataclass(frozen=True)
class Balance:
    """Number of normal and anomalous trajectories of one group."""

    name: str
    normal: int
    anomalous: int

    @property
    def total(self) -> int:
        return self.normal + self.anomalous


@dataclass(frozen=True)
class Histogram:
    """Counts by bin, with summary statistics of all values."""

    title: str
    unit: str
    bins: list[tuple[str, int]]
    mean: float
    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""


@dataclass(frozen=True)
class ToolUse:
    """Use of one tool: number of trajectories that call it, and total number of calls."""

    tool: str
    trajectories: int
    calls: int


@dataclass(frozen=True)
class DefectTypeToolUse:
    """Number of trajectories of one defect type, or of normal ones, that call each tool."""

    name: str
    total: int
    by_tool: list[int]


def count_balance(index: pl.DataFrame, *columns: str) -> list[Balance]:
    """Count normal and anomalous trajectories by the value of one or more columns, sorted by value."""
    table = (
        index.group_by(columns)
        .agg((pl.col("answer") == "No").sum().alias("normal"), (pl.col("answer") == "Yes").sum().alias("anomalous"))
        .sort(columns)
    )
    return [Balance(" · ".join(map(str, row[:-2])), row[-2], row[-1]) for row in table.iter_rows()]


def count_defect_types(index: pl.DataFrame) -> list[tuple[str, int]]:
    """Count anomalous trajectories by defect type, most frequent first."""
    table = index.drop_nulls("defect_type").group_by("defect_type").len().sort(["len", "defect_type"])
    return list(reversed(list(table.iter_rows())))


def count_tool_use(index: pl.DataFrame, tools: Iterable[str]) -> list[ToolUse]:
    """Count how often each of ``tools`` is used; the last entry, ``no tool``, counts trajectories without calls."""
    calls = pl.col("tool_calls")
    rows = [
        ToolUse(
            tool,
            index.select(calls.list.contains(tool).sum()).item(),
            int(index.select(calls.list.count_matches(tool).sum()).item() or 0),
        )
        for tool in tools
    ]
    return [*rows, ToolUse(NO_TOOL, index.select((calls.list.len() == 0).sum()).item(), 0)]


def count_tool_use_by_type(index: pl.DataFrame, tools: Collection[str]) -> list[DefectTypeToolUse]:
    """Count the use of each of ``tools``, and of no tool, by defect type: most frequent first, ``normal`` last."""
    named = index.with_columns(pl.col("defect_type").fill_null("normal").alias("kind"))
    uses = []
    for kind in [*(name for name, _ in count_defect_types(index)), "normal"]:
        group = named.filter(pl.col("kind") == kind)
        if len(group):
            uses.append(DefectTypeToolUse(kind, len(group), [use.trajectories for use in count_tool_use(group, tools)]))
    return uses


def make_histogram(values: pl.Series, title: str, unit: str) -> Histogram:
    """Count non-negative integers by value if their range is small, otherwise in equal bins of a round width."""
    low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
    step = _round_width((high - low + 1) / BINS)
    first = low // step * step
    table = dict(((values - first) // step).value_counts().iter_rows())
    count = (high - first) // step + 1
    edges = [first + number * step for number in range(count)]
    bins = [
        (str(edge) if step == 1 else f"{edge}–{edge + step - 1}", table.get(number, 0))
        for number, edge in enumerate(edges)
    ]
    return Histogram(
        title,
        unit,
        bins,
        float(values.mean()),  # type: ignore[arg-type]
        float(values.median()),  # type: ignore[arg-type]
        float(values.quantile(0.1, "nearest")),  # type: ignore[arg-type]
        float(values.quantile(0.9, "nearest")),  # type: ignore[arg-type]
    )


def _round_width(least: float) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, … that is at least ``least``."""
    if least <= 1:
        return 1
    power = 10 ** math.floor(math.log10(least))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= least)


def choose_gallery(index: pl.DataFrame, count: int) -> pl.DataFrame:
    """Choose at most ``count`` rows, spread evenly over categories and verdicts, then over defect types and views.

    The choice depends only on the ids, not on the order of the rows.
    """
    ranked = (
        index.with_columns(
            pl.col("id").map_elements(_hash, pl.String()).alias("hash"), pl.col("defect_type").fill_null("")
        )
        .sort("hash")
        .with_columns(pl.int_range(pl.len()).over("category", "answer", "defect_type", "view").alias("turn"))
        .sort("turn", "hash")
        .with_columns(pl.int_range(pl.len()).over("category", "answer").alias("round"))
        .sort("round", "hash")
        .head(count)
    )
    return index.filter(pl.col("id").is_in(ranked["id"].implode())).sort(
        "category", "answer", "defect_type", "view", "id", descending=[False, True, False, False, False]
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def count_values(index: pl.DataFrame, column: str) -> Sequence[tuple[str, int]]:
    """Count the values of a column, sorted by value, without nulls."""
    return list(index.drop_nulls(column).group_by(column).len().sort(column).iter_rows())

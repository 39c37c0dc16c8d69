"""Figures of a corpus from its index: counts, balance, tool use, lengths, and which trajectories to show."""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

NO_TOOL = "no tool"
BINS = 12


@dataclass(frozen=True)
class Balance:
    """Trajectories of one group, by verdict."""

    name: str
    normal: int
    anomalous: int

    @property
    def total(self) -> int:
        return self.normal + self.anomalous


@dataclass(frozen=True)
class Histogram:
    """Counts by bin, with what to say of the whole."""

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
    """How one tool is used: trajectories that call it, calls in all."""

    tool: str
    trajectories: int
    calls: int


@dataclass(frozen=True)
class DefectTypeToolUse:
    """Of the trajectories of one defect type (or of none), how many call each tool."""

    name: str
    total: int
    by_tool: list[int]


def count_balance(index: pl.DataFrame, *columns: str) -> list[Balance]:
    """Normal and anomalous trajectories by the value of one or more columns, in the order of the values."""
    table = (
        index.group_by(columns)
        .agg((pl.col("answer") == "No").sum().alias("normal"), (pl.col("answer") == "Yes").sum().alias("anomalous"))
        .sort(columns)
    )
    return [Balance(" · ".join(map(str, row[:-2])), row[-2], row[-1]) for row in table.iter_rows()]


def count_defect_types(index: pl.DataFrame) -> list[tuple[str, int]]:
    """Anomalous trajectories by defect type, commonest first."""
    table = index.drop_nulls("defect_type").group_by("defect_type").len().sort(["len", "defect_type"])
    return list(reversed(list(table.iter_rows())))


def count_tool_use(index: pl.DataFrame, tools: Iterable[str]) -> list[ToolUse]:
    """How often each of ``tools`` is used; last, as ``no tool``, the trajectories that answer at once."""
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
    """Use of each of ``tools``, and of none, by defect type, commonest type first, ``normal`` last."""
    named = index.with_columns(pl.col("defect_type").fill_null("normal").alias("kind"))
    uses = []
    for kind in [*(name for name, _ in count_defect_types(index)), "normal"]:
        group = named.filter(pl.col("kind") == kind)
        if len(group):
            uses.append(DefectTypeToolUse(kind, len(group), [use.trajectories for use in count_tool_use(group, tools)]))
    return uses


def make_histogram(values: pl.Series, title: str, unit: str) -> Histogram:
    """Counts of non-negative integers, by value where there are few, otherwise in equal bins of a round width."""
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
    if least <= 1:
        return 1
    power = 10 ** math.floor(math.log10(least))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= least)


def choose_gallery(index: pl.DataFrame, count: int) -> pl.DataFrame:
    """At most ``count`` rows, spread evenly over categories and verdicts, and within these over types and views.

    The choice depends on the ids alone, not on their order.
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
    """Values of a column with their counts, in order; nulls left out."""
    return list(index.drop_nulls(column).group_by(column).len().sort(column).iter_rows())

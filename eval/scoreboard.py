"""Runs beside what others report: each line with its source, and whether list and protocol are the same.

What others report is ``scoreboard.yaml``. Only a line whose list is the published one can be set beside another.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from statistics import mean
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from schemas.metrics import Estimate, Metrics, OverSets

SETS = ("mvtec_ad", "visa", "mpdd", "dtd", "sdd")
"""The five that the paper averages over."""
ROUNDS = {"two": "two rounds", "free": "free turns"}


class Line(BaseModel):
    """One line of the scoreboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["ours", "paper", "open", "closed"]
    figures: dict[str, Annotated[float, Field(ge=0, le=100)]]
    """Balanced accuracy by set, per cent."""
    intervals: dict[str, Estimate] = {}
    """The same as shares with their 95 % intervals; ours alone have any."""
    mean: Annotated[float, Field(ge=0, le=100)] | None = None
    """Over :data:`SETS`; None where one is missing."""
    over: OverSets | None = None
    """Mean over the sets that are there, with its interval; ours alone have any."""
    source: str
    address: str
    """URL; empty where none is known."""
    same_list: bool | None
    """Whether exactly the published test lists were used; None where that is not known."""
    same_protocol: bool | None
    """Whether an agent with all tools was asked, and a verdict that cannot be read is wrong; None where that is not
    known."""
    protocol: str
    """How the figures were got, and what speaks against setting them beside others."""


def scoreboard(
    all_metrics: Sequence[Metrics], over: Callable[[Sequence[Metrics]], OverSets | None] = lambda _: None
) -> list[Line]:
    """This project's runs first, a line for each model, its weights, mode and parameters; then what others report,
    best mean first.

    Args:
        all_metrics: Of every set of every run.
        over: The mean of one run over its sets (:mod:`eval.macro`).
    """
    ours = [_ours(found, over(found)) for found in apart(all_metrics)]
    return [*ours, *sorted(published(), key=lambda line: (line.mean is None, -(line.mean or 0)))]


def apart(all_metrics: Sequence[Metrics]) -> list[list[Metrics]]:
    """Runs: the sets that one model was asked about, of the same weights, mode and parameters."""
    runs: dict[tuple[str | None, ...], list[Metrics]] = {}
    for found in all_metrics:
        run = found.run
        described = json.dumps([run.model_sha256, run.parameters, run.priors, run.seed], sort_keys=True)
        runs.setdefault((run.model, run.policy, run.mode, run.rounds, described), []).append(found)
    return list(runs.values())


@cache
def published() -> tuple[Line, ...]:
    """What others report, with the mean of the printed figures."""
    lines = yaml.safe_load(resources.files("eval").joinpath("scoreboard.yaml").read_text("utf-8"))
    return tuple(Line.model_validate(line | {"mean": _mean(line["figures"])}) for line in lines)


def _mean(figures: dict[str, float]) -> float | None:
    # What is printed has one decimal, and 83.52 is no more precise than that.
    return round(mean(figures[name] for name in SETS), 1) if set(SETS) <= figures.keys() else None


def _ours(found: Sequence[Metrics], over: OverSets | None) -> Line:
    run = found[0].run
    intervals = {item.run.set: item.overall.balanced_accuracy for item in found if item.overall.balanced_accuracy}
    lists = {item.listing.same_list for item in found}
    seen = {item.contamination.zero_shot for item in found}
    shot = "not zero-shot" if False in seen else "zero-shot" if seen == {True} else "training of the model unknown"
    flagged = [f"{item.run.set}: {flag}" for item in found for flag in item.flags]
    figures = {name: 100 * estimate.value for name, estimate in intervals.items()}
    return Line(
        name=run.named,
        kind="ours",
        figures=figures,
        intervals=intervals,
        mean=_mean(figures),
        over=over,
        source="this run, results/SET/metrics.json",
        address="",
        same_list=False if False in lists else True if lists == {True} else None,
        same_protocol=None if run.mode is None else run.mode == "agent",
        protocol="; ".join(
            [
                *([f"policy {run.policy}, mode {run.mode}, {ROUNDS[run.rounds]}"] if run.rounds else []),
                *([f"weights {run.model_sha256[:8]}"] if run.model_sha256 else []),
                *([f"priors {run.priors}"] if run.priors not in (None, "none") else []),
                shot,
                *flagged,
            ]
        ),
    )

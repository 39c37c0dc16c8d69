"""Scoreboard: own runs beside published results, each line with its source, test list and protocol.

Published results are in ``scoreboard.yaml``. Two lines are comparable only if both use the published test list.
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
"""The five sets that the paper averages over."""
ROUNDS = {"two": "two rounds", "free": "free turns"}


class ScoreboardLine(BaseModel):
    """One line of the scoreboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["ours", "paper", "open", "closed"]
    figures: dict[str, Annotated[float, Field(ge=0, le=100)]]
    """Balanced accuracy by set, per cent."""
    intervals: dict[str, Estimate] = {}
    """The same as shares with their 95 % intervals; only for own runs."""
    mean: Annotated[float, Field(ge=0, le=100)] | None = None
    """Mean over :data:`SETS`; None if one is missing."""
    over: OverSets | None = None
    """Mean over the available sets, with its interval; only for own runs."""
    source: str
    address: str
    """URL; empty if unknown."""
    same_list: bool | None
    """Whether exactly the published test lists were used; None if unknown."""
    same_protocol: bool | None
    """Whether the protocol is this project's: an agent with all tools, unparsed answers count as wrong; None if
    unknown."""
    protocol: str
    """How the figures were obtained, and what limits their comparison with others."""


def scoreboard(
    all_metrics: Sequence[Metrics], over: Callable[[Sequence[Metrics]], OverSets | None] = lambda _: None
) -> list[ScoreboardLine]:
    """Lines of own runs, one for each model, weights, mode and parameters; then published results, best mean first.

    Args:
        all_metrics: Metrics of every set of every run.
        over: Averages one run over its sets (:mod:`eval.macro`).
    """
    ours = [_own_line(found, over(found)) for found in group_runs(all_metrics)]
    return [*ours, *sorted(published(), key=lambda line: (line.mean is None, -(line.mean or 0)))]


def group_runs(all_metrics: Sequence[Metrics]) -> list[list[Metrics]]:
    """Group metrics by run: same model, weights, mode and parameters."""
    runs: dict[tuple[str | None, ...], list[Metrics]] = {}
    for found in all_metrics:
        run = found.run
        described = json.dumps([run.model_sha256, run.parameters, run.priors, run.seed], sort_keys=True)
        runs.setdefault((run.model, run.policy, run.mode, run.rounds, described), []).append(found)
    return list(runs.values())


@cache
def published() -> tuple[ScoreboardLine, ...]:
    """Published results, with the mean of their printed figures."""
    lines = yaml.safe_load(resources.files("eval").joinpath("scoreboard.yaml").read_text("utf-8"))
    return tuple(ScoreboardLine.model_validate(line | {"mean": _printed_mean(line["figures"])}) for line in lines)


def _printed_mean(figures: dict[str, float]) -> float | None:
    # The printed figures have one decimal, so their mean has no more.
    return round(mean(figures[name] for name in SETS), 1) if set(SETS) <= figures.keys() else None


def _own_line(found: Sequence[Metrics], over: OverSets | None) -> ScoreboardLine:
    run = found[0].run
    intervals = {item.run.set: item.overall.balanced_accuracy for item in found if item.overall.balanced_accuracy}
    lists = {item.listing.same_list for item in found}
    seen = {item.contamination.zero_shot for item in found}
    shot = "not zero-shot" if False in seen else "zero-shot" if seen == {True} else "training of the model unknown"
    flagged = [f"{item.run.set}: {flag}" for item in found for flag in item.flags]
    figures = {name: 100 * estimate.value for name, estimate in intervals.items()}
    return ScoreboardLine(
        name=run.named,
        kind="ours",
        figures=figures,
        intervals=intervals,
        mean=_printed_mean(figures),
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

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

from schemas.metrics import Estimate, Metrics, RunMean

SETS = ("mvtec_ad", "visa", "mpdd", "dtd", "sdd")
"""The five sets that the paper averages over."""
ROUNDS = {"two": "two rounds", "free": "free turns"}


class Counts(BaseModel):
    """Confusion counts of one set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tp: Annotated[int, Field(ge=0)]
    fn: Annotated[int, Field(ge=0)]
    tn: Annotated[int, Field(ge=0)]
    fp: Annotated[int, Field(ge=0)]


class TestList(BaseModel):
    """Images of one set that a line was measured on."""

    __test__ = False  # pytest would take the name for a test class.
    model_config = ConfigDict(frozen=True, extra="forbid")

    same: bool | None
    """Whether it is exactly the published test list; None if unknown."""
    name: str
    """Which list it is, and how that is known."""
    counts: Counts | None = None
    """Confusion counts, if the source gives them or its unrounded figure determines them."""


class ScoreboardLine(BaseModel):
    """One line of the scoreboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["ours", "paper", "open", "closed"]
    figures: dict[str, Annotated[float, Field(ge=0, le=100)]]
    """Balanced accuracy by set, per cent; accuracy where :attr:`measure` says so."""
    measure: Literal["balanced accuracy", "accuracy"] = "balanced accuracy"
    lists: dict[str, TestList] = {}
    """Test list by set, for the sets whose list is known."""
    intervals: dict[str, Estimate] = {}
    """The same as shares with their 95 % intervals; only for own runs."""
    mean: Annotated[float, Field(ge=0, le=100)] | None = None
    """Mean over :data:`SETS`; None if one is missing."""
    over: RunMean | None = None
    """Mean over the available sets, with its interval; only for own runs."""
    source: str
    address: str
    """URL; empty if unknown."""
    same_protocol: bool | None
    """Whether the protocol is this project's: an agent with all tools, unparsed answers count as wrong; None if
    unknown."""
    protocol: str
    """How the figures were obtained, and what limits their comparison with others."""

    @property
    def same_list(self) -> bool | None:
        """Whether exactly the published test list was used, for all sets; None if unknown for one of them."""
        same = {self.list_is_published(name) for name in self.figures}
        return False if False in same else True if same == {True} else None

    def list_is_published(self, name: str) -> bool | None:
        """Whether exactly the published test list of a set was used; None if unknown."""
        return self.lists[name].same if name in self.lists else None


def scoreboard(
    all_metrics: Sequence[Metrics], over: Callable[[Sequence[Metrics]], RunMean | None] = lambda _: None
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


def _own_line(found: Sequence[Metrics], over: RunMean | None) -> ScoreboardLine:
    run = found[0].run
    intervals = {item.run.set: item.overall.balanced_accuracy for item in found if item.overall.balanced_accuracy}
    lists = {
        item.run.set: TestList(
            same=item.listing.same_list,
            name=f"{item.listing.evaluated} images, of {item.listing.published or 'no'} published",
            counts=Counts(**{name: getattr(item.overall, name) for name in ("tp", "fn", "tn", "fp")}),
        )
        for item in found
    }
    seen = {item.contamination.zero_shot for item in found}
    shot = "not zero-shot" if False in seen else "zero-shot" if seen == {True} else "training of the model unknown"
    flagged = [f"{item.run.set}: {flag}" for item in found for flag in item.flags]
    figures = {name: 100 * estimate.value for name, estimate in intervals.items()}
    return ScoreboardLine(
        name=run.title,
        kind="ours",
        figures=figures,
        intervals=intervals,
        mean=_printed_mean(figures),
        over=over,
        source="this run, results/SET/metrics.json",
        address="",
        lists=lists,
        same_protocol=None if run.mode is None else run.mode == "agent",
        protocol="; ".join(
            [
                *([f"policy {run.policy}, mode {run.mode}, {ROUNDS[run.rounds]}"] if run.rounds else []),
                *([f"{run.parameters['reading']} reading"] if "reading" in run.parameters else []),
                *([f"weights {run.model_sha256[:8]}"] if run.model_sha256 else []),
                *([f"priors {run.priors}"] if run.priors not in (None, "none") else []),
                shot,
                *flagged,
            ]
        ),
    )

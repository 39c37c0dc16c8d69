"""Paired timing: both sides in turn, in the same run, and the median of their ratios."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    what: str
    against: str
    ratio: float
    target: float
    better: Literal["higher", "lower"]

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def paired(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    runs: int = 5,
    before: Callable[[], object] = lambda: None,
    before_theirs: Callable[[], object] = lambda: None,
) -> float:
    """Median of ``theirs`` time over ``ours`` time: 2 means ours is twice as fast. One run of each warms up.

    The order within a pair alternates, so that a machine that slows down favours neither. ``before`` runs ahead of
    each run of ours, ``before_theirs`` of each run of theirs; they are not timed.
    """
    before()
    ours()
    before_theirs()
    theirs()
    ratios = []
    for turn in range(runs):
        if turn % 2:
            before_theirs()
            second = seconds(theirs)
            before()
            first = seconds(ours)
        else:
            before()
            first = seconds(ours)
            before_theirs()
            second = seconds(theirs)
        ratios.append(second / first)
    return statistics.median(ratios)

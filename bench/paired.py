"""Paired timing: both sides in turn, in the same run, and the median of their ratios."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPORTED_S = 2.5
BLOCK = 2**20


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


def own_memory(scratch: Path, size: int) -> None:
    """See to it that ``size`` bytes of free memory are this machine's, where only one side writes files.

    A virtual machine gives its host what was freed, two seconds later (Linux: ``mm/page_reporting.c``), and gets it
    back page by page: writing to the system's cache is then up to four times as slow, now and then.
    """
    # What waits to be written would be, beside the side that runs next.
    os.sync()
    time.sleep(REPORTED_S)
    block = bytes(BLOCK)
    with scratch.open("wb") as file:
        for _ in range(size // BLOCK + 1):
            file.write(block)
    scratch.unlink()


def set_aside(folder: Path) -> None:
    """Take away what the last run wrote, as empty files under another name, until the bench deletes them all.

    ext4 passes over inodes that were deleted in the last minutes (Linux: ``fs/ext4/ialloc.c``, ``recently_deleted``):
    making hundreds of files anew would take half of what copying them takes, for both sides, and hide what differs.
    """
    if not folder.is_dir():
        return
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    folder.rename(Path(tempfile.mkdtemp(prefix="aside-", dir=folder.parent)) / folder.name)


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

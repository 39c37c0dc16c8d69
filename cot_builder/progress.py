"""Progress of long work: a bar with rate and ETA on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
LINE_EVERY_S = 10.0
console = Console(stderr=True, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "–/s", style="cyan")


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    tell: Callable[[], str] = str,
    share: Callable[[T], float] | None = None,
) -> Iterator[T]:
    """Yield ``items``, showing done/total, rate and remaining time on standard error.

    Args:
        items: What is worked on.
        description: Shown in front.
        total: Number of items, where it is known.
        tell: What else there is to say at the moment.
        share: Of all the work, in [0, 1], what is behind once an item is done: the total is estimated from it.
    """
    done, about = 0, ""
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            task = progress.add_task(description, total=total)
            for item in items:
                yield item
                done += 1
                if share and (behind := share(item)) > 0:
                    # Not by `update`, which begins to measure the speed anew with every other total.
                    progress.tasks[0].total = round(done / behind)
                progress.update(task, completed=done, description=f"{description} {tell()}".rstrip())
            if share:
                progress.tasks[0].total = done
        return
    started = last = time.monotonic()
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            rate = done / (now - started)
            if share and (behind := share(item)) > 0:
                total, about = round(done / behind), "about "
            of = f"/{about}{total}, {max(total - done, 0) / rate:.0f} s left" if total else ""
            console.print(f"{description}: {done}{of}, {rate:.1f}/s{_also(tell)}", highlight=False)
    seconds = time.monotonic() - started
    console.print(f"{description}: {done} in {seconds:.1f} s{_also(tell)}", highlight=False)


def _also(tell: Callable[[], str]) -> str:
    return f", {said}" if (said := tell()) else ""

"""Progress of long work: a bar with rate and ETA on a terminal, otherwise a line every few seconds."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
LINE_INTERVAL_S = 10.0
console = Console(stderr=True, soft_wrap=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "–/s", style="cyan")


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    status: Callable[[], str] = str,
    share: Callable[[T], float] | None = None,
) -> Iterator[T]:
    """Yield ``items`` and show done/total, rate and remaining time on standard error.

    Args:
        items: The items to work on.
        description: Text in front of the progress.
        total: Number of items, if it is known.
        status: Returns additional text to show behind the progress.
        share: Returns the share of all work, in [0, 1], that is done after an item; the total is estimated from it.
    """
    done, about = 0, ""
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as progress:
            task = progress.add_task(description, total=total)
            for item in items:
                yield item
                done += 1
                if share and (behind := share(item)) > 0:
                    # Set directly: `update` restarts the speed measurement whenever the total changes.
                    progress.tasks[0].total = round(done / behind)
                progress.update(task, completed=done, description=f"{description} {status()}".rstrip())
            if share:
                progress.tasks[0].total = done
        return
    started = last = time.monotonic()
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_S:
            last = now
            rate = done / (now - started)
            if share and (behind := share(item)) > 0:
                total, about = round(done / behind), "about "
            of = f"/{about}{total}, {max(total - done, 0) / rate:.0f} s left" if total else ""
            console.print(f"{description}: {done}{of}, {rate:.1f}/s{_format_status(status)}", highlight=False)
    seconds = time.monotonic() - started
    console.print(f"{description}: {done} in {seconds:.1f} s{_format_status(status)}", highlight=False)


def _format_status(status: Callable[[], str]) -> str:
    return f", {text}" if (text := status()) else ""

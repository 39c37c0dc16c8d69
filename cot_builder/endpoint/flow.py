"""Many samples through one endpoint: bounded, in order, stopped cleanly."""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cot_builder.endpoint.client import TALLY, EndpointClient, Tally
from cot_builder.progress import LINE_EVERY_S, console

Item = TypeVar("Item")
Result = TypeVar("Result")

RUNNING = 1.25
"""Samples at work for each request that may be under way: a sample between two requests holds no request up."""
AHEAD = 8
"""Samples begun for each request that may be under way: one slow sample does not hold the others up."""
PANEL_EVERY_S = 0.5


async def run_in_order(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    take: Callable[[Result], None],
    client: EndpointClient,
    at_once: int,
    description: str,
    total: int,
    unit: str = "samples",
    tell: Callable[[], str] = str,
) -> None:
    """``take(await work(item))`` for every item, in the order of the items, many at work at a time.

    The first Ctrl-C lets every request under way finish and be kept, the second leaves at once. Likewise an
    error is raised only when nothing is under way any more.

    Args:
        items: Drawn only as far ahead as needed.
        work: Asks ``client``.
        take: Called one result at a time.
        client: Closed to new requests when the run has to end.
        at_once: Requests that may be under way.
        description: Shown beside the progress.
        total: Number of items.
        unit: What the items are, in the plural.
        tell: What else there is to say at the moment.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    room = asyncio.Semaphore(max(1, round(RUNNING * at_once)))
    tasks: deque[asyncio.Task[Result]] = deque()
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    progress = _Progress(client, description, total, unit, tell)

    def interrupt() -> None:
        interrupted.set()
        client.close_to_new()
        # The next one raises KeyboardInterrupt wherever the program is.
        loop.remove_signal_handler(signal.SIGINT)
        console.print(
            f"{description}: stopping; {client.under_way}. Press Ctrl-C again to leave at once",
            style="yellow",
            highlight=False,
        )

    async def one(item: Item) -> Result:
        async with room:
            TALLY.set(tally := progress.begin())
            result = await work(item)
            progress.finish(tally)
            return result

    # Only the main thread may; elsewhere Ctrl-C is somebody else's.
    with suppress(ValueError, RuntimeError, NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, interrupt)
    shown = asyncio.create_task(progress.show())
    try:
        left = iter(items)
        more = True
        while more or tasks:
            while more and len(tasks) < AHEAD * at_once and not interrupted.is_set():
                try:
                    tasks.append(asyncio.create_task(one(next(left))))
                except StopIteration:
                    more = False
            if not tasks:
                break
            take(await tasks.popleft())
        if interrupted.is_set():
            raise KeyboardInterrupt
    except Exception:
        client.close_to_new()
        await asyncio.gather(*tasks, return_exceptions=True)
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        shown.cancel()
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
        for task in tasks:
            task.cancel()
        progress.end()


class _Progress:
    """What the run did so far: a panel on a terminal, a line now and then elsewhere."""

    def __init__(
        self, client: EndpointClient, description: str, total: int, unit: str, tell: Callable[[], str]
    ) -> None:
        self._client = client
        self._description = description
        self._total = total
        self._unit = unit
        self._tell = tell
        self._started = time.monotonic()
        self._at_work: dict[int, Tally] = {}
        self._done = 0
        self._asked = 0
        """Done by asking, not by kept answers alone."""
        self._given = 0
        """Answers to these."""

    def begin(self) -> Tally:
        """A tally for one item more."""
        tally = Tally()
        self._at_work[id(tally)] = tally
        return tally

    def finish(self, tally: Tally) -> None:
        """Count an item as done."""
        del self._at_work[id(tally)]
        self._done += 1
        if tally.new:
            self._asked += 1
            self._given += tally.kept + tally.new

    @property
    def _share(self) -> float:
        """Share of the asking that is done, 0 to 1; 0 while no item is done by asking.

        Items at work count by their answers, against the mean of those done by asking.
        """
        if not self._asked:
            return 0.0
        mean = self._given / self._asked
        begun = sum(min(1.0, (tally.kept + tally.new) / mean) for tally in self._at_work.values() if tally.new)
        return (self._asked + begun) / (self._total - (self._done - self._asked))

    async def show(self) -> None:
        if not console.is_terminal:
            while True:
                await asyncio.sleep(LINE_EVERY_S)
                console.print(self._line(), highlight=False)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._panel(), refresh=True)
                await asyncio.sleep(PANEL_EVERY_S)

    def end(self) -> None:
        console.print(self._line(), highlight=False)

    def _panel(self) -> Table:
        panel = Table.grid()
        panel.add_row(ProgressBar(total=max(self._total, 1), completed=self._done, width=60))
        panel.add_row(Text(self._line()))
        return panel

    def _line(self) -> str:
        stats, spent = self._client.ledger.stats, self._client.ledger.budget
        seconds = max(time.monotonic() - self._started, 1e-9)
        parts = [
            f"{self._description}: {self._done}/{self._total} {self._unit}",
            f"{stats.answered} answers ({stats.answered / seconds:.1f}/s), {stats.kept} kept ones",
            f"{self._client.throttle.under_way} of {self._client.throttle.limit} under way",
        ]
        if self._client.trouble and not stats.answered:
            parts.append(f"retrying: {self._client.trouble}")
        if stats.overloaded:
            parts.append(f"{stats.overloaded} x overloaded")
        if pause := self._client.throttle.paused:
            parts.append(f"the server asks to wait {pause:.0f} s")
        if stats.failed:
            parts.append(f"{stats.failed} not answered")
        parts.append(f"{stats.input + stats.output} tokens")
        share = self._share
        projected = f"{stats.usd / share:.2f} projected, " if share else ""
        parts.append(f"{stats.usd:.2f} USD, {projected}{spent.spent_usd:.2f} in all runs")
        if said := self._tell():
            parts.append(said)
        if share and self._done < self._total:
            parts.append(f"{seconds * (1 - share) / share:.0f} s left")
        return ", ".join(parts)

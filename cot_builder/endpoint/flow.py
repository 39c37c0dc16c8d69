"""Process many samples through one endpoint: bounded concurrency, results in order, clean stop."""

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

from cot_builder.endpoint.client import SAMPLE_TALLY, EndpointClient, Tally
from cot_builder.progress import LINE_INTERVAL_S, console

Item = TypeVar("Item")
Result = TypeVar("Result")

ACTIVE_PER_SLOT = 1.25
"""Samples in work per request slot; above 1, because a sample between two requests uses no slot."""
STARTED_PER_SLOT = 8
"""Samples started per request slot, so that one slow sample does not hold up the others."""
PANEL_REFRESH_S = 0.5


async def run_in_order(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    on_result: Callable[[Result], None],
    client: EndpointClient,
    concurrency: int,
    description: str,
    total: int,
    unit: str = "samples",
    status: Callable[[], str] = str,
) -> None:
    """Call ``on_result(await work(item))`` for every item, in the order of the items, with many items in work at once.

    After the first Ctrl-C, requests in flight finish and their answers are stored; the second Ctrl-C exits at once. An
    error, too, is raised only after no request is in flight any more.

    Args:
        items: The items; read only as far ahead as needed.
        work: Processes one item with ``client``.
        on_result: Called with one result at a time.
        client: Stopped from sending new requests when the run has to end.
        concurrency: Maximum number of requests in flight.
        description: Label of the progress display.
        total: Number of items.
        unit: Name of the items, in the plural.
        status: Returns further text for the progress display.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    room = asyncio.Semaphore(max(1, round(ACTIVE_PER_SLOT * concurrency)))
    tasks: deque[asyncio.Task[Result]] = deque()
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    progress = _Progress(client, description, total, unit, status)

    def interrupt() -> None:
        interrupted.set()
        client.stop_sending()
        # The next Ctrl-C raises KeyboardInterrupt at once.
        loop.remove_signal_handler(signal.SIGINT)
        console.print(
            f"{description}: stopping; {client.describe_pending()}. Press Ctrl-C again to exit at once",
            style="yellow",
            highlight=False,
        )

    async def process(item: Item) -> Result:
        async with room:
            SAMPLE_TALLY.set(tally := progress.start_item())
            result = await work(item)
            progress.finish_item(tally)
            return result

    # Only the main thread may install a signal handler; in other threads the caller handles Ctrl-C.
    with suppress(ValueError, RuntimeError, NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, interrupt)
    shown = asyncio.create_task(progress.show())
    try:
        remaining = iter(items)
        more = True
        while more or tasks:
            while more and len(tasks) < STARTED_PER_SLOT * concurrency and not interrupted.is_set():
                try:
                    tasks.append(asyncio.create_task(process(next(remaining))))
                except StopIteration:
                    more = False
            if not tasks:
                break
            on_result(await tasks.popleft())
        if interrupted.is_set():
            raise KeyboardInterrupt
    except Exception:
        client.stop_sending()
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
    """Shows the progress of a run: a live panel on a terminal, otherwise a line at intervals."""

    def __init__(
        self, client: EndpointClient, description: str, total: int, unit: str, status: Callable[[], str]
    ) -> None:
        self._client = client
        self._description = description
        self._total = total
        self._unit = unit
        self._status = status
        self._started = time.monotonic()
        self._active: dict[int, Tally] = {}
        self._done = 0
        self._items_with_requests = 0
        """Finished items that needed at least one new answer."""
        self._answers_to_them = 0
        """Answers that those items received."""

    def start_item(self) -> Tally:
        """Start one more item, and return its tally."""
        tally = Tally()
        self._active[id(tally)] = tally
        return tally

    def finish_item(self, tally: Tally) -> None:
        """Count an item as finished."""
        del self._active[id(tally)]
        self._done += 1
        if tally.new:
            self._items_with_requests += 1
            self._answers_to_them += tally.cached + tally.new

    @property
    def _fraction_done(self) -> float:
        """Finished share of the work that needs new answers, 0 to 1; 0 until the first of those items has finished.

        An unfinished item counts by its answers so far, relative to the mean number of answers of the finished items.
        """
        if not self._items_with_requests:
            return 0.0
        mean = self._answers_to_them / self._items_with_requests
        started = sum(min(1.0, (tally.cached + tally.new) / mean) for tally in self._active.values() if tally.new)
        return (self._items_with_requests + started) / (self._total - (self._done - self._items_with_requests))

    async def show(self) -> None:
        if not console.is_terminal:
            while True:
                await asyncio.sleep(LINE_INTERVAL_S)
                console.print(self._status_line(), highlight=False)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._make_panel(), refresh=True)
                await asyncio.sleep(PANEL_REFRESH_S)

    def end(self) -> None:
        console.print(self._status_line(), highlight=False)

    def _make_panel(self) -> Table:
        panel = Table.grid()
        panel.add_row(ProgressBar(total=max(self._total, 1), completed=self._done, width=60))
        panel.add_row(Text(self._status_line()))
        return panel

    def _status_line(self) -> str:
        stats, spent = self._client.ledger.stats, self._client.ledger.budget
        seconds = max(time.monotonic() - self._started, 1e-9)
        parts = [
            f"{self._description}: {self._done}/{self._total} {self._unit}",
            f"{stats.answered} answers ({stats.answered / seconds:.1f}/s), {stats.cached} from the cache",
            f"{self._client.throttle.in_flight} of {self._client.throttle.limit} requests in flight",
        ]
        if self._client.last_error and not stats.answered:
            parts.append(f"retrying: {self._client.last_error}")
        if stats.overloaded:
            parts.append(f"{stats.overloaded} x overloaded")
        if pause := self._client.throttle.pause_left_s:
            parts.append(f"the server asks to wait {pause:.0f} s")
        if stats.failed:
            parts.append(f"{stats.failed} not answered")
        parts.append(f"{stats.input + stats.output} tokens")
        share = self._fraction_done
        projected = f"{stats.usd / share:.2f} projected, " if share else ""
        parts.append(f"{stats.usd:.2f} USD, {projected}{spent.spent_usd:.2f} in all runs")
        if text := self._status():
            parts.append(text)
        if share and self._done < self._total:
            parts.append(f"{seconds * (1 - share) / share:.0f} s left")
        return ", ".join(parts)

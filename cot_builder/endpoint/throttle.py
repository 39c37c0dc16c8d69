"""How many requests may be under way: within the provider's limits, fewer when it says it has enough."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from aiolimiter import AsyncLimiter

from cot_builder.storage.retry import parse_wait

GROWTH = 1.0
"""Requests more at once after as many successes as are allowed at once (additive increase, RFC 5681)."""
MINUTE_S = 60.0


class Throttle:
    """Additive increase, multiplicative decrease of the concurrency, beside limits by the minute."""

    def __init__(self, most: int, rpm: int | None = None, tpm: int | None = None) -> None:
        self._most = float(most)
        self._limit = float(most)
        self._taken = 0
        """Places, of which some wait for the minute's limits or a pause."""
        self._under_way = 0
        self._room = asyncio.Condition()
        self._resume_at = 0.0
        self._halved_at = 0.0
        self._requests = AsyncLimiter(rpm, MINUTE_S) if rpm else None
        self._tokens = AsyncLimiter(tpm, MINUTE_S) if tpm else None
        self._tpm = tpm or 0
        self._waits: set[asyncio.Timeout] = set()
        self._closed = False

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return max(1, int(self._limit))

    @property
    def under_way(self) -> int:
        """Requests that are sent and not answered."""
        return self._under_way

    @property
    def paused(self) -> float:
        """Seconds until anything is sent again."""
        return max(0.0, self._resume_at - time.monotonic())

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Wait for a place for a request of about ``tokens`` tokens, and hold it; once closed, wait no more."""
        async with self._room:
            await self._room.wait_for(lambda: self._taken < self.limit)
            self._taken += 1
        try:
            async with self._until_closed():
                if self._requests:
                    await self._requests.acquire()
                if self._tokens:
                    await self._tokens.acquire(min(max(tokens, 1), self._tpm))
                while pause := self.paused:
                    await asyncio.sleep(pause)
            self._under_way += 1
            try:
                yield
            finally:
                self._under_way -= 1
        finally:
            async with self._room:
                self._taken -= 1
                self._room.notify_all()

    async def rest(self, wait: float) -> None:
        """Wait ``wait`` seconds, or until it is closed."""
        async with self._until_closed():
            await asyncio.sleep(wait)

    def close(self) -> None:
        """End every wait, now and later: who waited has to ask whether to go on."""
        self._closed = True
        for wait in self._waits:
            wait.reschedule(0.0)

    @asynccontextmanager
    async def _until_closed(self) -> AsyncIterator[None]:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self._closed else None) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)

    def succeeded(self, headers: Mapping[str, str]) -> None:
        """Grow a little; heed rate headers that say nothing is left."""
        self._limit = min(self._most, self._limit + GROWTH / self.limit)
        for what in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{what}") == "0":
                self.pause(parse_wait(headers.get(f"x-ratelimit-reset-{what}", "")) or 0.0)

    def overloaded(self, sent: float, wait: float | None) -> None:
        """Halve, once for all that were under way together; wait as long as the server asks.

        Args:
            sent: When the refused request was sent, ``time.monotonic()``.
            wait: Seconds to wait, where the server named them.
        """
        if sent >= self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = time.monotonic()
        if wait:
            self.pause(wait)

    def pause(self, wait: float) -> None:
        """Send nothing for ``wait`` seconds."""
        self._resume_at = max(self._resume_at, time.monotonic() + wait)

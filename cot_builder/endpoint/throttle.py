"""Limit the requests in flight: within the provider's rate limits, and fewer when it reports an overload."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from aiolimiter import AsyncLimiter

from cot_builder.storage.retry import parse_wait

GROWTH = 1.0
"""Increase of the limit after as many successes as the limit allows at once (additive increase, RFC 5681)."""
MINUTE_S = 60.0


class Throttle:
    """Adapts the concurrency by additive increase and multiplicative decrease, and keeps the limits per minute."""

    def __init__(self, concurrency: int, rpm: int | None = None, tpm: int | None = None) -> None:
        self._max_limit = float(concurrency)
        self._limit = float(concurrency)
        self._slots_taken = 0
        """Slots in use, including those that still wait for a rate limit or a pause."""
        self._in_flight = 0
        self._slot_freed = asyncio.Condition()
        self._resume_at = 0.0
        self._halved_at = 0.0
        self._requests = AsyncLimiter(rpm, MINUTE_S) if rpm else None
        self._tokens = AsyncLimiter(tpm, MINUTE_S) if tpm else None
        self._tpm = tpm or 0
        self._timeouts: set[asyncio.Timeout] = set()
        self._closed = False

    @property
    def limit(self) -> int:
        """Number of requests that may be in flight now."""
        return max(1, int(self._limit))

    @property
    def in_flight(self) -> int:
        """Number of requests that are sent and not answered yet."""
        return self._in_flight

    @property
    def pause_left_s(self) -> float:
        """Seconds until requests are sent again."""
        return max(0.0, self._resume_at - time.monotonic())

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Wait for a slot for a request of about ``tokens`` tokens, and hold it; after :meth:`close`, do not wait."""
        async with self._slot_freed:
            await self._slot_freed.wait_for(lambda: self._slots_taken < self.limit)
            self._slots_taken += 1
        try:
            async with self._until_closed():
                if self._requests:
                    await self._requests.acquire()
                if self._tokens:
                    await self._tokens.acquire(min(max(tokens, 1), self._tpm))
                while pause := self.pause_left_s:
                    await asyncio.sleep(pause)
            self._in_flight += 1
            try:
                yield
            finally:
                self._in_flight -= 1
        finally:
            async with self._slot_freed:
                self._slots_taken -= 1
                self._slot_freed.notify_all()

    async def wait(self, seconds: float) -> None:
        """Wait ``seconds``, or until the throttle is closed."""
        async with self._until_closed():
            await asyncio.sleep(seconds)

    def close(self) -> None:
        """End all current and future waits. Callers that waited have to check whether they may still send."""
        self._closed = True
        for wait in self._timeouts:
            wait.reschedule(0.0)

    @asynccontextmanager
    async def _until_closed(self) -> AsyncIterator[None]:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self._closed else None) as wait:
                self._timeouts.add(wait)
                try:
                    yield
                finally:
                    self._timeouts.discard(wait)

    def record_success(self, headers: Mapping[str, str]) -> None:
        """Raise the limit a little; pause if the rate-limit headers report that nothing remains."""
        self._limit = min(self._max_limit, self._limit + GROWTH / self.limit)
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                self.pause(parse_wait(headers.get(f"x-ratelimit-reset-{kind}", "")) or 0.0)

    def record_overload(self, sent: float, wait: float | None) -> None:
        """Halve the limit, once for all requests that were in flight together; pause as long as the server asks.

        Args:
            sent: Time when the refused request was sent, of ``time.monotonic()``.
            wait: Seconds to wait, if the server named them.
        """
        if sent >= self._halved_at:
            self._limit = max(1.0, self._limit / 2)
            self._halved_at = time.monotonic()
        if wait:
            self.pause(wait)

    def pause(self, wait: float) -> None:
        """Send nothing for ``wait`` seconds."""
        self._resume_at = max(self._resume_at, time.monotonic() + wait)

"""A hard cap on spend over all runs, which counts the requests in flight at their maximum cost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from schemas.errors import IndusCotError


class BudgetSpentError(IndusCotError):
    """The next request could exceed the cap."""


@dataclass
class _Reserved:
    usd: float
    tokens: int


class Budget:
    """Reserves the maximum cost of every request in flight."""

    def __init__(self, usd: float | None, tokens: int | None, spent: tuple[float, int]) -> None:
        self._cap_usd = usd
        self._cap_tokens = tokens
        self.spent_usd, self.spent_tokens = spent
        self._reserved = _Reserved(0.0, 0)
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, usd: float, tokens: int) -> AsyncIterator[None]:
        """Reserve ``usd`` and ``tokens`` while a request is in flight; waits while other requests may free some.

        Raises:
            BudgetSpentError: the request could exceed the cap, and no request in flight can free enough.
        """
        async with self._changed:
            while not self._fits(usd, tokens):
                if not self._reserved.tokens:
                    raise BudgetSpentError(self._format_error(usd, tokens))
                await self._changed.wait()
            self._reserved.usd += usd
            self._reserved.tokens += tokens
        try:
            yield
        finally:
            async with self._changed:
                self._reserved.usd -= usd
                self._reserved.tokens -= tokens
                self._changed.notify_all()

    def add_spent(self, usd: float, tokens: int) -> None:
        """Add the actual cost of an answer."""
        self.spent_usd += usd
        self.spent_tokens += tokens

    def _fits(self, usd: float, tokens: int) -> bool:
        over_usd = self._cap_usd is not None and self.spent_usd + self._reserved.usd + usd > self._cap_usd + 1e-9
        over_tokens = (
            self._cap_tokens is not None and self.spent_tokens + self._reserved.tokens + tokens > self._cap_tokens
        )
        return not (over_usd or over_tokens)

    def _format_error(self, usd: float, tokens: int) -> str:
        caps = []
        if self._cap_usd is not None:
            caps.append(f"{self.spent_usd:.4f} of {self._cap_usd:g} USD are spent, the next request may cost {usd:.4f}")
        if self._cap_tokens is not None:
            caps.append(
                f"{self.spent_tokens} of {self._cap_tokens} tokens are spent, the next request may take {tokens}"
            )
        return (
            f"budget limit reached: {'; '.join(caps)}. All answers are stored. To continue, raise the limit "
            "(--set budget.usd=… or budget.tokens=…) and run the same command again: nothing is paid twice"
        )

"""A hard cap on what is spent, over all runs, that counts what is under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from schemas.errors import IndusCotError


class BudgetSpentError(IndusCotError):
    """The next request could exceed the cap."""


@dataclass
class _Held:
    usd: float
    tokens: int


class Budget:
    """Holds back, for every request under way, the most it can cost."""

    def __init__(self, usd: float | None, tokens: int | None, spent: tuple[float, int]) -> None:
        self._usd = usd
        self._tokens = tokens
        self.spent_usd, self.spent_tokens = spent
        self._held = _Held(0.0, 0)
        self._settled = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, usd: float, tokens: int) -> AsyncIterator[None]:
        """Hold back ``usd`` and ``tokens`` while a request is under way; waits while others may give some back.

        Raises:
            BudgetSpentError: the request could exceed the cap, and nothing under way could make room for it.
        """
        async with self._settled:
            while not self._fits(usd, tokens):
                if not self._held.tokens:
                    raise BudgetSpentError(self._message(usd, tokens))
                await self._settled.wait()
            self._held.usd += usd
            self._held.tokens += tokens
        try:
            yield
        finally:
            async with self._settled:
                self._held.usd -= usd
                self._held.tokens -= tokens
                self._settled.notify_all()

    def book(self, usd: float, tokens: int) -> None:
        """Count what an answer did cost."""
        self.spent_usd += usd
        self.spent_tokens += tokens

    def _fits(self, usd: float, tokens: int) -> bool:
        over_usd = self._usd is not None and self.spent_usd + self._held.usd + usd > self._usd + 1e-9
        over_tokens = self._tokens is not None and self.spent_tokens + self._held.tokens + tokens > self._tokens
        return not (over_usd or over_tokens)

    def _message(self, usd: float, tokens: int) -> str:
        caps = []
        if self._usd is not None:
            caps.append(f"{self.spent_usd:.4f} of {self._usd:g} USD are spent, the next request may cost {usd:.4f}")
        if self._tokens is not None:
            caps.append(f"{self.spent_tokens} of {self._tokens} tokens are spent, the next request may take {tokens}")
        return (
            f"the budget ends here: {'; '.join(caps)}. Every answer is kept. To go on, raise it "
            "(--set budget.usd=… or budget.tokens=…) and run the same command again: nothing is paid twice"
        )

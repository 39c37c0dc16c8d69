"""The ledger of an endpoint: what single requests and batches share. It stores answers, books costs, reads refusals."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cot_builder.endpoint import prices
from cot_builder.endpoint.budget import Budget
from cot_builder.endpoint.prices import Price, Usage
from cot_builder.endpoint.replies import (
    FATAL_STATUSES,
    OVERLOAD_STATUSES,
    TRANSIENT_STATUSES,
    Answer,
    NotAnsweredError,
    StopError,
    TransientError,
    as_answer,
    read_usage,
    words_of,
)
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import Answers, Stored
from cot_builder.params import Budget as BudgetParams
from cot_builder.params import EndpointPace
from cot_builder.storage.retry import backoff, parse_wait

# openai takes a second to import: most runs ask no model.
if TYPE_CHECKING:
    import openai

LONGEST_WAIT_S = 60.0
MAX_FAILURES_IN_A_ROW = 20
"""Requests that use up all their attempts with no answer to any in between, after which no more are sent."""
NO_MONEY = "insufficient_quota"
HIDDEN = "[key]"
LEAST_KEY = 12
"""Characters from which a key is a secret."""


@dataclass
class Stats:
    """What the client did since it was opened."""

    kept: int = 0
    answered: int = 0
    overloaded: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    usd: float = 0.0


class Ledger:
    """Answers, money and failures of one endpoint."""

    def __init__(
        self,
        answers: Answers,
        pace: EndpointPace,
        budget: BudgetParams,
        *,
        price: Callable[[str], Price],
        address: str,
        key: str,
        section: str,
    ) -> None:
        """Open the ledger.

        Args:
            answers: The store.
            pace: Attempts and waiting times.
            budget: The caps.
            price: Price of a model.
            address: Of the endpoint, for messages.
            key: The endpoint's key, which no message and no stored answer may hold.
            section: Section of params.yaml that names the endpoint, for messages.
        """
        self.stats = Stats()
        self.answers = answers
        self.budget = Budget(budget.usd, budget.tokens, answers.spent())
        self.price = price
        self.address = address
        self.section = section
        self.heard = False
        """Whether the endpoint has answered anything, a refusal included."""
        self.closing = False
        """Whether nothing new may be sent."""
        self._pace = pace
        self._key = key
        self._failed_in_a_row = 0

    def keep(self, request: Request, price: Price, response: dict[str, Any], batch: bool = False) -> Answer:
        """Store the answer to ``request`` and book what it cost."""
        usage = read_usage(response, prices.expected_input(price, request), request.max_tokens)
        usd = prices.cost(price, usage, batch)
        return self.book(request.key, request.step, request.model, response, usage, usd)

    def book(self, key: str, step: str, model: str, response: dict[str, Any], usage: Usage, usd: float) -> Answer:
        """Store an answer whose usage and cost in USD are known."""
        self.answers.put(key, step, model, response, usage, usd)
        self.budget.book(usd, usage.total)
        self.stats.answered += 1
        self._failed_in_a_row = 0
        self.stats.input += usage.input
        self.stats.output += usage.output
        self.stats.usd += usd
        return as_answer(Stored(response, usage, usd), kept=False)

    def exhausted(self, reason: str) -> Exception:
        """What to raise when all attempts are used up: it ends the request, or the run where none gets through."""
        self._failed_in_a_row += 1
        if not self.heard or self._failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            return StopError(f"{self.address}: {reason}; check that the server runs. Every answer so far is kept")
        return NotAnsweredError(reason)

    def pause(self, attempt: int, wait: float | None) -> float:
        """Seconds between ``attempt`` and the next, no less than the server asks."""
        # Jitter is no part of any result: it needs no seed.
        pause = backoff(attempt, self._pace.backoff_s, LONGEST_WAIT_S) * random.uniform(0.5, 1.5)
        return max(pause, wait or 0.0)

    def refusal(self, error: "openai.APIStatusError") -> Exception:
        """The error to raise for a refused request: it ends the run, ends the request, or passes."""
        status = error.status_code
        said = words_of(error.body or error.message, self.hide)
        if status in FATAL_STATUSES or error.code == NO_MONEY:
            advice = {401: "check the key", 402: "top up the account", 403: "check the key's rights"}.get(
                status,
                "top up the account"
                if error.code == NO_MONEY
                else f"check {self.section}.base_url and {self.section}.model",
            )
            return StopError(f"{self.address} answers {status}: {said}; {advice}. Every answer so far is kept")
        if status in TRANSIENT_STATUSES:
            wait = parse_wait(error.response.headers.get("retry-after", ""))
            return TransientError(f"status {status}", status in OVERLOAD_STATUSES, wait)
        return NotAnsweredError(f"{self.address} answers {status}: {said}")

    def hide(self, text: str) -> str:
        """``text`` without the key, should a server repeat it."""
        # A stand-in such as "none" is no secret, and a word of answers.
        return text.replace(self._key, HIDDEN) if len(self._key) >= LEAST_KEY else text

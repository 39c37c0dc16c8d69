"""The ledger of an endpoint, shared by single requests and batches: stores answers, books costs, classifies errors."""

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
    extract_error_text,
    read_usage,
    to_answer,
)
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import AnswerStore, StoredAnswer
from cot_builder.params import Budget as BudgetParams
from cot_builder.params import EndpointLimits
from cot_builder.storage.retry import backoff, parse_wait

# openai takes a second to import: most runs ask no model.
if TYPE_CHECKING:
    import openai

MAX_WAIT_S = 60.0
MAX_FAILURES_IN_A_ROW = 20
"""Stop the run after this many consecutive requests that failed in all their attempts."""
NO_CREDIT_CODE = "insufficient_quota"
REDACTED = "[key]"
MIN_KEY_LENGTH = 12
"""Shorter keys are placeholders and are not redacted."""


@dataclass
class Stats:
    """Counts since the client was created."""

    cached: int = 0
    answered: int = 0
    overloaded: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    usd: float = 0.0


class Ledger:
    """Stores the answers of one endpoint, and counts its costs and failures."""

    def __init__(
        self,
        answers: AnswerStore,
        limits: EndpointLimits,
        budget: BudgetParams,
        *,
        price: Callable[[str], Price],
        address: str,
        key: str,
        section: str,
    ) -> None:
        """Create the ledger.

        Args:
            answers: The answer store.
            limits: Number of attempts and backoff.
            budget: Caps on spend.
            price: Returns the price of a model.
            address: Address of the endpoint, for messages.
            key: The endpoint's API key, redacted in messages and in stored answers.
            section: Section of params.yaml that configures the endpoint, for messages.
        """
        self.stats = Stats()
        self.answers = answers
        self.budget = Budget(budget.usd, budget.tokens, answers.spent())
        self.price = price
        self.address = address
        self.section = section
        self.has_responded = False
        """Whether the endpoint has responded at all, an error response included."""
        self.is_closing = False
        """Whether no new request may be sent."""
        self._limits = limits
        self._key = key
        self._failures_in_a_row = 0

    def store_response(self, request: Request, price: Price, response: dict[str, Any], batch: bool = False) -> Answer:
        """Store the response to ``request``, and book its cost from its token usage."""
        usage = read_usage(response, prices.estimate_input_tokens(price, request), request.max_tokens)
        usd = prices.compute_cost(price, usage, batch)
        return self.store_with_cost(request.key, request.step, request.model, response, usage, usd)

    def store_with_cost(
        self, key: str, step: str, model: str, response: dict[str, Any], usage: Usage, usd: float
    ) -> Answer:
        """Store a response whose token usage and cost in USD are known."""
        self.answers.put(key, step, model, response, usage, usd)
        self.budget.add_spent(usd, usage.total)
        self.stats.answered += 1
        self._failures_in_a_row = 0
        self.stats.input += usage.input
        self.stats.output += usage.output
        self.stats.usd += usd
        return to_answer(StoredAnswer(response, usage, usd), is_cached=False)

    def make_exhausted_error(self, reason: str) -> Exception:
        """Return the error of a request that failed in all attempts: it stops the run if no request gets through."""
        self._failures_in_a_row += 1
        if not self.has_responded or self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            return StopError(f"{self.address}: {reason}; check that the server runs. All answers so far are stored")
        return NotAnsweredError(reason)

    def compute_delay(self, attempt: int, wait: float | None) -> float:
        """Return the seconds to wait after ``attempt`` (from 0), at least the ``wait`` that the server asked for."""
        # The jitter affects no result, so it needs no seed.
        delay = backoff(attempt, self._limits.backoff_s, MAX_WAIT_S) * random.uniform(0.5, 1.5)
        return max(delay, wait or 0.0)

    def classify_error(self, error: "openai.APIStatusError") -> Exception:
        """Map an error response to an exception: stop the run, give up on the request, or retry."""
        status = error.status_code
        text = extract_error_text(error.body or error.message, self.redact_key)
        if status in FATAL_STATUSES or error.code == NO_CREDIT_CODE:
            advice = {401: "check the key", 402: "top up the account", 403: "check the key's rights"}.get(
                status,
                "top up the account"
                if error.code == NO_CREDIT_CODE
                else f"check {self.section}.base_url and {self.section}.model",
            )
            return StopError(f"{self.address} answers {status}: {text}; {advice}. All answers so far are stored")
        if status in TRANSIENT_STATUSES:
            wait = parse_wait(error.response.headers.get("retry-after", ""))
            return TransientError(f"status {status}", status in OVERLOAD_STATUSES, wait)
        return NotAnsweredError(f"{self.address} answers {status}: {text}")

    def redact_key(self, text: str) -> str:
        """Replace the API key in ``text``, in case a server repeats it."""
        # Don't redact placeholder keys like "none": the word also occurs in answers.
        return text.replace(self._key, REDACTED) if len(self._key) >= MIN_KEY_LENGTH else text

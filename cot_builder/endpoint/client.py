"""The client of an endpoint: caches answers, counts and caps cost, limits the rate, retries."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cot_builder.endpoint import prices
from cot_builder.endpoint.ledger import Ledger
from cot_builder.endpoint.prices import Price
from cot_builder.endpoint.replies import (
    Answer,
    CacheMissError,
    NotAnsweredError,
    StopError,
    TransientError,
    find_root_cause,
    read_response,
    to_answer,
)
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import AnswerStore
from cot_builder.endpoint.throttle import Throttle
from cot_builder.params import Budget as BudgetParams
from cot_builder.params import EndpointLimits
from schemas.errors import IndusCotError

# openai takes a second to import: most runs ask no model.
if TYPE_CHECKING:
    import openai

    from cot_builder.endpoint.batch import BatchQueue


class Endpoint(NamedTuple):
    """A model server, as configured in a section of params.yaml."""

    base_url: str
    """Empty for OpenAI's own server."""
    api_key_env: str
    """Name of the environment variable that holds the API key."""
    models: Sequence[str]
    """The models that are asked, without repeats."""
    section: str
    """Section of params.yaml, ``teacher`` or ``evaluate``; messages name its parameters."""


@dataclass
class Tally:
    """Number of answers that one sample received."""

    cached: int = 0
    """From the store, or shared with an equal request in flight."""
    new: int = 0


SAMPLE_TALLY: ContextVar[Tally] = ContextVar("tally")
"""Tally of the sample that this asyncio task and its subtasks work on; unset where nothing is counted."""


class EndpointClient:
    """Asks one endpoint. Use it as an async context manager, within one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        limits: EndpointLimits,
        budget: BudgetParams,
        answers: AnswerStore,
        *,
        price: Callable[[str], Price],
        offline: bool = False,
        refresh: bool = False,
    ) -> None:
        """Create the client.

        Args:
            endpoint: Address, name of the key's environment variable, models.
            limits: Concurrency, rate limits, timeouts, attempts.
            budget: Caps on spend.
            answers: The answer store.
            price: Returns the price of a model.
            offline: Send nothing; a request that is not in the store raises :class:`CacheMissError`.
            refresh: Send requests again even if the store has an answer.

        Raises:
            StopError: the environment variable of the API key is not set.
        """
        self.last_error = ""
        """Error of the last failed attempt, which will be retried."""
        self.throttle = Throttle(limits.concurrency, limits.rpm, limits.tpm)
        self._limits = limits
        self._offline = offline
        self._refresh = refresh
        self._in_flight: dict[str, asyncio.Future[Answer]] = {}
        self._fatal_error: IndusCotError | None = None
        key = "" if offline else _read_key(endpoint)
        address = endpoint.base_url or "api.openai.com"
        self.ledger = Ledger(answers, limits, budget, price=price, address=address, key=key, section=endpoint.section)
        self._sdk = None if offline else _make_sdk_client(endpoint, limits, key)
        # Collect open batches even if batch mode is off now: they are paid for.
        self._batches: BatchQueue | None = None
        if self._sdk is not None and (limits.batch or answers.open_batches()):
            from cot_builder.endpoint import batch

            self._batches = batch.BatchQueue(self.ledger, self._sdk, limits)

    async def __aenter__(self) -> "EndpointClient":
        if self._batches:
            self._batches.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._batches:
            await self._batches.stop(collect=kind is None and not self.ledger.is_closing)
        if self._sdk is not None:
            await self._sdk.close()

    def stop_sending(self) -> None:
        """Send no new requests. Requests in flight are still awaited and their answers stored.

        Batches are not awaited: they stay open, and a later run collects them.
        """
        self.ledger.is_closing = True
        self.throttle.close()
        if self._batches:
            self._batches.close()

    def describe_pending(self) -> str:
        """Describe, for a console message, what the client still waits for after :meth:`stop_sending`."""
        batches = "; the next run collects open batches" if self._batches else ""
        return f"waiting for {self.throttle.in_flight} requests in flight, whose answers are stored{batches}"

    async def ask(self, request: Request, offline: bool = False, refresh: bool = False) -> Answer:
        """Return the answer to ``request`` from the store, or ask the endpoint and store the answer first.

        Equal requests that are in flight at the same time are sent once.

        Args:
            request: The request.
            offline: Do not send this request.
            refresh: Send this request even if the store has an answer.

        Raises:
            CacheMissError: sending is off, and the store has no answer.
            NotAnsweredError: this request cannot be answered; others may be.
            IndusCotError: the run has to stop because of the budget, the key, the address or the disk.
        """
        answer = await self._ask(request, offline, refresh)
        if tally := SAMPLE_TALLY.get(None):
            tally.cached += answer.is_cached
            tally.new += not answer.is_cached
        return answer

    async def _ask(self, request: Request, offline: bool, refresh: bool) -> Answer:
        refresh = (refresh or self._refresh) and not (offline or self._offline)
        if waiting := self._in_flight.get(request.key):
            return (await asyncio.shield(waiting))._replace(is_cached=True)
        if not refresh and (stored := self.ledger.answers.get(request.key)):
            self.ledger.stats.cached += 1
            return to_answer(stored, is_cached=True)
        if self._offline or offline:
            raise CacheMissError(request)
        if self._fatal_error:
            raise self._fatal_error
        if self.ledger.is_closing:
            raise CacheMissError(request)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._in_flight[request.key] = future
        try:
            answer = await self._ask_endpoint(request, refresh)
        except BaseException as error:
            if isinstance(error, IndusCotError):
                self._fatal_error = error
            elif isinstance(error, NotAnsweredError):
                self.ledger.stats.failed += 1
            future.set_exception(error if isinstance(error, Exception) else CacheMissError(request))
            # Mark the exception as retrieved: no other caller may be waiting, and asyncio would log it.
            future.exception()
            raise
        else:
            future.set_result(answer)
            return answer
        finally:
            del self._in_flight[request.key]

    async def _ask_endpoint(self, request: Request, refresh: bool) -> Answer:
        price = self.ledger.price(request.model)
        bound = prices.max_usage(price, request)
        if self._batches and (answer := await self._batches.get_from_earlier_batch(request, refresh)):
            return answer
        async with self.ledger.budget.reserve(prices.compute_cost(price, bound, self._limits.batch), bound.total):
            if self._batches and self._limits.batch:
                return await self._batches.ask(request, price)
            response = await self._send_with_retries(request, price)
            return self.ledger.store_response(request, price, response)

    async def _send_with_retries(self, request: Request, price: Price) -> dict[str, Any]:
        tokens = prices.estimate_input_tokens(price, request) + request.max_tokens
        errors: list[str] = []
        for attempt in range(self._limits.attempts):
            if self.ledger.is_closing and attempt:
                raise CacheMissError(request)
            async with self.throttle.slot(tokens):
                if self._fatal_error:
                    raise self._fatal_error
                if self.ledger.is_closing:
                    raise CacheMissError(request)
                self.ledger.answers.check_space()
                sent = time.monotonic()
                try:
                    return await self._send(request)
                except TransientError as error:
                    errors.append(str(error))
                    self.last_error = str(error)
                    if error.overloaded:
                        self.ledger.stats.overloaded += 1
                        self.throttle.record_overload(sent, error.wait)
                    wait = error.wait
            if attempt + 1 < self._limits.attempts:
                await self.throttle.wait(self.ledger.compute_delay(attempt, wait))
        causes = ", ".join(f"{count} x {reason}" for reason, count in Counter(errors).items())
        raise self.ledger.make_exhausted_error(f"no answer after {self._limits.attempts} attempts: {causes}")

    async def _send(self, request: Request) -> dict[str, Any]:
        import httpx2
        import openai

        assert self._sdk is not None
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                # Not the SDK's typed method: it walks and encodes every message, images included, which takes more
                # than half of the client's time.
                raw = await self._sdk.post("/chat/completions", cast_to=httpx2.Response, content=request.encode_body())
                content = raw.text
        except openai.APIStatusError as error:
            self.ledger.has_responded = True
            raise self.ledger.classify_error(error) from None
        except (TimeoutError, openai.APIConnectionError) as error:
            cause = error if isinstance(error, TimeoutError) else find_root_cause(error)
            if isinstance(cause, TimeoutError):
                raise TransientError(f"no answer within {self._limits.timeout_s:g} s") from None
            raise TransientError(f"no connection ({type(cause).__name__})") from None
        except openai.OpenAIError as error:
            raise TransientError(f"unreadable answer ({type(error).__name__})") from None
        self.ledger.has_responded = True
        response = read_response(self.ledger.redact_key(content))
        self.throttle.record_success(raw.headers)
        return response


def _read_key(endpoint: Endpoint) -> str:
    key = os.environ.get(endpoint.api_key_env, "")
    if not key:
        raise StopError(
            f"the environment variable {endpoint.api_key_env} ({endpoint.section}.api_key_env) is not set; set it to "
            "the endpoint's API key. If the server needs no key, set it to any text"
        )
    return key


def _make_sdk_client(endpoint: Endpoint, limits: EndpointLimits, key: str) -> "openai.AsyncOpenAI":
    import openai

    return openai.AsyncOpenAI(
        api_key=key,
        base_url=endpoint.base_url or None,
        max_retries=0,
        timeout=limits.timeout_s,
        # Takes a quarter less CPU per request than the default transport.
        http_client=openai.DefaultAioHttpClient(),
    )

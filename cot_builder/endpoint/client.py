"""The client: one way to ask a model, which keeps, counts, caps, paces and retries."""

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
    _root,
    as_answer,
    read_response,
)
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import Answers
from cot_builder.endpoint.throttle import Throttle
from cot_builder.params import Budget as BudgetParams
from cot_builder.params import EndpointPace
from schemas.errors import IndusCotError

# openai takes a second to import: most runs ask no model.
if TYPE_CHECKING:
    import openai

    from cot_builder.endpoint.batch import Batches


class Endpoint(NamedTuple):
    """A server of models, as a section of params.yaml names it."""

    base_url: str
    """Empty: OpenAI's own."""
    api_key_env: str
    """The environment variable that holds the key."""
    models: Sequence[str]
    """Every model that is asked, once each."""
    section: str
    """The section, ``teacher`` or ``evaluate``: messages name its parameters."""


@dataclass
class Tally:
    """Answers that one sample was given."""

    kept: int = 0
    """From the store, or asked for by another."""
    new: int = 0


TALLY: ContextVar[Tally] = ContextVar("tally")
"""Of the sample at work in this task and those it starts; where it is not set, nobody counts."""


class EndpointClient:
    """Asks one endpoint. To be used within one event loop, and closed."""

    def __init__(
        self,
        endpoint: Endpoint,
        pace: EndpointPace,
        budget: BudgetParams,
        answers: Answers,
        *,
        price: Callable[[str], Price],
        offline: bool = False,
        refresh: bool = False,
    ) -> None:
        """Open the client.

        Args:
            endpoint: Its address and where its key is.
            pace: Concurrency, limits, timeouts.
            budget: The caps.
            answers: The store.
            price: Price of a model.
            offline: Send nothing: what is not in the store raises :class:`CacheMissError`.
            refresh: Ask again what is in the store.

        Raises:
            StopError: the environment variable with the key is not set.
        """
        self.trouble = ""
        """Why the last attempt that failed will be made again."""
        self.throttle = Throttle(pace.concurrency, pace.rpm, pace.tpm)
        self._pace = pace
        self._offline = offline
        self._refresh = refresh
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._stop: IndusCotError | None = None
        key = "" if offline else _read_key(endpoint)
        address = endpoint.base_url or "api.openai.com"
        self.ledger = Ledger(answers, pace, budget, price=price, address=address, key=key, section=endpoint.section)
        self._sdk = None if offline else _client(endpoint, pace, key)
        # An open batch is collected even where batch mode is off by now: it is paid for.
        self._batches: Batches | None = None
        if self._sdk is not None and (pace.batch or answers.open_batches()):
            from cot_builder.endpoint import batch

            self._batches = batch.Batches(self.ledger, self._sdk, pace)

    async def __aenter__(self) -> "EndpointClient":
        if self._batches:
            self._batches.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._batches:
            await self._batches.stop(collect=kind is None and not self.ledger.closing)
        if self._sdk is not None:
            await self._sdk.close()

    def close_to_new(self) -> None:
        """Send nothing that is not under way already; what is, is waited for and kept.

        Batches are not waited for: they stay open, and a later run collects them.
        """
        self.ledger.closing = True
        self.throttle.close()
        if self._batches:
            self._batches.close()

    @property
    def under_way(self) -> str:
        """What a closed client still waits for, in words."""
        batches = ", open batches are collected by the next run" if self._batches else ""
        return f"{self.throttle.under_way} requests under way are waited for and kept{batches}"

    async def ask(self, request: Request, offline: bool = False, refresh: bool = False) -> Answer:
        """The answer to ``request``: the kept one, or a new one, kept before it is returned.

        Equal requests under way at the same time are sent once.

        Args:
            request: What to ask.
            offline: Send nothing for this one.
            refresh: Ask again although there is an answer.

        Raises:
            CacheMissError: nothing is being sent, and there is no kept answer.
            NotAnsweredError: this one cannot be answered.
            IndusCotError: the run has to stop: budget, key, address, disk.
        """
        answer = await self._ask(request, offline, refresh)
        if tally := TALLY.get(None):
            tally.kept += answer.kept
            tally.new += not answer.kept
        return answer

    async def _ask(self, request: Request, offline: bool, refresh: bool) -> Answer:
        refresh = (refresh or self._refresh) and not (offline or self._offline)
        if waiting := self._under_way.get(request.key):
            return (await asyncio.shield(waiting))._replace(kept=True)
        if not refresh and (stored := self.ledger.answers.get(request.key)):
            self.ledger.stats.kept += 1
            return as_answer(stored, kept=True)
        if self._offline or offline:
            raise CacheMissError(request)
        if self._stop:
            raise self._stop
        if self.ledger.closing:
            raise CacheMissError(request)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._under_way[request.key] = future
        try:
            answer = await self._new(request, refresh)
        except BaseException as error:
            if isinstance(error, IndusCotError):
                self._stop = error
            elif isinstance(error, NotAnsweredError):
                self.ledger.stats.failed += 1
            future.set_exception(error if isinstance(error, Exception) else CacheMissError(request))
            # Nobody may be waiting for it.
            future.exception()
            raise
        else:
            future.set_result(answer)
            return answer
        finally:
            del self._under_way[request.key]

    async def _new(self, request: Request, refresh: bool) -> Answer:
        price = self.ledger.price(request.model)
        bound = prices.most(price, request)
        if self._batches and (answer := await self._batches.carried(request, refresh)):
            return answer
        async with self.ledger.budget.hold(prices.cost(price, bound, self._pace.batch), bound.total):
            if self._batches and self._pace.batch:
                return await self._batches.answer(request, price)
            response = await self._with_retries(request, price)
            return self.ledger.keep(request, price, response)

    async def _with_retries(self, request: Request, price: Price) -> dict[str, Any]:
        tokens = prices.expected_input(price, request) + request.max_tokens
        tried: list[str] = []
        for attempt in range(self._pace.attempts):
            if self.ledger.closing and attempt:
                raise CacheMissError(request)
            async with self.throttle.slot(tokens):
                if self._stop:
                    raise self._stop
                if self.ledger.closing:
                    raise CacheMissError(request)
                self.ledger.answers.check_space()
                sent = time.monotonic()
                try:
                    return await self._send(request)
                except TransientError as error:
                    tried.append(str(error))
                    self.trouble = str(error)
                    if error.overloaded:
                        self.ledger.stats.overloaded += 1
                        self.throttle.overloaded(sent, error.wait)
                    wait = error.wait
            if attempt + 1 < self._pace.attempts:
                await self.throttle.rest(self.ledger.pause(attempt, wait))
        causes = ", ".join(f"{count} x {reason}" for reason, count in Counter(tried).items())
        raise self.ledger.exhausted(f"no answer after {self._pace.attempts} attempts: {causes}")

    async def _send(self, request: Request) -> dict[str, Any]:
        import httpx2
        import openai

        assert self._sdk is not None
        try:
            async with asyncio.timeout(self._pace.timeout_s):
                # The typed method walks every message first, images included, and encodes all of it: more than half
                # of the client's time.
                raw = await self._sdk.post("/chat/completions", cast_to=httpx2.Response, content=request.content())
                content = raw.text
        except openai.APIStatusError as error:
            self.ledger.heard = True
            raise self.ledger.refusal(error) from None
        except (TimeoutError, openai.APIConnectionError) as error:
            cause = error if isinstance(error, TimeoutError) else _root(error)
            if isinstance(cause, TimeoutError):
                raise TransientError(f"no answer within {self._pace.timeout_s:g} s") from None
            raise TransientError(f"no connection ({type(cause).__name__})") from None
        except openai.OpenAIError as error:
            raise TransientError(f"unreadable answer ({type(error).__name__})") from None
        self.ledger.heard = True
        response = read_response(self.ledger.hide(content))
        self.throttle.succeeded(raw.headers)
        return response


def _read_key(endpoint: Endpoint) -> str:
    key = os.environ.get(endpoint.api_key_env, "")
    if not key:
        raise StopError(
            f"the environment variable {endpoint.api_key_env} ({endpoint.section}.api_key_env) is not set; it holds "
            "the endpoint's key. A server that needs none takes any text"
        )
    return key


def _client(endpoint: Endpoint, pace: EndpointPace, key: str) -> "openai.AsyncOpenAI":
    import openai

    return openai.AsyncOpenAI(
        api_key=key,
        base_url=endpoint.base_url or None,
        max_retries=0,
        timeout=pace.timeout_s,
        # A quarter less CPU a request than the default transport.
        http_client=openai.DefaultAioHttpClient(),
    )

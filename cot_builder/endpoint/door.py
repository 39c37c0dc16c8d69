"""The door: one way to ask a model, which keeps, counts, caps, paces and retries."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cot_builder.endpoint import prices
from cot_builder.endpoint.answers import Answers, Stored
from cot_builder.endpoint.budget import Budget
from cot_builder.endpoint.prices import Price, Usage
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.throttle import Throttle, seconds
from cot_builder.params import Budget as BudgetParams
from cot_builder.params import EndpointPace, Teacher
from schemas.errors import IndusCotError

# openai takes a second to import: most runs ask no model.
if TYPE_CHECKING:
    import openai

    from cot_builder.endpoint.batch import Batches

LONGEST_WAIT_S = 60.0
OVERLOADED = (429, 503, 529)
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses that may be another one next time."""
HOPELESS = (401, 402, 403, 404)
"""Statuses that every request would meet."""
HOPELESS_IN_A_ROW = 20
"""Requests that use up all their attempts with no answer to any in between, after which no more are sent."""
NO_MONEY = "insufficient_quota"
HIDDEN = "[key]"
LEAST_KEY = 12
"""Characters from which a key is a secret."""


class Answer(NamedTuple):
    """What a model said."""

    text: str
    finish_reason: str
    """``stop``, ``length``, ``content_filter``, …; ``refusal`` where the model refused."""
    usage: Usage
    usd: float
    """What it cost when it was asked."""
    kept: bool
    """True where it came from the store."""
    message: Mapping[str, Any] = MappingProxyType({})
    """The assistant's message as the server sent it."""


class NotAnsweredError(Exception):
    """One request has no answer; others may have one. Its text says why, and what was tried."""


class NotAskedError(Exception):
    """The answer is not in the store, and nothing is being sent."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.step)
        self.request = request


class StopError(IndusCotError):
    """No request can be answered: the key, the address or the model is wrong, or the account is empty."""


@dataclass
class Stats:
    """What the door did since it was opened."""

    kept: int = 0
    answered: int = 0
    overloaded: int = 0
    failed: int = 0
    input: int = 0
    output: int = 0
    usd: float = 0.0


@dataclass
class Tally:
    """Answers that one sample was given."""

    kept: int = 0
    """From the store, or asked for by another."""
    new: int = 0


TALLY: ContextVar[Tally] = ContextVar("tally")
"""Of the sample at work in this task and those it starts; where it is not set, nobody counts."""


class Door:
    """Asks one endpoint. To be used within one event loop, and closed."""

    def __init__(
        self,
        teacher: Teacher,
        pace: EndpointPace,
        budget: BudgetParams,
        answers: Answers,
        *,
        price: Callable[[str], Price],
        offline: bool = False,
        refresh: bool = False,
    ) -> None:
        """Open the door.

        Args:
            teacher: The endpoint's address and where its key is.
            pace: Concurrency, limits, timeouts.
            budget: The caps.
            answers: The store.
            price: Price of a model.
            offline: Send nothing: what is not in the store raises :class:`NotAskedError`.
            refresh: Ask again what is in the store.

        Raises:
            StopError: the environment variable with the key is not set.
        """
        self.stats = Stats()
        self.trouble = ""
        """Why the last attempt that failed will be made again."""
        self.answers = answers
        self.budget = Budget(budget.usd, budget.tokens, answers.spent())
        self.throttle = Throttle(pace.concurrency, pace.rpm, pace.tpm)
        self._pace = pace
        self._price = price
        self._offline = offline
        self._refresh = refresh
        self._under_way: dict[str, asyncio.Future[Answer]] = {}
        self._stop: IndusCotError | None = None
        self._closing = False
        self._heard = False
        self._failed_in_a_row = 0
        self._key = "" if offline else _read_key(teacher)
        self._address = teacher.base_url or "api.openai.com"
        self.client = None if offline else _client(teacher, pace, self._key)
        # An open batch is collected even where batch mode is off by now: it is paid for.
        self._batches = None if offline or not (pace.batch or answers.open_batches()) else _batches(self, pace)

    async def __aenter__(self) -> "Door":
        if self._batches:
            self._batches.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._batches:
            await self._batches.stop(collect=kind is None and not self._closing)
        if self.client is not None:
            await self.client.close()

    def close_to_new(self) -> None:
        """Send nothing that is not under way already; what is, is waited for and kept.

        Batches are not waited for: they stay open, and a later run collects them.
        """
        self._closing = True
        self.throttle.close()
        if self._batches:
            self._batches.close()

    @property
    def under_way(self) -> str:
        """What a closed door still waits for, in words."""
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
            NotAskedError: nothing is being sent, and there is no kept answer.
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
        if not refresh and (stored := self.answers.get(request.key)):
            self.stats.kept += 1
            return as_answer(stored, kept=True)
        if self._offline or offline:
            raise NotAskedError(request)
        if self._stop:
            raise self._stop
        if self._closing:
            raise NotAskedError(request)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._under_way[request.key] = future
        try:
            answer = await self._new(request, refresh)
        except BaseException as error:
            if isinstance(error, IndusCotError):
                self._stop = error
            elif isinstance(error, NotAnsweredError):
                self.stats.failed += 1
            future.set_exception(error if isinstance(error, Exception) else NotAskedError(request))
            # Nobody may be waiting for it.
            future.exception()
            raise
        else:
            future.set_result(answer)
            return answer
        finally:
            del self._under_way[request.key]

    async def _new(self, request: Request, refresh: bool) -> Answer:
        price = self._price(request.model)
        bound = prices.most(price, request)
        if self._batches and (answer := await self._batches.carried(request, refresh)):
            return answer
        async with self.budget.hold(prices.cost(price, bound, self._pace.batch), bound.total):
            if self._batches and self._pace.batch:
                return await self._batches.answer(request, price)
            response = await self._with_retries(request, price)
            return self._keep(request, price, response)

    def _keep(self, request: Request, price: Price, response: dict[str, Any], batch: bool = False) -> Answer:
        usage = read_usage(response, prices.expected_input(price, request), request.max_tokens)
        usd = prices.cost(price, usage, batch)
        return self._book(request.key, request.step, request.model, response, usage, usd)

    def _book(self, key: str, step: str, model: str, response: dict[str, Any], usage: Usage, usd: float) -> Answer:
        self.answers.put(key, step, model, response, usage, usd)
        self.budget.book(usd, usage.total)
        self.stats.answered += 1
        self._failed_in_a_row = 0
        self.stats.input += usage.input
        self.stats.output += usage.output
        self.stats.usd += usd
        return as_answer(Stored(response, usage, usd), kept=False)

    async def _with_retries(self, request: Request, price: Price) -> dict[str, Any]:
        tokens = prices.expected_input(price, request) + request.max_tokens
        tried: list[str] = []
        for attempt in range(self._pace.attempts):
            if self._closing and attempt:
                raise NotAskedError(request)
            async with self.throttle.slot(tokens):
                if self._stop:
                    raise self._stop
                if self._closing:
                    raise NotAskedError(request)
                self.answers.check_space()
                sent = time.monotonic()
                try:
                    return await self._send(request)
                except PassingError as error:
                    tried.append(str(error))
                    self.trouble = str(error)
                    if error.overloaded:
                        self.stats.overloaded += 1
                        self.throttle.overloaded(sent, error.wait)
                    wait = error.wait
            if attempt + 1 < self._pace.attempts:
                await self.throttle.rest(self.pause(attempt, wait))
        causes = ", ".join(f"{count} x {reason}" for reason, count in Counter(tried).items())
        raise self.exhausted(f"no answer after {self._pace.attempts} attempts: {causes}")

    def exhausted(self, reason: str) -> Exception:
        """What to raise when all attempts are used up: it ends the request, or the run where none gets through."""
        self._failed_in_a_row += 1
        if not self._heard or self._failed_in_a_row >= HOPELESS_IN_A_ROW:
            return StopError(f"{self._address}: {reason}; check that the server runs. Every answer so far is kept")
        return NotAnsweredError(reason)

    def pause(self, attempt: int, wait: float | None) -> float:
        """Seconds between ``attempt`` and the next, no less than the server asks."""
        # Jitter is no part of any result: it needs no seed.
        backoff = min(LONGEST_WAIT_S, self._pace.backoff_s * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.5)
        return max(backoff, wait or 0.0)

    async def _send(self, request: Request) -> dict[str, Any]:
        import httpx2
        import openai

        assert self.client is not None
        try:
            async with asyncio.timeout(self._pace.timeout_s):
                # The typed method walks every message first, images included, and encodes all of it: more than half
                # of the client's time.
                raw = await self.client.post("/chat/completions", cast_to=httpx2.Response, content=request.content())
                content = raw.text
        except openai.APIStatusError as error:
            self._heard = True
            raise self._status(error) from None
        except (TimeoutError, openai.APIConnectionError) as error:
            cause = error if isinstance(error, TimeoutError) else _root(error)
            if isinstance(cause, TimeoutError):
                raise PassingError(f"no answer within {self._pace.timeout_s:g} s") from None
            raise PassingError(f"no connection ({type(cause).__name__})") from None
        except openai.OpenAIError as error:
            raise PassingError(f"unreadable answer ({type(error).__name__})") from None
        self._heard = True
        response = read_response(self.hide(content))
        self.throttle.succeeded(raw.headers)
        return response

    def _status(self, error: "openai.APIStatusError") -> Exception:
        status = error.status_code
        said = words_of(error.body or error.message, self.hide)
        if status in HOPELESS or error.code == NO_MONEY:
            advice = {401: "check the key", 402: "top up the account", 403: "check the key's rights"}.get(
                status, "top up the account" if error.code == NO_MONEY else "check teacher.base_url and teacher.model"
            )
            return StopError(f"{self._address} answers {status}: {said}; {advice}. Every answer so far is kept")
        if status in PASSING:
            wait = seconds(error.response.headers.get("retry-after", ""))
            return PassingError(f"status {status}", status in OVERLOADED, wait)
        return NotAnsweredError(f"{self._address} answers {status}: {said}")

    def hide(self, text: str) -> str:
        """``text`` without the key, should a server repeat it."""
        # A stand-in such as "none" is no secret, and a word of answers.
        return text.replace(self._key, HIDDEN) if len(self._key) >= LEAST_KEY else text


class PassingError(Exception):
    """May be another one next time."""

    def __init__(self, reason: str, overloaded: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.overloaded = overloaded
        self.wait = wait


def read_response(content: str) -> dict[str, Any]:
    """A chat completion from the text of an HTTP answer.

    Raises:
        PassingError: it is cut short or no chat completion.
    """
    try:
        response = json.loads(content)
        choice = response["choices"][0]
        if not isinstance(choice["message"], dict):
            raise TypeError("message")
    except (ValueError, KeyError, IndexError, TypeError):
        raise PassingError("unreadable answer (not a chat completion)") from None
    return response


def read_usage(response: Mapping[str, Any], expected_input: int, max_tokens: int) -> Usage:
    """Tokens as the server counted them; where it did not, the estimate, so that a cap still holds."""
    counted = response.get("usage")
    usage = counted if isinstance(counted, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    asked, said = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(asked, int) or not isinstance(said, int) or not (asked or said):
        return Usage(input=expected_input, output=max_tokens)
    return Usage(input=asked, cached_input=min(cached if isinstance(cached, int) else 0, asked), output=said)


def as_answer(stored: Stored, kept: bool) -> Answer:
    """What a stored response says."""
    choice = stored.response["choices"][0]
    message = choice["message"]
    reason = "refusal" if message.get("refusal") else choice.get("finish_reason") or "stop"
    # Half a character, which JSON may hold, could neither be sent back nor written to a table.
    text = str(message.get("content") or message.get("refusal") or "").encode(errors="replace").decode()
    return Answer(text, reason, stored.usage, stored.usd, kept, message)


def _root(error: BaseException) -> BaseException:
    """What began it: the transport calls a refused connection a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "os_error", error)


def words_of(body: Any, hide: Callable[[str], str]) -> str:
    """The words of an error's body, the key hidden, no longer than a line or two."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") if isinstance(inner, dict) else inner
    return hide(" ".join(str(body).split()))[:300]


def _read_key(teacher: Teacher) -> str:
    key = os.environ.get(teacher.api_key_env, "")
    if not key:
        raise StopError(
            f"the environment variable {teacher.api_key_env} (teacher.api_key_env) is not set; it holds the "
            "endpoint's key. A server that needs none takes any text"
        )
    return key


def _batches(door: Door, pace: EndpointPace) -> "Batches":
    # It is made of the door's own parts.
    from cot_builder.endpoint.batch import Batches

    return Batches(door, pace)


def _client(teacher: Teacher, pace: EndpointPace, key: str) -> "openai.AsyncOpenAI":
    import openai

    return openai.AsyncOpenAI(
        api_key=key,
        base_url=teacher.base_url or None,
        max_retries=0,
        timeout=pace.timeout_s,
        # A quarter less CPU a request than the default transport.
        http_client=openai.DefaultAioHttpClient(),
    )

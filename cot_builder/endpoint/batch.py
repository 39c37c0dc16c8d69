"""Batch mode: many questions in one file at a lower price, answered within a day, collected by the batch's id."""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import IO, Any, Literal, NamedTuple, TypeVar

import openai
from openai.types import Batch

from cot_builder.endpoint import prices
from cot_builder.endpoint.budget import BudgetSpentError
from cot_builder.endpoint.ledger import Ledger
from cot_builder.endpoint.prices import Price
from cot_builder.endpoint.replies import (
    TRANSIENT_STATUSES,
    Answer,
    CacheMissError,
    NotAnsweredError,
    StopError,
    TransientError,
    as_answer,
    read_response,
    read_usage,
    words_of,
)
from cot_builder.endpoint.request import Request
from cot_builder.params import EndpointPace

Result = TypeVar("Result")

SETTLE_S = 1.0
"""A file that no request has joined for this long is submitted."""
MOST_LINES = 50_000
MOST_BYTES = 150_000_000
"""Of one file; providers take 50,000 lines and 200 MB."""
UNREACHABLE_S = 3600.0
"""A run ends when the endpoint could not be reached for this long."""
PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
FINISHED = ("completed", "failed", "expired", "cancelled")
NO_BATCH_API = (404, 405, 501)
INTENT = "create:"
"""Stands before the id of an uploaded file whose batch may have been created, or not."""
UNKNOWN_STEP = "batch"


@dataclass
class _Spool:
    """A file in the making: requests for one model and step. Providers take one model a file."""

    file: IO[bytes]
    keys: list[str] = field(default_factory=list)
    size: int = 0
    most_usd: float = 0.0
    most_tokens: int = 0
    timer: asyncio.TimerHandle | None = None


class _Waiting(NamedTuple):
    request: Request
    price: Price
    future: asyncio.Future[Answer]


class Batches:
    """The batches of one client: those it submits, and those an earlier run left open."""

    def __init__(self, ledger: Ledger, sdk: openai.AsyncOpenAI, pace: EndpointPace) -> None:
        self._ledger = ledger
        self._pace = pace
        self._sdk = sdk
        self._spools: dict[tuple[str, str], _Spool] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._open: set[str] = set()
        """Keys in batches that are not collected."""
        self._unclaimed: set[str] = set()
        """Keys whose answers were stored while nobody waited for them."""
        self._unknown: dict[str, str] = {}
        """Why the batch that holds a key cannot be asked for here."""
        self._known = asyncio.Event()
        """Set once the batches of earlier runs have been asked for."""
        self._full: BudgetSpentError | None = None
        self._error: Exception | None = None
        self._one_upload = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    def start(self) -> None:
        """Begin to collect what an earlier run left open."""
        if not self._started:
            self._started = True
            self._in_background(self._carry_on())

    def close(self) -> None:
        """Submit nothing more and keep nobody waiting; batches stay open and are collected by a later run."""
        for spool in self._spools.values():
            _drop(spool)
        self._spools.clear()
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(CacheMissError(waiting.request))
        self._known.set()

    async def stop(self, collect: bool) -> None:
        """End, leaving batches open.

        Args:
            collect: First ask once for the batches of earlier runs, within the time-out of a request.
        """
        if collect and self._started and not self._known.is_set():
            try:
                async with asyncio.timeout(self._pace.timeout_s):
                    await self._known.wait()
            except TimeoutError:
                pass
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def carried(self, request: Request, refresh: bool) -> Answer | None:
        """The answer to a request that an earlier run has submitted; None where it has not, or must ask again.

        Args:
            request: What is asked.
            refresh: Do not hold to a batch that this endpoint does not know.

        Raises:
            CacheMissError: the client was closed meanwhile; the batch stays open.
            NotAnsweredError: the batch did not answer it, or cannot be asked for here.
            IndusCotError: the run has to stop.
        """
        self.start()
        await self._known.wait()
        self._check(request)
        key = request.key
        if key in self._unclaimed:
            self._unclaimed.discard(key)
            if stored := self._ledger.answers.get(key):
                self._ledger.stats.kept += 1
                return as_answer(stored, kept=True)
        if key in self._unknown and not refresh:
            raise NotAnsweredError(self._unknown[key])
        if key in self._open:
            try:
                return await self._wait(request)
            except TransientError:
                self._check(request)
        if self._full:
            raise self._full
        return None

    async def answer(self, request: Request, price: Price) -> Answer:
        """The answer to a new request, by the next batch; one that was overloaded goes into another.

        Raises:
            CacheMissError: the client was closed meanwhile; what is submitted stays open.
            NotAnsweredError: no batch answered it; its text names them.
            IndusCotError: the run has to stop.
        """
        tried: list[str] = []
        for _ in range(self._pace.attempts):
            self._check(request)
            self._spool(request, price)
            try:
                return await self._wait(request)
            except TransientError as error:
                tried.append(str(error))
        raise NotAnsweredError(f"no answer after {len(tried)} batches: {'; '.join(tried)}")

    def _check(self, request: Request) -> None:
        if self._error:
            raise self._error
        if self._ledger.closing:
            raise CacheMissError(request)

    async def _wait(self, request: Request) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request.key] = _Waiting(request, self._ledger.price(request.model), future)
        try:
            return await future
        finally:
            del self._waiting[request.key]

    def _resolve(self, key: str, outcome: Answer | Exception) -> bool:
        """Whether somebody waited for it."""
        waiting = self._waiting.get(key)
        if waiting is None or waiting.future.done():
            return False
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
        return True

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._or_fail(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _or_fail(self, work: Coroutine[Any, Any, None]) -> None:
        """A fault here concerns every request: none may wait for ever."""
        try:
            await work
        except Exception as error:
            self._error = error
            for key in list(self._waiting):
                self._resolve(key, error)
            self._known.set()

    # Submitting

    def _spool(self, request: Request, price: Price) -> None:
        self._ledger.answers.check_space()
        head = json.dumps({"custom_id": request.key, "method": "POST", "url": PATH}).encode()
        line = head.removesuffix(b"}") + b', "body": ' + request.content() + b"}"
        for image in request.images.values():
            # Thousands of requests wait at a time: their data URLs are on the disk now.
            image.forget()
        name = (request.model, request.step)
        if name not in self._spools:
            self._spools[name] = _Spool(self._scratch())
        spool = self._spools[name]
        spool.file.write(line + b"\n")
        spool.keys.append(request.key)
        spool.size += len(line) + 1
        bound = prices.most(price, request)
        spool.most_usd += prices.cost(price, bound, batch=True)
        spool.most_tokens += bound.total
        if spool.timer:
            spool.timer.cancel()
        if len(spool.keys) >= MOST_LINES or spool.size >= MOST_BYTES:
            self._flush(name)
        else:
            spool.timer = asyncio.get_running_loop().call_later(SETTLE_S, self._flush, name)

    def _scratch(self) -> IO[bytes]:
        # Beside the store: what is the system's own place for such files may be memory.
        return tempfile.TemporaryFile(dir=self._ledger.answers.path.parent)

    def _flush(self, name: tuple[str, str]) -> None:
        self._in_background(self._submit(name, self._spools.pop(name)))

    async def _submit(self, name: tuple[str, str], spool: _Spool) -> None:
        try:
            async with self._one_upload:
                file_id = await self._patiently(lambda: self._upload(spool), self._pace.attempts)
                if self._ledger.closing:
                    return
                batch = await self._create(name, spool, file_id)
        except (NotAnsweredError, TransientError) as error:
            reason = f"the batch could not be submitted: {error}"
            outcome = self._ledger.exhausted(reason) if isinstance(error, TransientError) else NotAnsweredError(reason)
            if isinstance(outcome, StopError):
                raise outcome from None
            for key in spool.keys:
                self._resolve(key, outcome)
            return
        finally:
            _drop(spool)
        self._open.update(spool.keys)
        await self._poll(batch, spool.keys, carried=False)

    async def _upload(self, spool: _Spool) -> str:
        spool.file.seek(0)
        try:
            uploaded = await self._sdk.files.create(file=("batch.jsonl", spool.file), purpose="batch")
        except openai.APIStatusError as error:
            if error.status_code in NO_BATCH_API:
                raise StopError(
                    f"{self._ledger.address} answers {error.status_code} to an upload: it seems to have no Batch API. "
                    f"Set compute.endpoint.batch: false, or check {self._ledger.section}.base_url. Every answer so far "
                    "is kept"
                ) from None
            raise
        return uploaded.id

    async def _create(self, name: tuple[str, str], spool: _Spool, file_id: str) -> Batch:
        model, step = name
        answers = self._ledger.answers
        tries = 0

        async def create() -> Batch:
            nonlocal tries
            tries += 1
            # The answer that got lost may have been that it was created.
            if tries > 1 and (found := await self._created_from(file_id)):
                return found
            return await self._sdk.batches.create(
                input_file_id=file_id,
                endpoint=PATH,
                completion_window="24h",
                metadata={
                    "model": model,
                    "step": step,
                    "most_usd": repr(spool.most_usd),
                    "most_tokens": str(spool.most_tokens),
                },
            )

        answers.open_batch(INTENT + file_id, spool.keys)
        try:
            batch = await self._patiently(create, self._pace.attempts)
        except (NotAnsweredError, StopError):
            answers.close_batch(INTENT + file_id)
            raise
        answers.open_batch(batch.id, spool.keys)
        answers.close_batch(INTENT + file_id)
        return batch

    async def _created_from(self, file_id: str) -> Batch | None:
        try:
            async for batch in self._sdk.batches.list(limit=100):
                if batch.input_file_id == file_id:
                    return batch
        except openai.APIStatusError as error:
            if error.status_code not in (400, *NO_BATCH_API):
                raise
        return None

    # Collecting

    async def _carry_on(self) -> None:
        answers = self._ledger.answers
        for name, keys in answers.open_batches().items():
            if name.startswith(INTENT):
                file_id = name.removeprefix(INTENT)
                if found := await self._patiently(lambda file_id=file_id: self._created_from(file_id)):  # type: ignore[misc]
                    answers.open_batch(found.id, keys)
                answers.close_batch(name)
        left: list[tuple[Batch, list[str]]] = []
        for name, keys in answers.open_batches().items():
            self._open.update(keys)
            try:
                batch = await self._retrieve(name, len(keys))
            except NotAnsweredError as error:
                self._forsake(keys, error)
                continue
            if batch.status in FINISHED:
                await self._collect(batch, keys, carried=True)
            else:
                left.append((batch, keys))
        async with AsyncExitStack() as stack:
            usd = sum(float(_told(batch, "most_usd", "0")) for batch, _ in left)
            tokens = sum(int(_told(batch, "most_tokens", "0")) for batch, _ in left)
            try:
                if left:
                    await stack.enter_async_context(self._ledger.budget.hold(usd, tokens))
            except BudgetSpentError as error:
                # They are paid for and are collected; anything new has no room.
                self._full = error
            self._known.set()
            await asyncio.gather(*(self._poll(batch, keys, carried=True) for batch, keys in left))

    async def _poll(self, batch: Batch, keys: list[str], carried: bool) -> None:
        while batch.status not in FINISHED:
            await asyncio.sleep(self._pace.poll_s)
            try:
                batch = await self._retrieve(batch.id, len(keys))
            except NotAnsweredError as error:
                self._forsake(keys, error)
                return
        await self._collect(batch, keys, carried)

    async def _retrieve(self, name: str, count: int) -> Batch:
        async def retrieve() -> Batch:
            try:
                return await self._sdk.batches.retrieve(name)
            except (openai.NotFoundError, openai.BadRequestError):
                raise NotAnsweredError(
                    f"batch {name} with {count} requests was submitted, and {self._ledger.address} does not know it; "
                    f"run with the {self._ledger.section}.base_url and the key it was submitted with, or with "
                    "--refresh to pay again"
                ) from None

        return await self._patiently(retrieve)

    def _forsake(self, keys: list[str], error: NotAnsweredError) -> None:
        """Leave a batch open that this endpoint does not know: another may."""
        for key in keys:
            self._open.discard(key)
            self._unknown[key] = str(error)
            self._resolve(key, NotAnsweredError(str(error)))

    async def _collect(self, batch: Batch, keys: list[str], carried: bool) -> None:
        wanted = set(keys)
        reason = _failure(batch)
        with self._scratch() as file:
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                start = file.tell()
                if not await self._patiently(
                    lambda file_id=file_id, start=start: self._download(file_id, file, start)  # type: ignore[misc]
                ):
                    reason = f"its file {file_id} is not there any more"
            file.seek(0)
            async for line in _lines(file):
                key, outcome = _read_line(line, self._ledger.hide)
                if key not in wanted:
                    continue
                wanted.discard(key)
                self._settle(batch, key, outcome, carried)
        for key in wanted:
            self._settle(batch, key, NotAnsweredError(reason), carried)
        self._ledger.answers.close_batch(batch.id)
        # Providers limit what they keep. One left behind is only that: it costs nothing.
        with suppress(openai.OpenAIError):
            await self._sdk.files.delete(batch.input_file_id)

    async def _download(self, file_id: str, file: IO[bytes], start: int) -> bool:
        """Append a file; False where there is none."""
        self._ledger.answers.check_space()
        file.seek(start)
        file.truncate()
        try:
            async with self._sdk.files.with_streaming_response.content(file_id) as response:
                chunks = response.iter_bytes()
                while chunk := await _next(chunks):
                    file.write(chunk)
        except openai.NotFoundError:
            return False
        file.write(b"\n")
        return True

    def _settle(self, batch: Batch, key: str, outcome: dict[str, Any] | Exception, carried: bool) -> None:
        """Store one answer, or pass on why there is none."""
        self._open.discard(key)
        if isinstance(outcome, Exception):
            self._resolve(key, type(outcome)(f"batch {batch.id}: {self._ledger.hide(str(outcome))}"))
            return
        stored = self._ledger.answers.get(key) if carried else None
        if stored and stored.response == outcome:
            # Paid and booked before the process that collected it ended.
            answer = as_answer(stored, kept=True)
        elif waiting := self._waiting.get(key):
            answer = self._ledger.keep(waiting.request, waiting.price, outcome, batch=True)
        else:
            model = _told(batch, "model", str(outcome.get("model", "")))
            usage = read_usage(outcome, expected_input=0, max_tokens=0)
            usd = prices.cost(self._ledger.price(model), usage, batch=True)
            answer = self._ledger.book(key, _told(batch, "step", UNKNOWN_STEP), model, outcome, usage, usd)
        if not self._resolve(key, answer):
            self._unclaimed.add(key)

    async def _patiently(self, call: Callable[[], Awaitable[Result]], attempts: int | None = None) -> Result:
        """``call()``, again after what passes.

        Args:
            call: What to do.
            attempts: How often; None for as often as it takes, :data:`UNREACHABLE_S` at most.

        Raises:
            TransientError: it did not pass.
            NotAnsweredError: the endpoint refuses it.
            StopError: the endpoint refuses everything, or cannot be reached for long.
        """
        started = time.monotonic()
        tried = 0
        while True:
            try:
                result = await call()
            except openai.APIStatusError as error:
                known = self._ledger.refusal(error)
                if not isinstance(known, TransientError):
                    raise known from None
                passing = known
            except (openai.OpenAIError, OSError) as error:
                passing = TransientError(f"connection lost ({type(error.__cause__ or error).__name__})")
            else:
                self._ledger.heard = True
                return result
            tried += 1
            if attempts is not None and tried >= attempts:
                raise TransientError(f"{passing}, after {tried} attempts")
            if attempts is None and time.monotonic() - started > UNREACHABLE_S:
                raise StopError(
                    f"{self._ledger.address} could not be asked for its batches for {UNREACHABLE_S / 60:g} minutes: "
                    f"{passing}. Nothing is lost: run the same command again, and they are collected"
                )
            await asyncio.sleep(self._ledger.pause(tried - 1, passing.wait))


def _drop(spool: _Spool) -> None:
    if spool.timer:
        spool.timer.cancel()
    spool.file.close()


def _told(batch: Batch, name: str, default: str) -> str:
    return (batch.metadata or {}).get(name, default)


def _failure(batch: Batch) -> str:
    """Why a finished batch has no line for a request."""
    causes = [error.message for error in (batch.errors.data if batch.errors else None) or [] if error.message]
    if causes:
        return f"{batch.status}: {'; '.join(dict.fromkeys(causes))}"[:300]
    return "it holds no answer to this request" if batch.status == "completed" else batch.status


async def _lines(file: IO[bytes]) -> AsyncIterator[bytes]:
    for line in file:
        if line.strip():
            yield line
            # Other work goes on between the lines of a large file.
            await asyncio.sleep(0)


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks, b"")
    except Exception as error:
        # A stream raises what its transport raises.
        raise ConnectionError("stream") from error


def _read_line(line: bytes, hide: Callable[[str], str]) -> tuple[str, dict[str, Any] | Exception]:
    """A line of an output or error file: the key, and its response or why there is none."""
    try:
        entry = json.loads(line)
        key = str(entry["custom_id"])
        response = entry.get("response") or {}
        status, body = response.get("status_code"), response.get("body")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", NotAnsweredError("unreadable line")
    if status in TRANSIENT_STATUSES:
        return key, TransientError(f"status {status}")
    if status != 200:
        words = words_of(body or entry, hide)
        return key, NotAnsweredError(f"status {status}: {words}" if status else words)
    try:
        return key, read_response(hide(json.dumps(body)))
    except TransientError as error:
        return key, error

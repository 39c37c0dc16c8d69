"""Batch mode: upload many requests in one file at a lower price, and collect the answers within a day by batch id."""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
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
    extract_error_text,
    read_response,
    read_usage,
    to_answer,
)
from cot_builder.endpoint.request import Request
from cot_builder.params import EndpointLimits

Result = TypeVar("Result")

SUBMIT_DELAY_S = 1.0
"""Submit a file when no request was added to it for this long."""
MAX_LINES = 50_000
MAX_BYTES = 150_000_000
"""Limits of one file. Providers accept 50,000 lines and 200 MB."""
MAX_UNREACHABLE_S = 3600.0
"""Stop the run when the endpoint could not be reached for this long."""
CHAT_PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
FINAL_STATUSES = ("completed", "failed", "expired", "cancelled")
NO_BATCH_API_STATUSES = (404, 405, 501)
PENDING_PREFIX = "create:"
"""Prefix of an uploaded file's id, stored before its batch is created: after a crash the batch may or may not exist."""
UNKNOWN_STEP = "batch"


@dataclass
class _Spool:
    """A file being filled with requests for one model and one step. Providers allow one model per file."""

    file: IO[bytes]
    keys: list[str] = field(default_factory=list)
    size: int = 0
    max_usd: float = 0.0
    max_tokens: int = 0
    timer: asyncio.TimerHandle | None = None


class _WaitingRequest(NamedTuple):
    request: Request
    price: Price
    future: asyncio.Future[Answer]


class BatchQueue:
    """Submits the batches of one client, and collects those that an earlier run left open."""

    def __init__(self, ledger: Ledger, sdk: openai.AsyncOpenAI, limits: EndpointLimits) -> None:
        self._ledger = ledger
        self._limits = limits
        self._sdk = sdk
        self._spools: dict[tuple[str, str], _Spool] = {}
        self._waiting: dict[str, _WaitingRequest] = {}
        self._open: set[str] = set()
        """Keys of requests in batches that are not collected yet."""
        self._unclaimed: set[str] = set()
        """Keys whose answers were stored although no caller waited for them."""
        self._unreachable: dict[str, str] = {}
        """By key: why its batch cannot be collected from this endpoint."""
        self._resumed = asyncio.Event()
        """Set once the batches of earlier runs have been looked up."""
        self._budget_error: BudgetSpentError | None = None
        self._error: Exception | None = None
        self._upload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    def start(self) -> None:
        """Start collecting the batches that an earlier run left open."""
        if not self._started:
            self._started = True
            self._start_task(self._resume_earlier_batches())

    def close(self) -> None:
        """Submit nothing more and release all waiting callers. Open batches are collected by a later run."""
        for spool in self._spools.values():
            _discard_spool(spool)
        self._spools.clear()
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(CacheMissError(waiting.request))
        self._resumed.set()

    async def stop(self, collect: bool) -> None:
        """Stop; open batches stay open.

        Args:
            collect: First wait, at most the timeout of one request, until the batches of earlier runs were looked up.
        """
        if collect and self._started and not self._resumed.is_set():
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    await self._resumed.wait()
            except TimeoutError:
                pass
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def get_from_earlier_batch(self, request: Request, refresh: bool) -> Answer | None:
        """Return the answer to a request that an earlier run submitted, or None if the request has to be sent.

        Args:
            request: The request.
            refresh: Send the request again if its batch is unknown to this endpoint.

        Raises:
            CacheMissError: the client was closed meanwhile; the batch stays open.
            NotAnsweredError: the batch has no answer to it, or cannot be collected from this endpoint.
            IndusCotError: the run has to stop.
        """
        self.start()
        await self._resumed.wait()
        self._check(request)
        key = request.key
        if key in self._unclaimed:
            self._unclaimed.discard(key)
            if stored := self._ledger.answers.get(key):
                self._ledger.stats.cached += 1
                return to_answer(stored, is_cached=True)
        if key in self._unreachable and not refresh:
            raise NotAnsweredError(self._unreachable[key])
        if key in self._open:
            try:
                return await self._wait(request)
            except TransientError:
                self._check(request)
        if self._budget_error:
            raise self._budget_error
        return None

    async def ask(self, request: Request, price: Price) -> Answer:
        """Answer a new request through the next batch; after a transient error, put it into another batch.

        Raises:
            CacheMissError: the client was closed meanwhile; submitted batches stay open.
            NotAnsweredError: no batch answered it; the message names the batches.
            IndusCotError: the run has to stop.
        """
        errors: list[str] = []
        for _ in range(self._limits.attempts):
            self._check(request)
            self._add_to_spool(request, price)
            try:
                return await self._wait(request)
            except TransientError as error:
                errors.append(str(error))
        raise NotAnsweredError(f"no answer after {len(errors)} batches: {'; '.join(errors)}")

    def _check(self, request: Request) -> None:
        if self._error:
            raise self._error
        if self._ledger.is_closing:
            raise CacheMissError(request)

    async def _wait(self, request: Request) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request.key] = _WaitingRequest(request, self._ledger.price(request.model), future)
        try:
            return await future
        finally:
            del self._waiting[request.key]

    def _resolve(self, key: str, outcome: Answer | Exception) -> bool:
        """Hand ``outcome`` to the caller that waits for ``key``. Returns False if no caller waits."""
        waiting = self._waiting.get(key)
        if waiting is None or waiting.future.done():
            return False
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
        return True

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._fail_all_on_error(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fail_all_on_error(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``; if it fails, fail every waiting request too, so that none waits forever."""
        try:
            await work
        except Exception as error:
            self._error = error
            for key in list(self._waiting):
                self._resolve(key, error)
            self._resumed.set()

    # Submitting

    def _add_to_spool(self, request: Request, price: Price) -> None:
        self._ledger.answers.check_space()
        head = json.dumps({"custom_id": request.key, "method": "POST", "url": CHAT_PATH}).encode()
        line = head.removesuffix(b"}") + b', "body": ' + request.encode_body() + b"}"
        for image in request.images.values():
            # Thousands of requests wait at the same time: free their data URLs, which are in the spool file now.
            image.drop_encoded()
        name = (request.model, request.step)
        if name not in self._spools:
            self._spools[name] = _Spool(self._open_temp_file())
        spool = self._spools[name]
        spool.file.write(line + b"\n")
        spool.keys.append(request.key)
        spool.size += len(line) + 1
        bound = prices.max_usage(price, request)
        spool.max_usd += prices.compute_cost(price, bound, batch=True)
        spool.max_tokens += bound.total
        if spool.timer:
            spool.timer.cancel()
        if len(spool.keys) >= MAX_LINES or spool.size >= MAX_BYTES:
            self._flush(name)
        else:
            spool.timer = asyncio.get_running_loop().call_later(SUBMIT_DELAY_S, self._flush, name)

    def _open_temp_file(self) -> IO[bytes]:
        # Put the temp file next to the store; the system temp folder may be a RAM disk.
        return tempfile.TemporaryFile(dir=self._ledger.answers.path.parent)

    def _flush(self, name: tuple[str, str]) -> None:
        self._start_task(self._submit(name, self._spools.pop(name)))

    async def _submit(self, name: tuple[str, str], spool: _Spool) -> None:
        try:
            async with self._upload_lock:
                file_id = await self._with_retries(lambda: self._upload(spool), self._limits.attempts)
                if self._ledger.is_closing:
                    return
                batch = await self._create(name, spool, file_id)
        except (NotAnsweredError, TransientError) as error:
            reason = f"the batch could not be submitted: {error}"
            outcome = (
                self._ledger.make_exhausted_error(reason)
                if isinstance(error, TransientError)
                else NotAnsweredError(reason)
            )
            if isinstance(outcome, StopError):
                raise outcome from None
            for key in spool.keys:
                self._resolve(key, outcome)
            return
        finally:
            _discard_spool(spool)
        self._open.update(spool.keys)
        await self._poll(batch, spool.keys, from_earlier_run=False)

    async def _upload(self, spool: _Spool) -> str:
        spool.file.seek(0)
        try:
            uploaded = await self._sdk.files.create(file=("batch.jsonl", spool.file), purpose="batch")
        except openai.APIStatusError as error:
            if error.status_code in NO_BATCH_API_STATUSES:
                raise StopError(
                    f"{self._ledger.address} answers {error.status_code} to a file upload: it seems to have no Batch "
                    f"API. Set compute.endpoint.batch: false, or check {self._ledger.section}.base_url. "
                    "All answers so far are stored"
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
            # The batch may have been created although the response was lost.
            if tries > 1 and (existing := await self._find_batch_of_file(file_id)):
                return existing
            return await self._sdk.batches.create(
                input_file_id=file_id,
                endpoint=CHAT_PATH,
                completion_window="24h",
                metadata={
                    "model": model,
                    "step": step,
                    "most_usd": repr(spool.max_usd),
                    "most_tokens": str(spool.max_tokens),
                },
            )

        answers.open_batch(PENDING_PREFIX + file_id, spool.keys)
        try:
            batch = await self._with_retries(create, self._limits.attempts)
        except (NotAnsweredError, StopError):
            answers.close_batch(PENDING_PREFIX + file_id)
            raise
        answers.open_batch(batch.id, spool.keys)
        answers.close_batch(PENDING_PREFIX + file_id)
        return batch

    async def _find_batch_of_file(self, file_id: str) -> Batch | None:
        try:
            async for batch in self._sdk.batches.list(limit=100):
                if batch.input_file_id == file_id:
                    return batch
        except openai.APIStatusError as error:
            if error.status_code not in (400, *NO_BATCH_API_STATUSES):
                raise
        return None

    # Collecting

    async def _resume_earlier_batches(self) -> None:
        answers = self._ledger.answers
        for name, keys in answers.open_batches().items():
            if name.startswith(PENDING_PREFIX):
                file_id = name.removeprefix(PENDING_PREFIX)
                find = partial(self._find_batch_of_file, file_id)
                if existing := await self._with_retries(find):
                    answers.open_batch(existing.id, keys)
                answers.close_batch(name)
        unfinished: list[tuple[Batch, list[str]]] = []
        for name, keys in answers.open_batches().items():
            self._open.update(keys)
            try:
                batch = await self._retrieve(name, len(keys))
            except NotAnsweredError as error:
                self._mark_unreachable(keys, error)
                continue
            if batch.status in FINAL_STATUSES:
                await self._collect(batch, keys, from_earlier_run=True)
            else:
                unfinished.append((batch, keys))
        async with AsyncExitStack() as stack:
            usd = sum(float(_get_metadata(batch, "most_usd", "0")) for batch, _ in unfinished)
            tokens = sum(int(_get_metadata(batch, "most_tokens", "0")) for batch, _ in unfinished)
            try:
                if unfinished:
                    await stack.enter_async_context(self._ledger.budget.reserve(usd, tokens))
            except BudgetSpentError as error:
                # These batches are paid for, so collect them; the budget allows no new requests.
                self._budget_error = error
            self._resumed.set()
            await asyncio.gather(*(self._poll(batch, keys, from_earlier_run=True) for batch, keys in unfinished))

    async def _poll(self, batch: Batch, keys: list[str], from_earlier_run: bool) -> None:
        while batch.status not in FINAL_STATUSES:
            await asyncio.sleep(self._limits.poll_s)
            try:
                batch = await self._retrieve(batch.id, len(keys))
            except NotAnsweredError as error:
                self._mark_unreachable(keys, error)
                return
        await self._collect(batch, keys, from_earlier_run)

    async def _retrieve(self, name: str, count: int) -> Batch:
        async def retrieve() -> Batch:
            try:
                return await self._sdk.batches.retrieve(name)
            except (openai.NotFoundError, openai.BadRequestError):
                raise NotAnsweredError(
                    f"batch {name} with {count} requests was submitted, but {self._ledger.address} does not know it; "
                    f"run with the {self._ledger.section}.base_url and the key it was submitted with, or with "
                    "--refresh, which pays again"
                ) from None

        return await self._with_retries(retrieve)

    def _mark_unreachable(self, keys: list[str], error: NotAnsweredError) -> None:
        """Fail the requests of a batch that this endpoint does not know; the batch stays open for another endpoint."""
        for key in keys:
            self._open.discard(key)
            self._unreachable[key] = str(error)
            self._resolve(key, NotAnsweredError(str(error)))

    async def _collect(self, batch: Batch, keys: list[str], from_earlier_run: bool) -> None:
        wanted = set(keys)
        reason = _describe_failure(batch)
        with self._open_temp_file() as file:
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                start = file.tell()
                if not await self._with_retries(partial(self._download, file_id, file, start)):
                    reason = f"its result file {file_id} no longer exists"
            file.seek(0)
            async for line in _iter_lines(file):
                key, outcome = _read_line(line, self._ledger.redact_key)
                if key not in wanted:
                    continue
                wanted.discard(key)
                self._deliver(batch, key, outcome, from_earlier_run)
        for key in wanted:
            self._deliver(batch, key, NotAnsweredError(reason), from_earlier_run)
        self._ledger.answers.close_batch(batch.id)
        # Providers limit the stored files, so delete the upload. If that fails, a file is left behind, at no cost.
        with suppress(openai.OpenAIError):
            await self._sdk.files.delete(batch.input_file_id)

    async def _download(self, file_id: str, file: IO[bytes], start: int) -> bool:
        """Write the provider's file to ``file`` from offset ``start`` on. Returns False if it does not exist."""
        self._ledger.answers.check_space()
        file.seek(start)
        file.truncate()
        try:
            async with self._sdk.files.with_streaming_response.content(file_id) as response:
                chunks = response.iter_bytes()
                while chunk := await _next_chunk(chunks):
                    file.write(chunk)
        except openai.NotFoundError:
            return False
        file.write(b"\n")
        return True

    def _deliver(self, batch: Batch, key: str, outcome: dict[str, Any] | Exception, from_earlier_run: bool) -> None:
        """Store one answer, or report to the waiting caller why there is none."""
        self._open.discard(key)
        if isinstance(outcome, Exception):
            self._resolve(key, type(outcome)(f"batch {batch.id}: {self._ledger.redact_key(str(outcome))}"))
            return
        stored = self._ledger.answers.get(key) if from_earlier_run else None
        if stored and stored.response == outcome:
            # An earlier process stored and booked this answer, and ended before it closed the batch.
            answer = to_answer(stored, is_cached=True)
        elif waiting := self._waiting.get(key):
            answer = self._ledger.store_response(waiting.request, waiting.price, outcome, batch=True)
        else:
            model = _get_metadata(batch, "model", str(outcome.get("model", "")))
            usage = read_usage(outcome, expected_input=0, max_tokens=0)
            usd = prices.compute_cost(self._ledger.price(model), usage, batch=True)
            answer = self._ledger.store_with_cost(
                key, _get_metadata(batch, "step", UNKNOWN_STEP), model, outcome, usage, usd
            )
        if not self._resolve(key, answer):
            self._unclaimed.add(key)

    async def _with_retries(self, call: Callable[[], Awaitable[Result]], attempts: int | None = None) -> Result:
        """Run ``call()``, and retry it after transient errors.

        Args:
            call: The operation.
            attempts: Maximum number of attempts; None retries for up to :data:`MAX_UNREACHABLE_S`.

        Raises:
            TransientError: all attempts failed.
            NotAnsweredError: the endpoint refuses this call.
            StopError: the endpoint refuses every call, or could not be reached for :data:`MAX_UNREACHABLE_S`.
        """
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                result = await call()
            except openai.APIStatusError as error:
                classified = self._ledger.classify_error(error)
                if not isinstance(classified, TransientError):
                    raise classified from None
                transient = classified
            except (openai.OpenAIError, OSError) as error:
                transient = TransientError(f"connection lost ({type(error.__cause__ or error).__name__})")
            else:
                self._ledger.has_responded = True
                return result
            attempt += 1
            if attempts is not None and attempt >= attempts:
                raise TransientError(f"{transient}, after {attempt} attempts")
            if attempts is None and time.monotonic() - started > MAX_UNREACHABLE_S:
                raise StopError(
                    f"{self._ledger.address} could not be reached for {MAX_UNREACHABLE_S / 60:g} minutes while "
                    f"collecting batches: {transient}. Nothing is lost: run the same command again to collect them"
                )
            await asyncio.sleep(self._ledger.compute_delay(attempt - 1, transient.wait))


def _discard_spool(spool: _Spool) -> None:
    if spool.timer:
        spool.timer.cancel()
    spool.file.close()


def _get_metadata(batch: Batch, name: str, default: str) -> str:
    return (batch.metadata or {}).get(name, default)


def _describe_failure(batch: Batch) -> str:
    """Say why a finished batch has no line for a request."""
    causes = [error.message for error in (batch.errors.data if batch.errors else None) or [] if error.message]
    if causes:
        return f"{batch.status}: {'; '.join(dict.fromkeys(causes))}"[:300]
    return "it has no answer to this request" if batch.status == "completed" else batch.status


async def _iter_lines(file: IO[bytes]) -> AsyncIterator[bytes]:
    for line in file:
        if line.strip():
            yield line
            # Let other tasks run between the lines of a large file.
            await asyncio.sleep(0)


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks, b"")
    except Exception as error:
        # The stream raises its transport's own exceptions, which differ by transport.
        raise ConnectionError("stream") from error


def _read_line(line: bytes, redact: Callable[[str], str]) -> tuple[str, dict[str, Any] | Exception]:
    """Parse a line of an output or error file into the request's key, and its response or the error."""
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
        text = extract_error_text(body or entry, redact)
        return key, NotAnsweredError(f"status {status}: {text}" if status else text)
    try:
        return key, read_response(redact(json.dumps(body)))
    except TransientError as error:
        return key, error

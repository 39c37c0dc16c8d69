"""A chat-completions server on loopback for tests: answers by a rule, with planned faults."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Rule = Callable[[Body], dict[str, Any] | str]
BYTES_PER_TOKEN = 4
DRIPS = 20
"""Number of parts in which a slow answer is sent."""
MAX_REQUEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Fault:
    """A fault of one request; without arguments, no fault."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    """Body to send instead of a completion."""
    kept_share: float = 1.0
    """Share of the body that is sent."""
    dropped: bool = False
    """Whether the connection closes after ``kept_share`` of the body, despite its full Content-Length."""
    stalled: bool = False
    """Whether the server sends nothing until the client disconnects."""
    drip_s: float = 0.0
    """Seconds that sending the body takes."""
    change: Callable[[Body], Body] = lambda completion: completion
    """Changes the completion before it is sent."""

    @property
    def answers(self) -> bool:
        """Whether the client receives a complete completion."""
        return self.status == 200 and self.text is None and self.kept_share == 1.0 and not self.stalled


Faults = Callable[[Body, int], Fault | None]


def status_fault(code: int, retry_after: str = "", message: str = "", error_code: str | None = None) -> Fault:
    """Make an error response as OpenAI sends it; ``retry_after`` is the value of the header."""
    error = {"error": {"message": message or f"status {code}", "type": "error", "param": None, "code": error_code}}
    return Fault(code, {"Retry-After": retry_after} if retry_after else {}, json.dumps(error))


def drop_usage(completion: Body) -> Body:
    """Remove the token counts from a completion."""
    return {name: value for name, value in completion.items() if name != "usage"}


def change_message(reason: str, **message: str | None) -> Callable[[Body], Body]:
    """Make a change of the finish reason and of fields of the message."""

    def change(completion: Body) -> Body:
        choice = completion["choices"][0]
        return completion | {
            "choices": [choice | {"finish_reason": reason, "message": choice["message"] | message}],
        }

    return change


STALLED = Fault(stalled=True)
DROPPED = Fault(kept_share=0.5, dropped=True)
TRUNCATED = Fault(kept_share=0.5)
MALFORMED = Fault(text="<html>the proxy is restarting</html>")
EMPTY = Fault(text="")
REFUSED = Fault(change=change_message("stop", content=None, refusal="I cannot help with that."))
FILTERED = Fault(change=change_message("content_filter", content=""))
CUT = Fault(change=change_message("length"))
NO_USAGE = Fault(change=drop_usage)


def faults_in_turn(*faults: Fault | None) -> Faults:
    """Give the n-th arrival of the same body the n-th fault, and later arrivals none."""
    seen: Counter[str] = Counter()

    def choose(body: Body, number: int) -> Fault | None:
        name = json.dumps(body, sort_keys=True)
        seen[name] += 1
        return faults[seen[name] - 1] if seen[name] <= len(faults) else None

    return choose


def get_text(body: Body) -> str:
    """Return all text of the messages, in order."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return "\n".join(found)


class ChatServer:
    """State of the server, with lists in the order of events; created by :func:`chat_server`."""

    def __init__(self, answer: Rule, faults: Faults | None, latency_s: float) -> None:
        self.url = ""
        """Base URL, ending in ``/v1``."""
        self.requests: list[Body] = []
        """Received bodies."""
        self.arrivals: list[float] = []
        """``time.monotonic()`` of each received body."""
        self.keys: list[str] = []
        """Authorization header of each request."""
        self.answered: list[Body] = []
        """Bodies that got a complete completion."""
        self.usages: list[dict[str, int]] = []
        """Token counts of each of ``answered``, even if the response left them out."""
        self.max_in_flight = 0
        """Maximum number of requests that were handled at the same time."""
        self._answer = answer
        self._faults = faults
        self._latency_s = latency_s
        self._in_flight = 0

    @property
    def tokens(self) -> int:
        """Total tokens of all answers."""
        return sum(usage["total_tokens"] for usage in self.usages)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle POST /v1/chat/completions."""
        body = await request.json()
        number = len(self.requests)
        self.requests.append(body)
        self.arrivals.append(time.monotonic())
        self.keys.append(request.headers.get("Authorization", ""))
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            fault = (self._faults and self._faults(body, number)) or Fault()
            await asyncio.sleep(self._latency_s)
            if fault.stalled:
                # The handler is cancelled when the client leaves.
                await asyncio.Event().wait()
            completion = self._completion(body)
            return await self._send(request, fault, body, completion)
        finally:
            self._in_flight -= 1

    async def _send(self, request: web.Request, fault: Fault, body: Body, completion: Body) -> web.StreamResponse:
        text = fault.text if fault.text is not None else json.dumps(fault.change(completion))
        whole = text.encode()
        sent = whole[: int(len(whole) * fault.kept_share)]
        response = web.StreamResponse(status=fault.status, headers=dict(fault.headers))
        response.content_type = "application/json"
        response.content_length = len(whole) if fault.dropped else len(sent)
        await response.prepare(request)
        step = max(1, -(-len(sent) // DRIPS)) if fault.drip_s else max(1, len(sent))
        for start in range(0, len(sent), step):
            await asyncio.sleep(fault.drip_s / DRIPS)
            if fault.answers and start + step >= len(sent):
                # Record before the last write: a client that has the complete answer may read this at once.
                self.answered.append(body)
                self.usages.append(completion["usage"])
            await response.write(sent[start : start + step])
        if fault.dropped:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write_eof()
        return response

    def _completion(self, body: Body) -> Body:
        answer = self._answer(body)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        prompt, output = len(get_text(body)) // BYTES_PER_TOKEN, len(text) // BYTES_PER_TOKEN
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
        }


@contextmanager
def chat_server(answer: Rule, faults: Faults | None = None, latency_s: float = 0.0) -> Iterator[ChatServer]:
    """Serve on a free port of loopback, in a background thread, while the context is open.

    Args:
        answer: Returns the assistant's text for a request's body, or an object to send as JSON. Deterministic.
        faults: Returns the fault of a request, by its body and its number among all arrivals, from 0.
        latency_s: Seconds between a request and the first byte of its response.
    """
    server = ChatServer(answer, faults, latency_s)
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ended = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()
        await runner.cleanup()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="chat server", daemon=True)
    thread.start()
    loop, ended = started.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()

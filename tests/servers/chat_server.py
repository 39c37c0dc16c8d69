"""A chat-completions server on loopback for tests: answers by a rule, and fails exactly as it is told to."""

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
BYTES_A_TOKEN = 4
DRIPS = 20
"""Parts in which a slow answer arrives."""
LARGEST_REQUEST = 64 * 2**20


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. As it is made without arguments, nothing does."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    """The body sent instead of a completion."""
    kept_share: float = 1.0
    """Share of the body that is sent."""
    dropped: bool = False
    """The body is announced whole, and the connection ends where ``kept_share`` of it is sent."""
    stalled: bool = False
    """Nothing is ever sent; held until the client leaves."""
    drip_s: float = 0.0
    """Seconds over which the body arrives."""
    change: Callable[[Body], Body] = lambda completion: completion
    """What is otherwise about a whole completion."""

    @property
    def answers(self) -> bool:
        """Whether the client receives a whole completion."""
        return self.status == 200 and self.text is None and self.kept_share == 1.0 and not self.stalled


Faults = Callable[[Body, int], Fault | None]


def status(code: int, retry_after: str = "", message: str = "", error_code: str | None = None) -> Fault:
    """An error as OpenAI words it; ``retry_after`` as it stands in the header."""
    error = {"error": {"message": message or f"status {code}", "type": "error", "param": None, "code": error_code}}
    return Fault(code, {"Retry-After": retry_after} if retry_after else {}, json.dumps(error))


def no_usage(completion: Body) -> Body:
    """The completion without its count of tokens."""
    return {name: value for name, value in completion.items() if name != "usage"}


def finish(reason: str, **message: str | None) -> Callable[[Body], Body]:
    """Changes the finish reason, and fields of the message."""

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
REFUSED = Fault(change=finish("stop", content=None, refusal="I cannot help with that."))
FILTERED = Fault(change=finish("content_filter", content=""))
CUT = Fault(change=finish("length"))
NO_USAGE = Fault(change=no_usage)


def in_turn(*faults: Fault | None) -> Faults:
    """The n-th arrival of one and the same body meets the n-th fault; when they are used up, none."""
    seen: Counter[str] = Counter()

    def choose(body: Body, number: int) -> Fault | None:
        name = json.dumps(body, sort_keys=True)
        seen[name] += 1
        return faults[seen[name] - 1] if seen[name] <= len(faults) else None

    return choose


def text_of(body: Body) -> str:
    """All text of the messages, in order."""
    found = []
    for message in body["messages"]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return "\n".join(found)


class ChatServer:
    """What the server saw and did; to be had from :func:`chat_server`. Lists grow in the order of events."""

    def __init__(self, answer: Rule, faults: Faults | None, latency_s: float) -> None:
        self.url = ""
        """Base address, ending in ``/v1``."""
        self.requests: list[Body] = []
        """Bodies received."""
        self.arrivals: list[float] = []
        """``time.monotonic()`` at which each was received."""
        self.keys: list[str] = []
        """Authorization header of each."""
        self.answered: list[Body] = []
        """Bodies to which a whole completion was sent."""
        self.usages: list[dict[str, int]] = []
        """Tokens counted for each of ``answered``, whether or not the answer told them."""
        self.most_at_once = 0
        """Most requests that were being handled together."""
        self._answer = answer
        self._faults = faults
        self._latency_s = latency_s
        self._at_once = 0

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(usage["total_tokens"] for usage in self.usages)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        body = await request.json()
        number = len(self.requests)
        self.requests.append(body)
        self.arrivals.append(time.monotonic())
        self.keys.append(request.headers.get("Authorization", ""))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            fault = (self._faults and self._faults(body, number)) or Fault()
            await asyncio.sleep(self._latency_s)
            if fault.stalled:
                # The handler is cancelled when the client leaves.
                await asyncio.Event().wait()
            completion = self._completion(body)
            return await self._send(request, fault, body, completion)
        finally:
            self._at_once -= 1

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
                # Not after it: who has the whole answer may look here at once.
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
        said = self._answer(body)
        text = said if isinstance(said, str) else json.dumps(said)
        prompt, output = len(text_of(body)) // BYTES_A_TOKEN, len(text) // BYTES_A_TOKEN
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
    """Serve on a free port of loopback, in a thread of its own, while the context is open.

    Args:
        answer: Text of the assistant for a request's body, or an object that is sent as JSON. Deterministic.
        faults: What goes wrong with a request: its body, and its number among all arrivals, from 0.
        latency_s: Seconds between a request and the first byte of its answer.
    """
    server = ChatServer(answer, faults, latency_s)
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ended = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()
        await runner.cleanup()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    thread = threading.Thread(target=run, name="chat server", daemon=True)
    thread.start()
    loop, ended = begun.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()

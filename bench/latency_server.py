"""A chat-completions server that answers after a fixed time and reads no body: `python -m bench.latency_server S`.

It shares the machine with the clients it is there to measure, hence no HTTP library: a body costs it one copy.
"""

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

HOST = "127.0.0.1"
BUFFER = memoryview(bytearray(2**18))
"""Of all connections together: what arrives is done with before the next one reads."""
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
TEXT = "A bright scratch crosses the lower left of the bottle's neck; its edge is sharp and it casts no shadow. " * 8
COMPLETION = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1,
    "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1800, "completion_tokens": 200, "total_tokens": 2000},
}


@dataclass
class Counts:
    """What a server saw."""

    answered: int = 0
    received: int = 0
    """Bytes of bodies."""
    under_way: int = 0
    most: int = 0
    """Most requests that waited for their answer together."""


def _response(body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


class _Connection(asyncio.BufferedProtocol):
    """One request after another; bodies are counted and dropped."""

    def __init__(self, latency_s: float, counts: Counts, answer: bytes) -> None:
        self._latency_s = latency_s
        self._counts = counts
        self._answer = answer
        self._head = bytearray()
        self._left = 0
        self._is_post = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, _: int) -> memoryview:
        return BUFFER

    def buffer_updated(self, size: int) -> None:
        if self._left:
            self._left -= size
        else:
            self._head += BUFFER[:size]
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(self._head, 0, end)
            self._is_post = self._head.startswith(b"POST")
            if self._is_post and not length:
                self._transport.abort()
                return
            body = int(length[1]) if length else 0
            self._counts.received += body
            self._left = body - (len(self._head) - end - 4)
            self._head.clear()
        if not self._left:
            self._received()

    def _received(self) -> None:
        if not self._is_post:
            self._transport.write(_response(vars(self._counts)))
            return
        self._counts.under_way += 1
        self._counts.most = max(self._counts.most, self._counts.under_way)
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._reply)
        else:
            self._reply()

    def _reply(self) -> None:
        self._counts.under_way -= 1
        if not self._transport.is_closing():
            self._counts.answered += 1
            self._transport.write(self._answer)


async def _serve(latency_s: float, text: str) -> None:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    counts, answer = Counts(), _response(COMPLETION | {"choices": [message]})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency_s, counts, answer), HOST, 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Its end is the end of whoever started this process.
    await loop.run_in_executor(None, sys.stdin.read)


class LatencyServer:
    """A running server, seen from outside; to be had from :func:`latency_server`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://{HOST}:{port}/v1"

    def counts(self) -> Counts:
        """What it has seen since it started."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/") as response:
            return Counts(**json.load(response))


@contextmanager
def latency_server(latency_s: float, text: str = TEXT) -> Iterator[LatencyServer]:
    """A server in a process of its own that says ``text`` ``latency_s`` seconds after a request has arrived whole."""
    command = [sys.executable, "-m", "bench.latency_server", str(latency_s), text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield LatencyServer(int(process.stdout.readline()))


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), *(sys.argv[2:] or [TEXT])))

"""A Batch API on loopback for tests: files, batches and their outcomes, with planned faults."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from aiohttp import web

Body = dict[str, Any]
MAX_UPLOAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Fault:
    """A fault of one HTTP request."""

    status: int = 0
    """HTTP status to answer with; 0 closes the connection without a response."""
    after: bool = False
    """Whether the server executes the request before it fails."""
    cut: bool = False
    """Whether the connection closes in the middle of a file's content, despite its full Content-Length."""


@dataclass(frozen=True)
class Line:
    """Outcome of one request of a batch; by default it is answered."""

    status: int = 200
    error: str = ""
    """Error message of a request that was never run."""
    silent: bool = False
    """Whether the results have no line for it."""
    garbled: bool = False
    """Whether its line is invalid JSON."""
    change: Callable[[Body], Body] = lambda completion: completion


class BatchServer:
    """State of the server and its planned faults; created by :func:`batch_server`."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: Callable[[Body], str] = lambda body: f"answer to {body['messages'][0]['content']}"
        self.line: Callable[[Body, int], Line] = lambda body, number: Line()
        """Outcome of a request, by its body and the number of its earlier runs."""
        self.fault: Callable[[str, int], Fault | None] = lambda what, number: None
        """Fault by operation (``upload``, ``create``, ``list``, ``poll``, ``content`` …) and its number, from 0."""
        self.done: Callable[[str], None] = lambda what: None
        """Called with the operation after it was executed and before its response."""
        self.batch_name = "batch"
        """Prefix of the batch ids."""
        self.polls = 2
        """Number of polls until a batch is finished."""
        self.end = "completed"
        """Final status of batches."""
        self.lists = True
        """Whether the server can list batches."""
        self.has_batches = True
        self.calls: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Body] = {}
        self.submitted: list[list[str]] = []
        """Keys of the requests of each created batch."""
        self.paid: Counter[str] = Counter()
        """Number of answers by key."""
        self.chats: list[Body] = []
        """Bodies of single chat requests."""
        self._file_numbers = count(1)
        self._seen: Counter[str] = Counter()
        self._runs: Counter[str] = Counter()

    @web.middleware
    async def with_faults(self, request: web.Request, handler: Any) -> web.StreamResponse:
        what = handler.__name__
        number = self.calls[what]
        self.calls[what] += 1
        if not self.has_batches and what != "chat":
            raise web.HTTPNotFound
        fault = self.fault(what, number)
        if fault is None or fault.after or fault.cut:
            response = await handler(request)
            self.done(what)
        if fault is None:
            return response
        if fault.cut:
            whole = web.StreamResponse()
            whole.content_length = len(response.body)
            await whole.prepare(request)
            await whole.write(response.body[: len(response.body) // 2])
        elif fault.status:
            return web.json_response({"error": {"message": f"status {fault.status}"}}, status=fault.status)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        content = form["file"].file.read()  # type: ignore[union-attr]
        name = f"file-{next(self._file_numbers)}"
        self.files[name] = content
        return web.json_response({"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})

    async def content(self, request: web.Request) -> web.Response:
        content = self.files.get(request.match_info["id"])
        if content is None:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        return web.Response(body=content)

    async def delete(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        del self.files[name]
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["completion_window"] == "24h"
        assert asked["endpoint"] == "/v1/chat/completions"
        assert all(isinstance(value, str) and len(value) <= 512 for value in asked["metadata"].values())
        name = f"{self.batch_name}_{len(self.batches) + 1}"
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "status": "validating",
            "created_at": 0,
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            **asked,
        }
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert all((line["method"], line["url"]) == ("POST", asked["endpoint"]) for line in lines)
        assert len({line["body"]["model"] for line in lines}) == 1, "a batch file has one model"
        keys = [line["custom_id"] for line in lines]
        assert len(set(keys)) == len(keys)
        self.submitted.append(keys)
        return web.json_response(self.batches[name])

    async def list(self, request: web.Request) -> web.Response:
        if not self.lists:
            raise web.HTTPNotFound
        found = list(reversed(self.batches.values()))
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def poll(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        self._seen[batch["id"]] += 1
        if self._seen[batch["id"]] >= self.polls and batch["status"] in ("validating", "in_progress"):
            self._finish(batch)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        return web.json_response(batch)

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.chats.append(body)
        return web.json_response(self._completion(body))

    def _finish(self, batch: Body) -> None:
        batch["status"] = self.end
        if self.end == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "invalid", "message": "the file is refused"}]}
            return
        output: list[bytes] = []
        errors: list[bytes] = []
        for line in self.files[batch["input_file_id"]].splitlines():
            entry = json.loads(line)
            key = entry["custom_id"]
            fate = self.line(entry["body"], self._runs[key])
            self._runs[key] += 1
            result: Body = {"id": f"batch_req_{len(output) + len(errors)}", "custom_id": key, "error": None}
            if fate.garbled:
                output.append(b'{"custom_id": "' + key.encode())
            elif fate.error:
                result |= {"response": None, "error": {"code": "not_run", "message": fate.error}}
                errors.append(json.dumps(result).encode())
            elif fate.status != 200:
                body = {"error": {"message": f"status {fate.status}"}}
                result |= {"response": {"status_code": fate.status, "request_id": "r", "body": body}}
                errors.append(json.dumps(result).encode())
            elif not fate.silent:
                self.paid[key] += 1
                body = fate.change(self._completion(entry["body"]))
                result |= {"response": {"status_code": 200, "request_id": "r", "body": body}}
                output.append(json.dumps(result).encode())
        # As with the real API: lines in arbitrary order, and no newline after the last one.
        for name, lines in (("output_file_id", output[::-1]), ("error_file_id", errors)):
            if lines:
                batch[name] = f"file-{next(self._file_numbers)}"
                self.files[batch[name]] = b"\n".join(lines)

    def _completion(self, body: Body) -> Body:
        return {
            "id": f"chatcmpl-{sum(self.paid.values())}",
            "object": "chat.completion",
            "created": 0,
            "model": f"{body['model']}-2025-01-01",
            "choices": [{"message": {"role": "assistant", "content": self.answer(body)}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
        }


@contextmanager
def batch_server() -> Iterator[BatchServer]:
    """Serve on a free port of loopback, in a background thread, while the context is open."""
    server = BatchServer()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        app = web.Application(client_max_size=MAX_UPLOAD_BYTES, middlewares=[server.with_faults])
        app.router.add_post("/v1/files", server.upload)
        app.router.add_get("/v1/files/{id}/content", server.content)
        app.router.add_delete("/v1/files/{id}", server.delete)
        app.router.add_post("/v1/batches", server.create)
        app.router.add_get("/v1/batches", server.list)
        app.router.add_get("/v1/batches/{id}", server.poll)
        app.router.add_post("/v1/chat/completions", server.chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ended = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="batch server", daemon=True)
    thread.start()
    loop, ended = started.result(timeout=30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()

"""A reverse proxy on loopback that forwards all requests and injects faults into chosen ones."""

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = int | Literal["cut", "lost", "half"] | Callable[[], object]
"""An HTTP status to answer with instead of the server; `cut` closes the connection before the request is forwarded,
`lost` after it (the response is lost), `half` in the middle of the response; a function is called before the request is
forwarded."""
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive"}
PAGE = b"<html><body><h1>Bad weather</h1></body></html>"


@dataclass
class PlannedFault:
    """A fault, and the requests that it is injected into."""

    method: str
    path: str
    """Regular expression that is searched in path and query."""
    fault: Fault
    after: int
    """Number of matching requests that pass first."""
    times: int
    hits: int = 0
    """Number of requests that had the fault."""


@dataclass
class Proxy:
    """The proxy's address, the requests so far, and the planned faults."""

    url: str = ""
    seen: list[str] = field(default_factory=list)
    """Method and path of every request."""
    plans: list[PlannedFault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, method: str, path: str, fault: Fault, *, after: int = 0, times: int = 1) -> PlannedFault:
        """Inject ``fault`` into the next ``times`` matching requests, after ``after`` of them have passed."""
        plan = PlannedFault(method, path, fault, after, times)
        self.plans.append(plan)
        return plan

    def clear(self) -> None:
        """Remove all planned faults."""
        self.plans = []

    def choose_fault(self, method: str, path: str) -> Fault | None:
        """Return the fault of this request, if any."""
        with self.lock:
            self.seen.append(f"{method} {path}")
            for plan in self.plans:
                if re.fullmatch(plan.method, method) and re.search(plan.path, path):
                    if plan.after:
                        plan.after -= 1
                    elif plan.hits < plan.times:
                        plan.hits += 1
                        return plan.fault
        return None


@contextmanager
def run_proxy(target: str) -> Iterator[Proxy]:
    """Run a proxy in front of the server at ``target``; it answers 502 if the server is unreachable."""
    state = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = state.choose_fault(self.command, self.path)
            if isinstance(fault, int):
                self.reply(fault, [("Content-Type", "text/html")], PAGE)
                return
            if fault == "cut":
                self.cut()
                return
            if callable(fault):
                fault()
            connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=300)
            try:
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self.reply(502, [("Content-Type", "text/html")], PAGE)
                return
            finally:
                connection.close()
            if fault == "lost":
                self.cut()
            else:
                self.reply(answer.status, answer.getheaders(), content, half=fault == "half")

        def reply(self, status: int, headers: list[tuple[str, str]], content: bytes, *, half: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in HOP_HEADERS:
                    self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if half else content)
            if half:
                self.cut()

        def cut(self) -> None:
            self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    with _QuietServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            listening.shutdown()
            thread.join()


class _QuietServer(ThreadingHTTPServer):
    """Logs no errors of killed clients, and does not wait for idle connections on shutdown."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass

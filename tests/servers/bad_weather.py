"""A reverse proxy on loopback that passes everything on, and at chosen requests brings bad weather."""

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
"""An HTTP status answered in the server's place; the connection cut before the request is passed on, after it was
(its answer is lost), or in the middle of the answer; or something to do before the request is passed on."""
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
PAGE = b"<html><body><h1>Bad weather</h1></body></html>"


@dataclass
class Plan:
    """What happens to which requests."""

    method: str
    path: str
    """Regular expression, searched in path and query."""
    fault: Fault
    after: int
    """Matching requests that pass first."""
    times: int
    met: int = 0
    """Requests it has happened to."""


@dataclass
class Proxy:
    """Where the proxy listens, what went through it, and what is to happen."""

    url: str = ""
    seen: list[str] = field(default_factory=list)
    """Method and path of every request that came."""
    plans: list[Plan] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, method: str, path: str, fault: Fault, *, after: int = 0, times: int = 1) -> Plan:
        """From now on let ``fault`` happen to ``times`` requests that match, once ``after`` of them have passed."""
        plan = Plan(method, path, fault, after, times)
        self.plans.append(plan)
        return plan

    def clear(self) -> None:
        """Fair weather again."""
        self.plans = []

    def fault(self, method: str, path: str) -> Fault | None:
        """What happens to this request."""
        with self.lock:
            self.seen.append(f"{method} {path}")
            for plan in self.plans:
                if re.fullmatch(plan.method, method) and re.search(plan.path, path):
                    if plan.after:
                        plan.after -= 1
                    elif plan.met < plan.times:
                        plan.met += 1
                        return plan.fault
        return None


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """A proxy before the server at ``target``; answers 502 where that is not there."""
    weather = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = weather.fault(self.command, self.path)
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
                if name.lower() not in HOP:
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
    with Quiet(("127.0.0.1", 0), Handler) as listening:
        weather.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield weather
        finally:
            listening.shutdown()
            thread.join()


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that were killed, and does not wait for idle connections."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass

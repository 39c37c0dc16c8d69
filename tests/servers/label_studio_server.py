"""Real Label Studio servers for tests, run as a user runs them.

The server's environment and a folder after its first start are made once and kept in ``.label-studio`` of the
checkout; a test's server begins with a copy of that folder, which is ready in seconds instead of half a minute. That
first start was interrupted once, since a second one for the test of that would take as long again.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from filelock import FileLock

from annotation import server as product
from annotation.server import LOCK, Admin, admin, install
from tests.helpers.paths import ROOT

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

KEPT = ROOT / ".label-studio"
START_S = 300.0
STOP_S = 40.0
RUNS = "Label Studio runs at"
DATABASE = Path("data/label_studio.sqlite3")
INTERRUPTED = "interrupted.json"
"""Exit code, processes left, output and account of the first start of the folder that every test's server copies."""


class Server:
    """A server with its data in ``folder``. It keeps its address over a stop and a start."""

    def __init__(
        self, folder: Path, port: int = 0, database: str | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.variables = dict(variables or {})
        """Environment variables added at the next start."""
        self.port = port or free_port()
        self.database = database
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base address, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def images(self) -> Path:
        """The root of the served files. A local storage must cover a folder in it, not itself."""
        return self.folder / "images"

    @property
    def account(self) -> Admin:
        """E-mail, password and token of the administrator."""
        return admin(self.folder)

    @property
    def email(self) -> str:
        """The administrator's e-mail."""
        return self.account.email

    @property
    def password(self) -> str:
        """The administrator's password."""
        return self.account.password

    @property
    def token(self) -> str:
        """The administrator's legacy API token."""
        return self.account.token

    @property
    def printed(self) -> str:
        """What `serve` has printed since the last start."""
        path = self.folder.with_name(f"{self.folder.name}.printed")
        return path.read_text() if path.exists() else ""

    def client(self) -> "LabelStudio":
        """The SDK, logged in as the administrator."""
        # Imported here: half of the test files need no server, and the SDK is slow to import.
        from label_studio_sdk import LabelStudio

        return LabelStudio(base_url=self.url, api_key=self.token)

    def launch(self) -> None:
        """Run `serve`, without waiting for anything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = self.folder / "env"
        if not environment.exists():
            environment.symlink_to(KEPT / "env")
        with self.folder.with_name(f"{self.folder.name}.printed").open("wb") as output:
            self.process = subprocess.Popen(
                serve_command(self.folder, self.port, self.database),
                cwd=ROOT,
                env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | self.variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        """Run `serve` until it says where to log in."""
        self.launch()
        deadline = time.monotonic() + START_S
        while RUNS not in self.printed:
            assert self.process is not None and self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send the signal, as Ctrl-C does; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_S)


def serve_command(folder: Path, port: int, database: str | None = None) -> list[str]:
    """The command line that runs the server, and prints an error as `indus-cot` does."""
    code = (
        "import sys; from pathlib import Path; from annotation.server import serve\n"
        "from schemas.errors import IndusCotError\n"
        f"try: serve(Path({str(folder)!r}), {port}, database={database!r})\n"
        "except IndusCotError as error: sys.exit(str(error))"
    )
    return [sys.executable, "-c", code]


def free_port() -> int:
    """A port of loopback on which nothing listens now, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def new_server(folder: Path) -> Server:
    """A server that has been started once, not running now; ``folder`` must not exist. Start it with ``start()``."""
    environment()
    with FileLock(KEPT / ".tests.lock"):
        shutil.copytree(_template(), folder, symlinks=True, ignore=shutil.ignore_patterns("server.log", ".server.lock"))
    return Server(folder)


def environment() -> Path:
    """The server's environment, made when missing."""
    KEPT.mkdir(exist_ok=True)
    with FileLock(KEPT / ".tests.lock"):
        install(KEPT / "env")
    return KEPT / "env"


def _template() -> Path:
    code = b"".join(Path(file).read_bytes() for file in (LOCK, product.__file__, __file__))
    template = KEPT / "templates" / hashlib.sha256(code).hexdigest()[:16]
    if not template.exists():
        shutil.rmtree(template.parent, ignore_errors=True)
        first = Server(template.with_name("partial"))
        _interrupt(first)
        first.start()
        assert first.stop() == 0
        os.replace(first.folder, template)
    return template


def _interrupt(first: Server) -> None:
    """A first start that ends while it creates the database; what it left is kept for the test of that."""
    first.launch()
    database = first.folder / DATABASE
    poll(lambda: database.exists() and database.stat().st_size > 0, START_S)
    alive = family(first)
    code = first.stop()
    left = {
        "code": code,
        "processes": len(psutil.wait_procs(alive, timeout=5)[1]),
        "printed": first.printed,
        "account": first.account._asdict(),
    }
    (first.folder / INTERRUPTED).write_text(json.dumps(left))


def family(server: Server) -> list[psutil.Process]:
    """The process that was started, and every one below it."""
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def poll(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One running server for all tests of a worker."""
    server = new_server(tmp_path_factory.mktemp("label_studio") / "server")
    server.start()
    yield server
    server.stop()

"""Real Label Studio servers for tests, started as a user starts them.

The server's environment and a data folder after its first start are created once and cached in ``.label-studio`` of the
checkout. A test's server starts with a copy of that folder, which takes seconds instead of half a minute. The cached
first start includes one interrupted start, because a separate one for the test of interruptions would take as long.
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
from annotation.server import LOCK, Admin, install, read_admin
from tests.helpers.paths import ROOT

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

CACHE = ROOT / ".label-studio"
START_S = 300.0
STOP_S = 40.0
RUNS = "Label Studio runs at"
DATABASE = Path("data/label_studio.sqlite3")
INTERRUPTED = "interrupted.json"
"""File in the cached folder: exit code, remaining processes, output and account of its interrupted first start."""


class Server:
    """A server with its data in ``folder``. Its address stays the same after a restart."""

    def __init__(
        self, folder: Path, port: int = 0, database: str | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.variables = dict(variables or {})
        """Additional environment variables for the next start."""
        self.port = port or free_port()
        self.database = database
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def images(self) -> Path:
        """The root of the served files. A local storage must be a folder in it, not the root."""
        return self.folder / "images"

    @property
    def account(self) -> Admin:
        """E-mail, password and token of the administrator."""
        return read_admin(self.folder)

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
        """Output of `serve` since the last start."""
        path = self.folder.with_name(f"{self.folder.name}.printed")
        return path.read_text() if path.exists() else ""

    def client(self) -> "LabelStudio":
        """Return an SDK client, logged in as the administrator."""
        # Imported here, because the SDK is slow to import and half of the test files need no server.
        from label_studio_sdk import LabelStudio

        return LabelStudio(base_url=self.url, api_key=self.token)

    def launch(self) -> None:
        """Start `serve` without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = self.folder / "env"
        if not environment.exists():
            environment.symlink_to(CACHE / "env")
        with self.folder.with_name(f"{self.folder.name}.printed").open("wb") as output:
            self.process = subprocess.Popen(
                serve_command(self.folder, self.port, self.database),
                cwd=ROOT,
                env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | self.variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start(self) -> None:
        """Start `serve`, and wait until it prints the login address."""
        self.launch()
        deadline = time.monotonic() + START_S
        while RUNS not in self.printed:
            assert self.process is not None and self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send the signal, by default that of Ctrl-C, and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_S)


def serve_command(folder: Path, port: int, database: str | None = None) -> list[str]:
    """Return a command line that runs the server and prints errors as `indus-cot` does."""
    code = (
        "import sys; from pathlib import Path; from annotation.server import serve\n"
        "from schemas.errors import IndusCotError\n"
        f"try: serve(Path({str(folder)!r}), {port}, database={database!r})\n"
        "except IndusCotError as error: sys.exit(str(error))"
    )
    return [sys.executable, "-c", code]


def free_port() -> int:
    """Return a free loopback port below the range from which the system assigns ephemeral ports."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def new_server(folder: Path) -> Server:
    """Return a stopped server that has been started once; ``folder`` must not exist. Start it with ``start()``."""
    install_environment()
    with FileLock(CACHE / ".tests.lock"):
        shutil.copytree(
            _prepare_template(), folder, symlinks=True, ignore=shutil.ignore_patterns("server.log", ".server.lock")
        )
    return Server(folder)


def install_environment() -> Path:
    """Install the server's environment if it is missing, and return its path."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / ".tests.lock"):
        install(CACHE / "env")
    return CACHE / "env"


def _prepare_template() -> Path:
    code = b"".join(Path(file).read_bytes() for file in (LOCK, product.__file__, __file__))
    template = CACHE / "templates" / hashlib.sha256(code).hexdigest()[:16]
    if not template.exists():
        shutil.rmtree(template.parent, ignore_errors=True)
        first = Server(template.with_name("partial"))
        _interrupt_first_start(first)
        first.start()
        assert first.stop() == 0
        os.replace(first.folder, template)
    return template


def _interrupt_first_start(first: Server) -> None:
    """Interrupt a first start while it creates the database, and store the outcome for the test of interruptions."""
    first.launch()
    database = first.folder / DATABASE
    wait_until(lambda: database.exists() and database.stat().st_size > 0, START_S)
    alive = list_processes(first)
    code = first.stop()
    outcome = {
        "code": code,
        "processes": len(psutil.wait_procs(alive, timeout=5)[1]),
        "printed": first.printed,
        "account": first.account._asdict(),
    }
    (first.folder / INTERRUPTED).write_text(json.dumps(outcome))


def list_processes(server: Server) -> list[psutil.Process]:
    """Return the server's process and all its descendants."""
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One running server, shared by all tests of a worker process."""
    server = new_server(tmp_path_factory.mktemp("label_studio") / "server")
    server.start()
    yield server
    server.stop()

"""Runs the open-source Label Studio on loopback, in its own environment: its pinned packages conflict with ours."""

import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx
from filelock import FileLock, Timeout

from cot_builder.progress import console
from cot_builder.storage.output import write_text
from schemas.errors import IndusCotError

LOCK = Path(__file__).with_name("label-studio.lock")
HOST = "127.0.0.1"
EMAIL = "admin@localhost"
START_TIMEOUT_S = 600.0
"""Timeout of a start: the first one creates the database, which takes minutes on a slow disk."""
STOP_TIMEOUT_S = 10.0
POLL_SECONDS = 0.2
LOG_TAIL_LINES = 5
"""Number of log lines in the error message if the server ends by itself."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_CODE = (
    "import gc; gc.set_threshold(200_000, 20, 100); "
    "import sys; sys.argv[0] = 'label-studio'; from label_studio.server import main; sys.exit(main())"
)
"""Python code that starts the server with less frequent garbage collection.

Most objects of a start are never freed: the first start is a fifth faster this way, later ones a tenth."""
REMOVED_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")
"""Environment variables that would make the server's Python use wrong packages or settings."""


class Admin(NamedTuple):
    """The account that the first start creates. ``token`` is a legacy API token, 40 hexadecimal digits."""

    email: str
    password: str
    token: str


def serve(folder: Path, port: int, *, database: str | None = None) -> None:
    """Run Label Studio on 127.0.0.1 until Ctrl-C, SIGTERM or SIGHUP; return when all its processes have ended.

    ``folder`` holds ``env/`` (created if missing), ``admin.json``, ``data/`` (SQLite, uploads), ``images/`` (served
    as local files) and ``server.log``. A later start uses all of it again.

    Args:
        folder: Folder of the server, created if missing. Only one server at a time can run in it.
        port: 1–65535.
        database: ``postgresql://user:password@host:port/name`` instead of SQLite.

    Raises:
        IndusCotError: the port is in use, another server runs in the folder, the database's address or
            ``admin.json`` is invalid, the environment cannot be created, or the server ended by itself.
    """
    _check_port(port)
    folder = folder.absolute()
    variables = _parse_database_url(folder, database)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _hold_server_lock(folder), _catch_stop_signals() as is_stop_requested:
        install(folder / "env", is_stop_requested)
        if not is_stop_requested():
            variables |= _build_variables(folder, _load_or_create_admin(folder, database))
            _run_server(folder, port, variables, is_stop_requested, own_database=database is None)
    console.print("Label Studio has stopped", highlight=False)


def read_admin(folder: Path) -> Admin:
    """Read the administrator account of the server in ``folder``.

    Raises:
        IndusCotError: no server was started there, or the file is damaged.
    """
    path = folder / "admin.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        account = Admin(**{name: str(found[name]) for name in Admin._fields})
    except FileNotFoundError:
        raise IndusCotError(
            f"{path}: does not exist; no Label Studio was started in {folder}. Run `indus-cot review serve`"
        ) from None
    except (OSError, ValueError, TypeError, KeyError):
        account = Admin("", "", "")
    if not (account.email and account.password and re.fullmatch("[0-9a-f]{40}", account.token)):
        raise IndusCotError(
            f"{path}: cannot be read as the administrator's e-mail, password and token (40 hexadecimal digits). "
            "Restore the file from a backup; if the server holds no reviews yet, delete the folder and start again"
        )
    return account


def wait_until_ready(url: str, timeout_s: float, is_alive: Callable[[], bool] = lambda: True) -> bool:
    """Wait until Label Studio answers at ``url``; return False as soon as ``is_alive`` returns False.

    Raises:
        IndusCotError: it does not answer within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while is_alive():
        # Ignore proxy variables: a proxy cannot reach this machine's loopback.
        with suppress(httpx.HTTPError, ValueError, AttributeError):
            if httpx.get(f"{url}/health/", timeout=2, trust_env=False).json().get("status") == "UP":
                return True
        if time.monotonic() > deadline:
            raise IndusCotError(f"{url}: no Label Studio answers there after {timeout_s:.0f} s; see the server's log")
        time.sleep(POLL_SECONDS)
    return False


def install(environment: Path, is_stop_requested: Callable[[], bool] = lambda: False) -> Path:
    """Create the server's virtual environment and return its Python.

    A complete environment made from the current lock file is reused; an incomplete or outdated one is replaced.

    Args:
        environment: Folder of the environment.
        is_stop_requested: Checked during the installation, which ends early if it returns True.

    Raises:
        IndusCotError: the packages cannot be installed.
    """
    python = environment / "bin" / "python"
    marker = environment / ".installed"
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    if python.exists() and marker.is_file() and marker.read_text() == wanted:
        return python
    console.print(f"installing Label Studio in {environment}: once, about 1 GB, a minute or two", highlight=False)
    shutil.rmtree(environment, ignore_errors=True)
    started = time.monotonic()
    # uv does not read pip's settings: pass on where pip finds extra wheels.
    variables = {"UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))}
    for command in _install_commands(environment, python):
        with _run_process_group(command, variables, None) as process:
            while process.poll() is None and not is_stop_requested():
                time.sleep(POLL_SECONDS)
            if is_stop_requested():
                return python
        if process.returncode:
            raise IndusCotError(
                f"{environment}: Label Studio could not be installed (see above). "
                "Check the network and the disk, and start again"
            )
    marker.write_text(wanted)
    console.print(f"installed in {time.monotonic() - started:.0f} s", highlight=False)
    return python


def _install_commands(environment: Path, python: Path) -> list[list[str]]:
    quiet = [] if console.is_terminal else ["--quiet"]
    locked = ["--require-hashes", "--requirement", str(LOCK)]
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        return [
            [str(uv), "venv", "--quiet", "--python", sys.executable, str(environment)],
            [str(uv), "pip", "install", *quiet, "--python", str(python), *locked],
        ]
    return [
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", *quiet, *locked],
    ]


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise IndusCotError(f"port {port}: not between 1 and 65535")
    # Label Studio itself would silently use the next free port, where nobody would find it.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise IndusCotError(
                f"port {port} of {HOST} cannot be used: {error.strerror}. "
                "Stop the program that uses it (perhaps an earlier Label Studio), or choose another port with --port"
            ) from None


def _parse_database_url(folder: Path, url: str | None) -> dict[str, str]:
    if url is None:
        return {"DJANGO_DB": "sqlite", "DATABASE_NAME": str(_get_sqlite_path(folder))}
    # The address holds a password, so the message must not repeat it.
    invalid = IndusCotError(
        "--database: the address of the database must have the form postgresql://user:password@host:port/name"
    )
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise invalid from None
    name = parts.path.removeprefix("/")
    is_valid = parts.scheme in ("postgresql", "postgres") and not parts.query and not parts.fragment
    if not (is_valid and parts.hostname and parts.username and name and "/" not in name):
        raise invalid
    return {
        "DJANGO_DB": "postgresql",
        "POSTGRE_USER": unquote(parts.username),
        "POSTGRE_PASSWORD": unquote(parts.password or ""),
        "POSTGRE_HOST": parts.hostname,
        "POSTGRE_PORT": str(port),
        "POSTGRE_NAME": unquote(name),
    }


def _get_sqlite_path(folder: Path) -> Path:
    return folder / "data" / "label_studio.sqlite3"


def _get_ready_marker(folder: Path) -> Path:
    return folder / "data" / ".sqlite-ready"


@contextmanager
def _hold_server_lock(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndusCotError(f"{folder}: a Label Studio is running there; use it, or stop it first") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _catch_stop_signals() -> Iterator[Callable[[], bool]]:
    """Record stop signals instead of ending at once; yield a function that returns whether one was received.

    The caller checks between two steps, so that no signal can interrupt it between starting a process and recording it.
    """
    received: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _load_or_create_admin(folder: Path, database: str | None) -> Admin:
    """Return the account of earlier starts, or a new one; it is saved before the server first uses it."""
    data = folder / "data"
    for subfolder in (data, folder / "images"):
        subfolder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "admin.json"
    sqlite = _get_sqlite_path(folder)
    if database is None and sqlite.exists() and not _get_ready_marker(folder).exists():
        # The first start was interrupted. The account may exist without its token, which only a first start sets, so
        # move the database away and start with a new one.
        for part in data.glob(f"{sqlite.name}*"):
            os.replace(part, part.with_name(f"unfinished-{part.name}"))
    if path.exists():
        return read_admin(folder)
    if database is None and sqlite.exists():
        raise IndusCotError(
            f"{path}: missing, although {sqlite} holds a server's data. Restore the file from a backup, "
            "or move the folder away to start with an empty server"
        )
    account = Admin(EMAIL, secrets.token_urlsafe(18), secrets.token_hex(20))
    write_text(path, json.dumps(account._asdict(), indent=1) + "\n", private=True)
    return account


def _build_variables(folder: Path, account: Admin) -> dict[str, str]:
    return {
        "BASE_DATA_DIR": str(folder / "data"),
        # Keep addresses relative, so that the page also works through a tunnel or a proxy.
        "HOST": "",
        "USERNAME": account.email,
        "PASSWORD": account.password,
        "USER_TOKEN": account.token,
        "ENABLE_LEGACY_API_TOKEN": "true",
        "LOCAL_FILES_SERVING_ENABLED": "true",
        "LOCAL_FILES_DOCUMENT_ROOT": str(folder / "images"),
        "DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


def _run_server(
    folder: Path, port: int, variables: Mapping[str, str], is_stop_requested: Callable[[], bool], *, own_database: bool
) -> None:
    environment, log, url = folder / "env", folder / "server.log", f"http://{HOST}:{port}"
    command = [str(environment / "bin" / "python"), "-c", START_CODE]
    command += ["start", "--no-browser", "--internal-host", HOST, "--port", str(port)]
    # Label Studio prefers the prefixed variable over a plain one that the user may have set.
    prefixed = {f"LABEL_STUDIO_{name}": value for name, value in variables.items()}
    first = own_database and not _get_sqlite_path(folder).exists()
    console.print(f"starting Label Studio{' for the first time: takes one or two minutes' if first else ''}")
    with log.open("wb") as output, _run_process_group(command, prefixed, output, folder / "data") as process:
        if wait_until_ready(url, START_TIMEOUT_S, lambda: process.poll() is None and not is_stop_requested()):
            if own_database:
                _get_ready_marker(folder).touch()
            _print_welcome(folder, url)
            while process.poll() is None and not is_stop_requested():
                time.sleep(POLL_SECONDS)
        if not is_stop_requested():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            tail = "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])
            raise IndusCotError(f"Label Studio ended by itself. The last lines of {log}:\n{tail}")


def _print_welcome(folder: Path, url: str) -> None:
    account = read_admin(folder)
    console.print(
        f"Label Studio runs at {url}\n"
        f"  log in as {account.email}, with the password in {folder / 'admin.json'}\n"
        f"  log: {folder / 'server.log'}; Ctrl-C stops the server",
        highlight=False,
    )
    headers = {"Authorization": f"Token {account.token}"}
    with suppress(httpx.HTTPError):
        response = httpx.get(f"{url}/api/current-user/whoami", headers=headers, timeout=30, trust_env=False)
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        console.print(
            f"[yellow]warning[/yellow]: the server does not accept the token in {folder / 'admin.json'}: the database "
            "was created with another token, or the token was renewed. Write the valid token, shown at "
            f"{url}/user/account, to that file",
            highlight=False,
        )


@contextmanager
def _run_process_group(
    command: Sequence[str], variables: dict[str, str], output: IO[bytes] | None, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in its own process group; end the whole group when the block is left."""
    kept = {name: value for name, value in os.environ.items() if name not in REMOVED_VARIABLES}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=kept | variables | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

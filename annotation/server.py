"""Runs the open-source Label Studio on loopback, in an environment of its own: its pins clash with ours."""

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
START_S = 600.0
"""Longest wait for a start: on a slow disk the first one, which creates the database, takes minutes."""
END_S = 10.0
TICK_S = 0.2
TAIL = 5
"""Lines of the server's log quoted when it ends by itself."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START = (
    "import gc; gc.set_threshold(200_000, 20, 100); "
    "import sys; sys.argv[0] = 'label-studio'; from label_studio.server import main; sys.exit(main())"
)
"""Looking for cycles of garbage less often takes a fifth off the first start, whose objects mostly stay, and
a tenth off the others."""
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")
"""Variables of our environment that would lead the server's Python astray."""


class Admin(NamedTuple):
    """The account that the first start creates. ``token`` is a legacy API token, 40 hexadecimal digits."""

    email: str
    password: str
    token: str


def serve(folder: Path, port: int, *, database: str | None = None) -> None:
    """Run Label Studio on 127.0.0.1 until Ctrl-C or SIGTERM; returns when none of its processes is left.

    ``folder`` holds ``env/`` (made when missing), ``admin.json``, ``data/`` (SQLite, uploads), ``images/`` (served
    as local files) and ``server.log``. A second start goes on with all of it.

    Args:
        folder: Made when missing; one server at a time.
        port: 1–65535.
        database: ``postgresql://user:password@host:port/name`` in place of SQLite.

    Raises:
        IndusCotError: the port is taken, another server runs in the folder, the database's address or
            ``admin.json`` cannot be read, the environment cannot be made, the server ended by itself.
    """
    _check_port(port)
    folder = folder.absolute()
    variables = _database(folder, database)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_server(folder), _asked_to_stop() as asked:
        install(folder / "env", asked)
        if not asked():
            variables |= _variables(folder, _admin_of_this_start(folder, database))
            _run(folder, port, variables, asked, own_database=database is None)
    console.print("Label Studio has stopped", highlight=False)


def admin(folder: Path) -> Admin:
    """The administrator of the server whose data are in ``folder``.

    Raises:
        IndusCotError: no server was started there; the file is damaged.
    """
    path = folder / "admin.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        account = Admin(**{name: str(found[name]) for name in Admin._fields})
    except FileNotFoundError:
        raise IndusCotError(
            f"{path}: not there; no Label Studio was started in {folder}. Run `indus-cot review serve`"
        ) from None
    except (OSError, ValueError, TypeError, KeyError):
        account = Admin("", "", "")
    if not (account.email and account.password and re.fullmatch("[0-9a-f]{40}", account.token)):
        raise IndusCotError(
            f"{path}: cannot be read as the administrator's e-mail, password and token (40 hexadecimal digits). "
            "Put the file back from a copy; where no review is in the server yet, delete the folder and start again"
        )
    return account


def wait_until_ready(url: str, timeout_s: float, alive: Callable[[], bool] = lambda: True) -> bool:
    """Wait until a Label Studio answers at ``url``; False as soon as ``alive`` says that it never will.

    Raises:
        IndusCotError: it does not answer within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while alive():
        # A proxy of the environment has no way to this machine's loopback.
        with suppress(httpx.HTTPError, ValueError, AttributeError):
            if httpx.get(f"{url}/health/", timeout=2, trust_env=False).json().get("status") == "UP":
                return True
        if time.monotonic() > deadline:
            raise IndusCotError(f"{url}: no Label Studio answers there after {timeout_s:.0f} s")
        time.sleep(TICK_S)
    return False


def install(environment: Path, asked_to_stop: Callable[[], bool] = lambda: False) -> Path:
    """Make the server's virtual environment, unless it is whole and made from the present lock; its Python.

    One that is half-made, because the work was interrupted, is made anew.

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
    # uv does not read pip's settings: hand on where pip finds extra wheels.
    variables = {"UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))}
    for command in _install_commands(environment, python):
        with _group(command, variables, None) as process:
            while process.poll() is None and not asked_to_stop():
                time.sleep(TICK_S)
            if asked_to_stop():
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
    # Label Studio itself would move on to the next free port, and nobody would find it there.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise IndusCotError(
                f"port {port} of {HOST} cannot be used: {error.strerror}. "
                "Stop what listens there (a Label Studio started before?) or give another port"
            ) from None


def _database(folder: Path, url: str | None) -> dict[str, str]:
    if url is None:
        return {"DJANGO_DB": "sqlite", "DATABASE_NAME": str(_sqlite(folder))}
    # The address holds a password: no message repeats it.
    wrong = IndusCotError("the database must be given as postgresql://user:password@host:port/name, and nothing else")
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise wrong from None
    name = parts.path.removeprefix("/")
    fitting = parts.scheme in ("postgresql", "postgres") and not parts.query and not parts.fragment
    if not (fitting and parts.hostname and parts.username and name and "/" not in name):
        raise wrong
    return {
        "DJANGO_DB": "postgresql",
        "POSTGRE_USER": unquote(parts.username),
        "POSTGRE_PASSWORD": unquote(parts.password or ""),
        "POSTGRE_HOST": parts.hostname,
        "POSTGRE_PORT": str(port),
        "POSTGRE_NAME": unquote(name),
    }


def _sqlite(folder: Path) -> Path:
    return folder / "data" / "label_studio.sqlite3"


def _ready_marker(folder: Path) -> Path:
    return folder / "data" / ".sqlite-ready"


@contextmanager
def _only_server(folder: Path) -> Iterator[None]:
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
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Signals are noted and looked at between two steps, so that none can fall between a start and its record."""
    received: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _admin_of_this_start(folder: Path, database: str | None) -> Admin:
    """The account of earlier starts, or a new one, written down before the server can know it."""
    data = folder / "data"
    for place in (data, folder / "images"):
        place.mkdir(mode=0o700, exist_ok=True)
    path = folder / "admin.json"
    sqlite = _sqlite(folder)
    if database is None and sqlite.exists() and not _ready_marker(folder).exists():
        # The first start was interrupted: the account may be there without its token, which only a first start sets.
        for part in data.glob(f"{sqlite.name}*"):
            os.replace(part, part.with_name(f"unfinished-{part.name}"))
    if path.exists():
        return admin(folder)
    if database is None and sqlite.exists():
        raise IndusCotError(
            f"{path}: missing, although {sqlite} holds a server's data. Put the file back from a copy, "
            "or move the folder away to begin with an empty server"
        )
    account = Admin(EMAIL, secrets.token_urlsafe(18), secrets.token_hex(20))
    write_text(path, json.dumps(account._asdict(), indent=1) + "\n", private=True)
    return account


def _variables(folder: Path, account: Admin) -> dict[str, str]:
    return {
        "BASE_DATA_DIR": str(folder / "data"),
        # Addresses stay relative: the page also works through a tunnel or a proxy.
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


def _run(
    folder: Path, port: int, variables: Mapping[str, str], asked: Callable[[], bool], *, own_database: bool
) -> None:
    environment, log, url = folder / "env", folder / "server.log", f"http://{HOST}:{port}"
    command = [str(environment / "bin" / "python"), "-c", START]
    command += ["start", "--no-browser", "--internal-host", HOST, "--port", str(port)]
    # A prefixed variable wins over a plain one of the same name that somebody may have set.
    prefixed = {f"LABEL_STUDIO_{name}": value for name, value in variables.items()}
    first = own_database and not _sqlite(folder).exists()
    console.print(f"starting Label Studio{' for the first time: a minute, two on a busy machine' if first else ''}")
    with log.open("wb") as output, _group(command, prefixed, output, folder / "data") as process:
        if wait_until_ready(url, START_S, lambda: process.poll() is None and not asked()):
            if own_database:
                _ready_marker(folder).touch()
            _welcome(folder, url)
            while process.poll() is None and not asked():
                time.sleep(TICK_S)
        if not asked():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            said = "\n".join(f"  {line}" for line in lines[-TAIL:])
            raise IndusCotError(f"Label Studio ended by itself. The end of {log}:\n{said}")


def _welcome(folder: Path, url: str) -> None:
    account = admin(folder)
    console.print(
        f"Label Studio runs at {url}\n"
        f"  log in as {account.email}, with the password in {folder / 'admin.json'}\n"
        f"  its log is {folder / 'server.log'}; Ctrl-C stops it",
        highlight=False,
    )
    own = {"Authorization": f"Token {account.token}"}
    with suppress(httpx.HTTPError):
        known = httpx.get(f"{url}/api/current-user/whoami", headers=own, timeout=30, trust_env=False)
        if known.status_code != httpx.codes.UNAUTHORIZED:
            return
        console.print(
            f"[yellow]warning[/yellow]: the server does not accept the token in {folder / 'admin.json'}: the database "
            "was set up with another one, or it was renewed. Write the valid token there: "
            f"{url}/user/account shows it",
            highlight=False,
        )


@contextmanager
def _group(
    command: Sequence[str], variables: dict[str, str], output: IO[bytes] | None, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in a process group of its own; the whole group has ended when the block is left."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
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
                process.wait(END_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

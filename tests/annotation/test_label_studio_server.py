"""`annotation.server` with a real Label Studio: starts, stops, interruptions and restarts."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from annotation import server as product
from annotation.server import install, read_admin, serve, wait_until_ready
from schemas.errors import IndusCotError
from tests.servers.label_studio_server import (
    DATABASE,
    INTERRUPTED,
    Server,
    free_port,
    install_environment,
    list_processes,
    new_server,
    serve_command,
    wait_until,
)

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="c" toName="image"><Choice value="a"/></Choices></View>'
)
PNG = bytes.fromhex("89504e470d0a1a0a") + b"not decoded by anything here"


def run_serve(folder: Path, port: int, database: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        serve_command(folder, port, database), capture_output=True, text=True, timeout=120, check=False
    )


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_printed_account_works(label_studio):
    printed = label_studio.printed
    assert label_studio.url in printed and label_studio.email in printed
    assert str(label_studio.folder / "admin.json") in printed and "warning" not in printed
    assert label_studio.client().users.whoami().email == label_studio.email
    with httpx.Client(base_url=label_studio.url, follow_redirects=True) as page:
        page.get("/user/login/")
        form = {"email": label_studio.email, "password": label_studio.password}
        answer = page.post("/user/login/", data=form | {"csrfmiddlewaretoken": page.cookies["csrftoken"]})
        assert answer.status_code == 200 and "/user/login" not in answer.url.path
        assert page.get("/api/current-user/whoami").json()["email"] == label_studio.email


def test_secrets_are_only_in_private_file(label_studio):
    path = label_studio.folder / "admin.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert re.fullmatch("[0-9a-f]{40}", label_studio.token) and len(label_studio.password) >= 20
    command_lines = " ".join(" ".join(process.cmdline()) for process in list_processes(label_studio))
    log = (label_studio.folder / "server.log").read_text()
    for secret in (label_studio.password, label_studio.token):
        assert not any(secret in text for text in (label_studio.printed, log, command_lines))


def test_server_is_closed_to_others(label_studio):
    answer = httpx.post(f"{label_studio.url}/user/signup/", data={"email": "a@example.com", "password": "x" * 20})
    assert answer.status_code == 403
    with pytest.raises(ApiError) as refused:
        LabelStudio(base_url=label_studio.url, api_key="0" * 40).users.whoami()
    assert refused.value.status_code == 401
    addresses = {
        connection.laddr.ip
        for process in list_processes(label_studio)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_image_needs_storage_and_account(label_studio):
    (label_studio.images / "set").mkdir()
    (label_studio.images / "set" / "a.png").write_bytes(PNG)
    address = f"{label_studio.url}/data/local-files/?d=set/a.png"
    own = {"Authorization": f"Token {label_studio.token}"}
    assert httpx.get(address, headers=own).status_code == 404
    client = label_studio.client()
    project = client.projects.create(title="images", label_config=CONFIG)
    client.import_storage.local.create(
        project=project.id, path=str(label_studio.images / "set"), use_blob_urls=True, title="images"
    )
    served = httpx.get(address, headers=own)
    assert served.content == PNG and served.headers["content-type"] == "image/png"
    assert httpx.get(address).status_code in (401, 403)
    outside = httpx.get(f"{label_studio.url}/data/local-files/?d=set/../../admin.json", headers=own)
    assert outside.is_error and label_studio.token not in outside.text


def check_stop(server: Server, number: int) -> None:
    """Check that the signal ends every process, and that the command prints so."""
    alive = list_processes(server)
    assert len(alive) > 1
    assert server.stop(number) == 0
    assert "has stopped" in server.printed
    assert not psutil.wait_procs(alive, timeout=5)[1] and not is_listening(server.port)


def test_restart_after_signal_keeps_data(label_studio):
    account = label_studio.account
    project = label_studio.client().projects.create(title="kept", label_config=CONFIG)
    check_stop(label_studio, signal.SIGHUP)
    label_studio.start()
    assert label_studio.account == account and "first time" not in label_studio.printed
    assert label_studio.client().projects.get(project.id).title == "kept"


def test_second_server_in_folder_is_refused(label_studio):
    second = run_serve(label_studio.folder, free_port())
    assert second.returncode == 1 and "a Label Studio is running there" in second.stderr


def test_interrupted_first_start_is_repaired(label_studio):
    left = json.loads((label_studio.folder / INTERRUPTED).read_text())
    assert (left["code"], left["processes"]) == (0, 0)
    assert "first time" in left["printed"] and "Label Studio runs at" not in left["printed"]
    assert left["account"] == label_studio.account._asdict()
    assert label_studio.client().users.whoami().email == label_studio.email
    assert (label_studio.folder / DATABASE).with_name(f"unfinished-{DATABASE.name}").exists()


def test_crashed_server_quotes_its_log(tmp_path):
    server = new_server(tmp_path / "server")
    server.start()
    for process in list_processes(server)[1:]:
        process.kill()
    assert server.process is not None and server.process.wait(20) == 1
    assert "ended by itself" in server.printed and "/health/" in server.printed


def test_used_port_is_one_message(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = run_serve(tmp_path / "server", port)
    assert ended.returncode == 1 and not (tmp_path / "server").exists()
    assert ended.stderr.count("\n") == 1 and f"port {port}" in ended.stderr and "another port" in ended.stderr


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_an_impossible_port_is_refused(tmp_path, port):
    with pytest.raises(IndusCotError, match="not between 1 and 65535"):
        serve(tmp_path / "server", port)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x.db",
        "mysql://someone:hunter2@127.0.0.1/reviews",
        "postgresql://someone:hunter2@127.0.0.1",
        "postgresql://127.0.0.1/reviews",
        "postgresql://someone:hunter2@127.0.0.1:port/reviews",
        "postgresql://someone:hunter2@127.0.0.1/reviews?sslmode=require",
        "reviews",
        "",
    ],
)
def test_refused_database_hides_password(tmp_path, url):
    with pytest.raises(IndusCotError, match="postgresql://user:password@host:port/name") as refused:
        serve(tmp_path / "server", free_port(), database=url)
    assert "hunter2" not in str(refused.value) and not (tmp_path / "server").exists()


def test_folder_without_server_has_no_account(tmp_path):
    with pytest.raises(IndusCotError, match="indus-cot review serve"):
        read_admin(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"email": "admin@localhost", "password": "x"}',
        json.dumps({"email": "admin@localhost", "password": "", "token": "0" * 40}),
        json.dumps({"email": "admin@localhost", "password": "x", "token": "0" * 39}),
        json.dumps({"email": "admin@localhost", "password": "x", "token": None}),
    ],
)
def test_damaged_account_is_one_message(tmp_path, text):
    (tmp_path / "admin.json").write_text(text)
    with pytest.raises(IndusCotError, match=r"admin\.json: cannot be read as"):
        read_admin(tmp_path)


def test_damaged_or_lost_account_prevents_start(tmp_path):
    server = new_server(tmp_path / "server")
    account = server.folder / "admin.json"
    account.write_text("{")
    damaged = run_serve(server.folder, server.port)
    account.unlink()
    lost = run_serve(server.folder, server.port)
    for ended, message in ((damaged, "cannot be read as"), (lost, "missing, although")):
        assert ended.returncode == 1 and message in ended.stderr and "Traceback" not in ended.stderr
    assert not account.exists() and not (server.folder / "server.log").exists()


def test_unknown_token_gives_warning(tmp_path):
    server = new_server(tmp_path / "server")
    account = server.account
    (server.folder / "admin.json").write_text(json.dumps(account._replace(token="0" * 40)._asdict()))
    server.start()
    wait_until(lambda: "does not accept the token" in server.printed)
    check_stop(server, signal.SIGTERM)


def test_waiting_ends_at_deadline_or_exit():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(IndusCotError, match="no Label Studio answers there"):
        wait_until_ready(url, 0.3)
    assert not wait_until_ready(url, 60, lambda: False)


@pytest.fixture
def small_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file with one small package instead of the server's 160."""
    lock = tmp_path / "small.lock"
    entry = re.search(r"^wrapt==[^\n]*\n(?: +--hash=[^\n]*\n)+", product.LOCK.read_text(), re.MULTILINE)
    assert entry is not None
    lock.write_text(entry.group())
    monkeypatch.setattr(product, "LOCK", lock)
    return lock


def test_changed_lock_rebuilds_environment(tmp_path, small_lock):
    python = install(tmp_path / "env")
    assert can_import_wrapt(python)
    kept = tmp_path / "env" / "kept"
    kept.touch()
    install(tmp_path / "env")
    assert kept.exists()
    small_lock.write_text("# another\n" + small_lock.read_text())
    install(tmp_path / "env")
    assert not kept.exists()


def can_import_wrapt(python: Path) -> bool:
    return subprocess.run([python, "-c", "import wrapt"], check=False).returncode == 0


def test_pip_builds_environment_without_uv(tmp_path, small_lock, monkeypatch):
    # An interpreter without uv beside it.
    (tmp_path / "bin").mkdir()
    alone = tmp_path / "bin" / "python"
    alone.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(alone))
    assert can_import_wrapt(install(tmp_path / "env"))


def test_incomplete_environment_is_rebuilt(tmp_path, small_lock):
    wanted = small_lock.read_text()
    small_lock.write_text("wrapt @ file:///nowhere/wrapt-2.5.2-py3-none-any.whl\n")
    with pytest.raises(IndusCotError, match="could not be installed"):
        install(tmp_path / "env")
    small_lock.write_text(wanted)
    python = install(tmp_path / "env", lambda: True)
    assert not (tmp_path / "env" / ".installed").exists()
    assert install(tmp_path / "env") == python
    assert can_import_wrapt(python)


def test_wrong_package_hash_is_refused(tmp_path, small_lock):
    small_lock.write_text(re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", small_lock.read_text()))
    with pytest.raises(IndusCotError, match="could not be installed"):
        install(tmp_path / "env")
    assert not (tmp_path / "env" / ".installed").exists()


def find_postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return found[-1].parent if found else None


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The address of an empty database of a real PostgreSQL on loopback."""
    programs = find_postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed here")
    # PostgreSQL refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    # Other users cannot read pytest's temporary folder.
    folder, port = Path(tempfile.mkdtemp(prefix="indus-cot-postgres-")), free_port()
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        (folder / "password").write_text("p@ss/wörd")
        (folder / "password").chmod(0o644)

        def run_program(program: str, *arguments: str) -> None:
            subprocess.run(
                [*as_user, programs / program, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL
            )

        cluster = str(folder / "cluster")
        run_program(
            "initdb", "-D", cluster, "-U", "reviewer", "--auth=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8",
            "--pwfile", str(folder / "password"),
        )  # fmt: skip
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        run_program("pg_ctl", "-D", cluster, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://reviewer:p%40ss%2Fw%C3%B6rd@127.0.0.1:{port}/postgres"
        finally:
            run_program("pg_ctl", "-D", cluster, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def test_postgresql_replaces_sqlite(tmp_path, postgres):
    install_environment()
    server = Server(tmp_path / "server", database=postgres)
    for start in range(2):
        server.start()
        try:
            client = server.client()
            assert client.users.whoami().email == server.email
            if start == 0:
                client.projects.create(title="in PostgreSQL", label_config=CONFIG)
            assert [project.title for project in client.projects.list()] == ["in PostgreSQL"]
        finally:
            check_stop(server, signal.SIGINT)
    assert not list(server.folder.rglob("*.sqlite3"))
    assert "p@ss" not in server.printed + (server.folder / "server.log").read_text()

"""Tests of sources: folders, archives, URLs and the Hub; dangerous or damaged archives are refused."""

import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_builder.storage import retry
from cot_builder.storage.source import Checksums, clean_path, open_members
from schemas.errors import IndusCotError
from tests.helpers.layouts import Files, write_folder, write_tar, write_zip
from tests.helpers.paths import ROOT

FILES: Files = {
    "a/one.png": b"1" * 700,
    "a/two.png": b"",
    "b/Größe/三.png": bytes(range(256)) * 40,
    "b/" + "long" * 60 + ".png": b"x",
}


def read_members(source: Path | str | list[str], cache: Path, checksums: Checksums | None = None) -> Files:
    """Read every member; remove the source's name from the paths."""
    source = str(source) if isinstance(source, Path) else source
    return {m.path.partition("/")[2]: m.read() for m in open_members(source, cache, checksums)}


def pack(folder: Path, kind: str, files: Files = FILES) -> Path:
    if kind == "folder":
        return write_folder(folder / "set", files)
    return write_zip(folder / "set.zip", files) if kind == "zip" else write_tar(folder / f"set.{kind}", files)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz", "zip"])
def test_archive_format_does_not_change_members(tmp_path: Path, kind: str) -> None:
    assert read_members(pack(tmp_path, kind), tmp_path / "cache") == FILES


def test_members_report_their_share(tmp_path: Path) -> None:
    many = {f"part/{number:03}.png": random.Random(number).randbytes(20_000) for number in range(100)}
    sources = [str(pack(tmp_path, kind, many)) for kind in ("folder", "tar", "tar.gz", "tar.xz", "zip")]
    # The same for a folder that contains archives.
    (tmp_path / "all").mkdir()
    for path in sources[1:]:
        (tmp_path / "all" / Path(path).name).symlink_to(path)
    for source in (*[[one] for one in sources], [str(tmp_path / "all")], sources):
        shares = [member.share for member in open_members(source, tmp_path)]
        assert shares == sorted(shares) and shares[-1] == pytest.approx(1, abs=0.02), source
        # Compressed files are read in blocks of 256 KiB.
        for number, share in enumerate(shares, start=1):
            assert share == pytest.approx(number / len(shares), abs=0.14), source


def test_archive_format_is_detected_by_content(tmp_path: Path) -> None:
    path = pack(tmp_path, "tar.xz").rename(tmp_path / "data.zip")
    assert read_members(path, tmp_path) == FILES


def test_list_of_sources(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "first", {"a.png": b"1"})
    second = write_zip(tmp_path / "second.zip", {"b.png": b"2"})
    assert [m.path for m in open_members([str(first), str(second)], tmp_path)] == ["first/a.png", "second/b.png"]


def test_archives_in_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hub", {"labels/toy.json": b"{}"})
    (folder / "images").mkdir()
    write_zip(folder / "images" / "toy.zip", {"toy/a.png": b"1"})
    write_tar(folder / "images" / "usb.tar.xz", {"usb/b.png": b"2"})
    assert read_members(folder, tmp_path) == {
        "images/toy/a.png": b"1",
        "images/usb/b.png": b"2",
        "labels/toy.json": b"{}",
    }


def test_macos_files_are_skipped(tmp_path: Path) -> None:
    junk = {"__MACOSX/a/._one.png": b"x", "a/.DS_Store": b"x", "a/._one.png": b"x"}
    assert read_members(pack(tmp_path, "zip", {"a/one.png": b"1"} | junk), tmp_path) == {"a/one.png": b"1"}
    assert read_members(pack(tmp_path, "folder", {"a/one.png": b"1"} | junk), tmp_path) == {"a/one.png": b"1"}


def test_names_are_normalised_to_nfc(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Prüfling.png")
    assert list(read_members(pack(tmp_path, "tar", {decomposed: b"1"}), tmp_path)) == ["Prüfling.png"]
    latin = tmp_path / "latin.tar"
    with tarfile.open(latin, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("Prüfling.png"), io.BytesIO())
    (name,) = read_members(latin, tmp_path)
    name.encode("utf-8")
    assert name.endswith("fling.png")


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "a\\..\\..\\b.png"]
)
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_member_outside_the_archive_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(IndusCotError, match=r"points outside the archive; the archive is refused"):
        read_members(pack(tmp_path, kind, {"a.png": b"1", name: b"2"}), tmp_path)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b c", "ä", "...", "\\", "/"]), min_size=1, max_size=6))
def test_clean_path_stays_inside(parts: list[str]) -> None:
    try:
        path = clean_path("/".join(parts), "x.tar")
    except IndusCotError:
        return
    assert Path("/root", path).resolve().is_relative_to("/root")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_tar_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a/trap.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(IndusCotError, match=r"set\.tar: member 'a/trap\.png' is (a link|neither a file nor a folder)"):
        read_members(path, tmp_path)


def test_zip_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a/trap.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(IndusCotError, match="is a link or a device"):
        read_members(path, tmp_path)


def test_unknown_zip_compression(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"a.png": b"1" * 700})
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.index(magic) + offset
        data[start : start + 2] = (9).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(
        IndusCotError, match=r"set\.zip: unsupported compression .*unpack the archive and give the folder"
    ):
        read_members(path, tmp_path)


def test_huge_member_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    info = tarfile.TarInfo("a/huge.png")
    info.size = 2**43
    path.write_bytes(info.tobuf() + bytes(10240))
    with pytest.raises(IndusCotError, match=r"'a/huge\.png' claims to have 8796093022208 bytes"):
        read_members(path, tmp_path)


def test_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", b"0")
        for info in archive.infolist():
            info.file_size = 2**30 - 1
    with pytest.raises(IndusCotError, match="unpacks to over 200 times its size"):
        read_members(path, tmp_path)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
def test_truncated_archive_is_refused(tmp_path: Path, kind: str) -> None:
    noise = {f"{n}.png": random.Random(n).randbytes(2000) for n in range(4)}
    whole = pack(tmp_path, kind, noise).read_bytes()
    # A tar ends with blocks of zeros; all but the first may be missing.
    end = 4 * (512 + 2048) if kind == "tar" else len(whole)
    cut = tmp_path / f"cut.{kind}"
    for length in sorted({*range(512, end, max(512, end // 12 // 512 * 512)), end - 1}):
        cut.write_bytes(whole[:length])
        with pytest.raises(IndusCotError, match=r"cut\.\S+: (the archive is truncated or damaged|not an archive)"):
            read_members(cut, tmp_path)


def test_damaged_tar_header_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path, "tar", {"a.png": b"1" * 512, "b.png": b"2" * 512})
    data = bytearray(path.read_bytes())
    data[1024 + 100 : 1024 + 300] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(IndusCotError, match="truncated or damaged"):
        read_members(path, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an archive"), (b"hello " * 200, "not an archive"), (b"<!DOCTYPE html><html>", "is a web page")],
)
def test_file_that_is_not_an_archive(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.tar.xz"
    path.write_bytes(content)
    with pytest.raises(IndusCotError, match=rf"data\.tar\.xz: {message}"):
        read_members(path, tmp_path)


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match="nowhere: no such file or folder"):
        read_members(tmp_path / "nowhere", tmp_path)
    (tmp_path / "void" / "deeper").mkdir(parents=True)
    with pytest.raises(IndusCotError, match="void: contains no file"):
        read_members(tmp_path / "void", tmp_path)


def test_folder_with_link_loop(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a/one.png": b"1"})
    (folder / "a" / "again").symlink_to(folder)
    assert read_members(folder, tmp_path) == {"a/one.png": b"1"}


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "set", {"a/one.png": b"1", "b/two.png": b"2"})
    real = os.scandir

    def refused(path: str) -> object:
        # Simulated, because the tests may run as root, who can read every folder.
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(IndusCotError, match=r"set/b: the folder cannot be read \(Permission denied\)"):
        read_members(folder, tmp_path)


def test_hidden_dangling_link_is_skipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"a/one.png": b"1"})
    (folder / "a" / ".#one.png").symlink_to("somebody@somewhere")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_bytes(b"x")
    assert read_members(folder, tmp_path) == {"a/one.png": b"1"}


@pytest.mark.parametrize("kind", ["tar", "tar.xz", "zip"])
def test_checksum(tmp_path: Path, kind: str) -> None:
    path = pack(tmp_path, kind)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    checksums = Checksums(expected=right)
    assert read_members(path, tmp_path, checksums) == FILES
    assert checksums.found == {path.name: right}
    drawn = open_members(str(path), tmp_path, Checksums(expected="0" * 64))
    with pytest.raises(IndusCotError, match=rf"{path.name}: its sha256 is {right}, expected 0000"):
        next(drawn)
    with pytest.raises(IndusCotError, match="another version"):
        read_members(path, tmp_path, Checksums(published={path.name: "1" * 64}))


def test_checksum_needs_one_archive(tmp_path: Path) -> None:
    folder = pack(tmp_path, "folder")
    with pytest.raises(IndusCotError, match="not a single archive"):
        read_members(folder, tmp_path, Checksums(expected="0" * 64))


class Server:
    """Serves a file on loopback, with range requests; ``answers`` are given before the file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"v1"'
        self.requests: list[str] = []
        self.sent: list[int] = []
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.url = ""


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    noise = {f"{n}.png": hashlib.sha256(bytes([n])).digest() * 4000 for n in range(3)}
    state = Server(write_zip(tmp_path / "made.zip", noise).read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.headers.get("Range", "whole"))
            if state.answers:
                state.answers.pop(0)(self)
                return
            start = 0
            if "Range" in self.headers and self.headers.get("If-Range") == state.etag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            state.sent.append(len(state.content) - start)
            self.wfile.write(state.content[start:])

        def log_message(self, format: str, *arguments: object) -> None:
            """Print no log."""

    monkeypatch.setattr(retry, "BACKOFF_S", 0.0)
    with serve(Handler) as root:
        state.url = f"{root}/data/set.zip?key=1"
        yield state


def answer_partially(state: Server) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("ETag", state.etag)
        request.send_header("Content-Length", str(len(state.content)))
        request.end_headers()
        request.wfile.write(state.content[: len(state.content) // 2])
        request.wfile.flush()
        request.close_connection = True

    return answer


def answer_status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def test_url_is_downloaded_once(tmp_path: Path, server: Server) -> None:
    cache = tmp_path / "cache"
    first = read_members(server.url, cache)
    assert list(first) == ["0.png", "1.png", "2.png"]
    assert [m.path for m in open_members(server.url, cache)] == ["set/0.png", "set/1.png", "set/2.png"]
    assert server.requests == ["whole"]


def test_interrupted_download_resumes(tmp_path: Path, server: Server) -> None:
    server.answers = [answer_partially(server)]
    assert len(read_members(server.url, tmp_path / "cache")) == 3
    assert server.requests == ["whole", f"bytes={len(server.content) // 2}-"]
    assert server.sent == [len(server.content) - len(server.content) // 2]


def test_changed_download_restarts(tmp_path: Path, server: Server) -> None:
    changed = write_zip(tmp_path / "other.zip", {"new.png": b"n" * 999}).read_bytes()
    stop = answer_partially(server)

    def stop_and_change(request: BaseHTTPRequestHandler) -> None:
        stop(request)
        server.etag, server.content = '"v2"', changed

    server.answers = [stop_and_change]
    assert list(read_members(server.url, tmp_path / "cache")) == ["new.png"]


def test_busy_server_is_retried(tmp_path: Path, server: Server) -> None:
    server.answers = [answer_status(429, Retry_After="0"), answer_status(500), answer_status(503)]
    assert len(read_members(server.url, tmp_path / "cache")) == 3
    assert len(server.requests) == 4


def test_download_waits_a_minute_at_most(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    soon = formatdate(time.time() + 30, usegmt=True)
    server.answers = [answer_status(429, Retry_After="7200"), answer_status(503, Retry_After=soon)]
    assert len(read_members(server.url, tmp_path / "cache")) == 3
    assert waits == [60.0, pytest.approx(30, abs=3)]


def test_failing_server_is_named(tmp_path: Path, server: Server) -> None:
    server.answers = [answer_status(500)] * 20
    with pytest.raises(IndusCotError, match=r"set\.zip\?key=1: the server answers 500, after 6 attempts"):
        read_members(server.url, tmp_path / "cache")
    assert len(server.requests) == 6


def test_refusal_is_not_retried(tmp_path: Path, server: Server) -> None:
    server.answers = [answer_status(404)] * 20
    with pytest.raises(IndusCotError, match="the server answers 404; check the URL"):
        read_members(server.url, tmp_path / "cache")
    assert len(server.requests) == 1


def test_download_with_wrong_checksum_is_deleted(tmp_path: Path, server: Server) -> None:
    for _ in range(2):
        with pytest.raises(IndusCotError, match=r"set\.zip: its sha256 is"):
            read_members(server.url, tmp_path / "cache", Checksums(expected="0" * 64))
    assert server.requests == ["whole", "whole"]


@pytest.mark.parametrize("damage", ["web page", "cut short", "flipped"])
def test_unreadable_download_is_repeated(tmp_path: Path, server: Server, damage: str) -> None:
    whole = server.content
    bad = {
        "web page": b"<!DOCTYPE html><html>",
        "cut short": whole[: len(whole) // 2],
        "flipped": whole[:900] + bytes(8) + whole[908:],
    }
    server.content = bad[damage]
    with pytest.raises(IndusCotError, match=r"set\.zip: (is a web page|the archive is truncated or damaged)"):
        read_members(server.url, tmp_path / "cache")
    server.content = whole
    assert len(read_members(server.url, tmp_path / "cache")) == 3


def test_hub_repository(tmp_path: Path) -> None:
    """Test against a minimal Hub server on loopback.

    Runs in a separate process, because the Hub's library reads the server address on import.
    """
    files = {
        "realiad_jsons/toy.json": b"{}",
        "realiad_1024/toy.zip": write_zip(tmp_path / "toy.zip", {"toy/a.png": b"1"}).read_bytes(),
        "realiad_256/toy.zip": b"not fetched",
    }
    commit = "a" * 40
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            asked.append(self.path)
            path = self.path.partition("?")[0]
            data, code = b'{"error": "no"}', 404
            if path.startswith("/api/datasets/owner/parts/tree/"):
                entries = [{"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in files.items()]
                data, code = json.dumps(entries).encode(), 200
            elif path.startswith("/api/datasets/owner/parts"):
                about = {"id": "owner/parts", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                data, code = json.dumps(about).encode(), 200
            elif (name := path.removeprefix(f"/datasets/owner/parts/resolve/{commit}/")) in files:
                data, code = files[name], 200
            self.send_response(code)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            if code == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            """Print no log."""

    script = (
        "import sys; from pathlib import Path; from cot_builder.storage.source import open_members\n"
        "from schemas.errors import IndusCotError\n"
        "try:\n"
        "    for member in open_members(sys.argv[1], Path('cache'), ignore=['*realiad_256[/.]*']):\n"
        "        print(member.path, member.read().decode())\n"
        "except IndusCotError as error:\n"
        "    print('error:', error)\n"
    )
    with serve(Hub) as root:
        environment = os.environ | {
            "HF_ENDPOINT": root,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(ROOT),
        }

        def run(address: str) -> str:
            command = [sys.executable, "-c", script, address]
            return subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
            ).stdout

        assert run("hf://datasets/owner/parts") == (
            "owner/parts/realiad_1024/toy/a.png 1\nowner/parts/realiad_jsons/toy.json {}\n"
        )
        assert not any("realiad_256" in path for path in asked)
        assert run("hf://datasets/owner/absent").startswith(
            "error: hf://datasets/owner/absent: no such dataset repository"
        )

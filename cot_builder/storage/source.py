"""Where files come from: a folder, an archive, a URL or a Hub repository, as one stream of members.

Archives are read member by member and never extracted to disk.
"""

import bz2
import functools
import gzip
import hashlib
import json
import lzma
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from cot_builder.progress import track
from cot_builder.storage.output import write_text
from cot_builder.storage.retry import TransientError, parse_wait, with_retries
from schemas.errors import IndusCotError

# Takes a third of the time `indus-cot params` has, which only asks for the files of a source.
if TYPE_CHECKING:
    import httpx

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
TABLE_SUFFIXES = (".csv", ".jsonl")
HUB = "hf://datasets/"
MAX_MEMBER_BYTES = 2**30
MAX_RATIO = 200
"""An archive that unpacks to more than this many times its own size …"""
RATIO_FROM_BYTES = 4 * 2**30
"""… and to more than this is a bomb."""
STREAM_BYTES = 2**18
_DECOMPRESS: dict[str, Callable[[Any], Any]] = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}
DOWNLOAD_BYTES = 2**20
ATTEMPTS = 6
LONGEST_WAIT_S = 60.0
"""A server that asks for more is asked again after this time."""
DAMAGE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a source."""

    path: str
    """``/``-separated, NFC; begins with the name of the folder or archive it comes from."""
    size: int
    read: Callable[[], bytes]
    """To be called before the next member is drawn, unless it is lasting."""
    lasting: bool = False
    """Whether ``read`` may be called at any time, by any thread."""
    share: float = 0.0
    """What of the source, in [0, 1], is behind with this file, as far as bytes tell; 0 where nothing does."""


@dataclass
class Checksums:
    """What is known of the archives of a source, and what was found."""

    wanted: str | None = None
    """sha256 of the one archive that the source is."""
    published: Mapping[str, str] = field(default_factory=dict)
    """sha256 by file name, wherever an archive of that name turns up."""
    found: dict[str, str] = field(default_factory=dict)
    """sha256 by file name; complete once the last member was drawn."""


def open_members(
    source: str | Sequence[str],
    cache: Path,
    checksums: Checksums | None = None,
    ignore: Sequence[str] = (),
) -> Iterator[Member]:
    """Every file of ``source``, one at a time.

    Archives inside a folder are opened too; their members lie under the folder that holds the archive.
    Hidden files and what macOS leaves behind are passed over.

    Args:
        source: A folder; an archive (.tar .tar.gz .tar.xz .tar.bz2 .zip); a table (.csv .jsonl), which stands
            for the folder it lies in; an http(s) URL of an archive; ``hf://datasets/OWNER/NAME[@REVISION]``;
            or several of these.
        cache: Folder that keeps downloads.
        checksums: What to compare archives with; takes up what is found.
        ignore: Shell patterns; files of a repository that match one are not fetched, archives in a folder not opened.

    Raises:
        IndusCotError: the source is absent, empty or unreachable; an archive is truncated, damaged, has another
            checksum, or holds a link, a device, a path that leaves it, or something absurdly large.
    """
    checksums = checksums or Checksums()
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise IndusCotError("the list of sources is empty; name a folder, an archive, a URL or a Hub repository")
    if checksums.wanted and (len(sources) > 1 or not _is_archive(sources[0])):
        raise IndusCotError(f"{sources[0]}: sha256 is given, which needs a single archive as the source")
    found = False
    for number, one in enumerate(sources):
        for member in _open_one(one, cache, checksums, ignore):
            found = True
            yield member if len(sources) == 1 else _scale_share(member, number / len(sources), 1 / len(sources))
    if not found:
        raise IndusCotError(f"{', '.join(sources)}: holds no file; give the folder or archive that holds the data")


def _scale_share(member: Member, before: float, part: float) -> Member:
    """The file, where what it comes from is ``part`` of the source and begins at ``before``."""
    return replace(member, share=before + part * member.share)


def _open_one(source: str, cache: Path, checksums: Checksums, ignore: Sequence[str]) -> Iterator[Member]:
    if source.startswith(("http://", "https://")):
        yield from _open_download(source, cache, checksums)
        return
    if source.startswith(HUB):
        yield from _walk(_download_snapshot(source, ignore), source.removeprefix(HUB), checksums, ignore)
        return
    path = Path(source).expanduser()
    if not path.exists():
        raise IndusCotError(f"{source}: no such file or folder")
    if path.is_dir():
        yield from _walk(path, path.resolve().name, checksums, ignore)
    elif path.name.lower().endswith(TABLE_SUFFIXES):
        yield from _walk(path.parent, path.resolve().parent.name, checksums, ignore)
    else:
        yield from _open_archive(path, _strip_suffix(path.name), path.name, checksums)


def _open_download(url: str, cache: Path, checksums: Checksums) -> Iterator[Member]:
    """Members of an archive at ``url``; one that cannot be read is not kept, so that the next run fetches it anew."""
    path = download(url, cache)
    name = _url_name(url)

    def kept_if_readable(read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except IndusCotError:
            path.unlink(missing_ok=True)
            raise

    try:
        for member in _open_archive(path, _strip_suffix(name), name, checksums):
            yield replace(member, read=functools.partial(kept_if_readable, member.read), lasting=False)
    except IndusCotError:
        path.unlink(missing_ok=True)
        raise


def _is_archive(source: str) -> bool:
    if source.startswith(("http://", "https://")):
        return True
    return not source.startswith(HUB) and Path(source).expanduser().is_file() and not source.endswith(TABLE_SUFFIXES)


def _strip_suffix(name: str) -> str:
    suffix = next((end for end in sorted(ARCHIVE_SUFFIXES, key=len)[::-1] if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)] or name


def clean_path(name: str, where: str) -> str:
    """A member's name as a relative, ``/``-separated NFC path.

    Raises:
        IndusCotError: it is absolute or leaves the archive.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or re.match(r"[A-Za-z]:/", text) or ".." in parts:
        raise IndusCotError(f"{where}: member {name!r} points outside the archive; the archive is refused")
    return unicodedata.normalize("NFC", "/".join(parts))


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def local_files(root: Path) -> Iterator[Path]:
    """Every file below ``root`` that is not hidden, in one order; links are followed, each folder entered once.

    Raises:
        IndusCotError: a folder cannot be read.
    """
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for file in sorted(files):
            if not _is_hidden(file):
                yield Path(folder) / file


def _raise_unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return  # Nothing is there to be read; whoever asked says so.
    raise IndusCotError(
        f"{error.filename}: the folder cannot be read ({error.strerror}); mend its permissions or remove it"
    ) from error


def _walk(root: Path, name: str, checksums: Checksums, ignore: Sequence[str]) -> Iterator[Member]:
    def files() -> Iterator[tuple[Path, str, bool]]:
        for full in local_files(root):
            inside = full.relative_to(root).as_posix()
            packed = full.name.lower().endswith(ARCHIVE_SUFFIXES)
            if not (packed and any(fnmatchcase(inside, pattern) for pattern in ignore)):
                yield full, clean_path(f"{name.strip('/')}/{inside}", str(root)), packed

    # Walked twice: a list of a million files would be held as long as they are read.
    total, before = sum(_read_size(full) for full, _, _ in files()) or 1, 0
    for full, path, packed in files():
        size = _read_size(full)
        if packed:
            for member in _open_archive(full, path.rpartition("/")[0], full.name, checksums):
                yield _scale_share(member, before / total, size / total)
        else:
            if size > MAX_MEMBER_BYTES:
                raise IndusCotError(f"{full}: {size} bytes is absurd for an image; remove it from the source")
            yield Member(path, size, functools.partial(_read_file, full), True, (before + size) / total)
        before += size


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise IndusCotError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IndusCotError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error


def _open_archive(path: Path, prefix: str, name: str, checksums: Checksums) -> Iterator[Member]:
    """Members of one archive, its sha256 compared first where one is known.

    Where none is, it is taken beside the reading; not of a plain .tar, where it would cost as much as all the rest.
    """
    kind = _detect_format(path, name)
    expected = checksums.wanted or checksums.published.get(name)
    if expected and (actual := _hash_archive(path)) != expected:
        raise IndusCotError(
            f"{name}: its sha256 is {actual}, expected {expected}; "
            "the file is damaged or another version: download it again"
        )
    with ThreadPoolExecutor(1, "sha256") as pool:
        digest = pool.submit(_hash_archive, path) if not expected and kind != "tar" else None
        members = _zip_members(path, name) if kind == "zip" else _tar_members(path, name, kind)
        try:
            for member in members:
                if not _is_hidden(member.path):
                    inside = f"{prefix}/{member.path}" if prefix else member.path
                    yield replace(member, path=inside, read=_report_damage(member.read, name))
        except DAMAGE_ERRORS as error:
            raise _damage_error(name, error) from error
        if known := expected or (digest and digest.result()):
            checksums.found[name] = known


def _report_damage(read: Callable[[], bytes], name: str) -> Callable[[], bytes]:
    def guarded() -> bytes:
        try:
            return read()
        except DAMAGE_ERRORS as error:
            raise _damage_error(name, error) from error

    return guarded


def _damage_error(name: str, error: Exception) -> IndusCotError:
    if isinstance(error, NotImplementedError):
        return IndusCotError(f"{name}: is packed in a way not read here ({error}); unpack it and give the folder")
    return IndusCotError(f"{name}: the archive is truncated or damaged ({error}); download it again")


def _hash_archive(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _detect_format(path: Path, name: str) -> str:
    """zip, gz, xz, bz2 or tar, by content."""
    with path.open("rb") as file:
        head = file.read(512)
    for kind, magic in {"zip": b"PK", "gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "bz2": b"BZh"}.items():
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar" or (len(head) == 512 and name.lower().endswith(".tar")):
        return "tar"
    if head.lstrip()[:1] == b"<":
        raise IndusCotError(f"{name}: is a web page, not an archive; the link may need a login. Download it by hand")
    raise IndusCotError(f"{name}: is no archive that can be read ({' '.join(ARCHIVE_SUFFIXES)}), or is cut short")


def _check_sizes(name: str, member: str, size: int, total: int, packed: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise IndusCotError(f"{name}: member {member!r} claims {size} bytes, which is absurd; the archive is refused")
    if total > max(RATIO_FROM_BYTES, MAX_RATIO * packed):
        raise IndusCotError(
            f"{name}: unpacks to over {MAX_RATIO} times its size, as a bomb does; the archive is refused"
        )


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged or missing header after the first for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"at byte {archive.offset}: {error or 'the end is missing'}") from None


def _tar_members(path: Path, name: str, kind: str) -> Iterator[Member]:
    total, packed = 0, path.stat().st_size
    # Of a plain .tar only the headers are read here, 512 bytes a member.
    with path.open("rb", buffering=-1 if kind == "tar" else STREAM_BYTES) as raw:
        # Mode "r:" seeks one byte back now and then, which would decompress everything again.
        stream: Any = raw if kind == "tar" else _DECOMPRESS[kind](raw)
        mode: Any = "r:" if kind == "tar" else "r|"
        with tarfile.open(fileobj=stream, mode=mode, bufsize=STREAM_BYTES, tarinfo=_StrictTarInfo) as tar:
            while (info := tar.next()) is not None:
                # tarfile keeps every header; the memory would grow with the archive.
                tar.members.clear()  # type: ignore[attr-defined]
                if info.isdir():
                    clean_path(info.name, name)
                    continue
                if not info.isreg() or info.issparse():
                    what = "a link" if info.issym() or info.islnk() else "neither a file nor a folder"
                    raise IndusCotError(f"{name}: member {info.name!r} is {what}; the archive is refused")
                total += info.size
                _check_sizes(name, info.name, info.size, total, packed)
                inside = clean_path(info.name, name)
                if kind == "tar":
                    read = functools.partial(_read_part, path, info.name, info.offset_data, info.size)
                    yield Member(inside, info.size, read, True, (info.offset_data + info.size) / packed)
                else:
                    yield Member(inside, info.size, _tar_reader(tar, info), share=raw.tell() / packed)
            while kind != "tar" and stream.read(STREAM_BYTES):
                # To the end, where the compressed file's own checksum is.
                pass


def _read_part(path: Path, member: str, start: int, size: int) -> bytes:
    """What a plain .tar holds from byte ``start``."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        data = file.read(size)
    if len(data) != size:
        raise EOFError(f"member {member!r} is cut short")
    return data


def _tar_reader(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        data = tar.extractfile(info).read()  # type: ignore[union-attr]
        if len(data) != info.size:
            raise EOFError(f"member {info.name!r} is cut short")
        return data

    return read


def _zip_members(path: Path, name: str) -> Iterator[Member]:
    packed = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        total, done = sum(info.file_size for info in infos), 0
        for info in infos:
            inside = clean_path(info.filename, name)
            if info.is_dir():
                continue
            mode = info.external_attr >> 16
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise IndusCotError(f"{name}: member {info.filename!r} is a link or a device; the archive is refused")
            if info.flag_bits & 1:
                raise IndusCotError(f"{name}: member {info.filename!r} is encrypted; unpack it and give the folder")
            _check_sizes(name, info.filename, info.file_size, total, packed)
            read: Callable[[], bytes] = functools.partial(archive.read, info)
            done += info.file_size
            yield Member(inside, info.file_size, read, share=done / max(total, 1))


def _url_name(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name or "download"


def download(url: str, cache: Path) -> Path:
    """Fetch ``url`` into ``cache`` once; an interrupted download goes on where it stopped.

    Retried with growing pauses on 429 (as long as ``Retry-After`` says), 5xx and broken connections.

    Raises:
        IndusCotError: the server refuses, or does not answer after several attempts.
    """
    import httpx

    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{_url_name(url)[-100:]}"
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return target
        partial = target.with_name(f".{target.name}.partial")
        with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60, connect=20)) as client:
            try:
                with_retries(lambda: _fetch(client, url, partial), url, ATTEMPTS, LONGEST_WAIT_S)
            except TransientError as error:
                raise IndusCotError(
                    f"{url}: {error}, after {ATTEMPTS} attempts. What arrived is kept: run again to go on, "
                    "or download it by hand and give the file"
                ) from error
            except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
                raise IndusCotError(f"{url}: cannot be fetched ({error}); check the address") from error
        os.replace(partial, target)
        _validator_path(partial).unlink(missing_ok=True)
        return target


def _validator_path(partial: Path) -> Path:
    return partial.with_suffix(".validator")


def _fetch(client: "httpx.Client", url: str, partial: Path) -> None:
    """One attempt; appends to ``partial`` if the server vouches that the file is still the same one.

    Raises:
        TransientError: the connection broke, or the server fails for now.
        IndusCotError: the server refuses.
    """
    import httpx

    try:
        _append(client, url, partial)
    except httpx.TransportError as error:
        raise TransientError(f"{type(error).__name__}: {error}") from error


def _append(client: "httpx.Client", url: str, partial: Path) -> None:
    note = _validator_path(partial)
    have = partial.stat().st_size if partial.exists() and note.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": json.loads(note.read_text())}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:
            partial.unlink()
            raise TransientError("the part that was downloaded no longer fits the file", 0)
        if response.status_code == 429 or response.status_code >= 500:
            wait = parse_wait(response.headers.get("Retry-After", ""))
            raise TransientError(
                f"the server answers {response.status_code}", wait if wait is None else min(wait, LONGEST_WAIT_S)
            )
        if response.status_code >= 400:
            raise IndusCotError(
                f"{url}: the server answers {response.status_code}; check the address, or download it by hand "
                "and give the file"
            )
        resumed = response.status_code == 206
        have = have if resumed else 0
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        if validator:
            write_text(note, json.dumps(validator))
        else:
            note.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        blocks = -(-(total - have) // DOWNLOAD_BYTES) if total is not None else None
        with partial.open("ab" if resumed else "wb") as file:
            for _ in track(_receive(response, file), f"download {_url_name(url)} (MiB)", blocks):
                pass
        if total is not None and partial.stat().st_size != total:
            raise TransientError(f"{partial.stat().st_size} of {total} bytes arrived")


def _receive(response: "httpx.Response", file: IO[bytes]) -> Iterator[None]:
    """Write what arrives, as it arrives; yields once a MiB and at the end."""
    unreported = 0
    for block in response.iter_raw():
        file.write(block)
        unreported += len(block)
        for _ in range(unreported // DOWNLOAD_BYTES):
            yield
        unreported %= DOWNLOAD_BYTES
    if unreported:
        yield


def _download_snapshot(source: str, ignore: Sequence[str]) -> Path:
    """A Hub dataset repository in the Hub's own cache."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = source.removeprefix(HUB).partition("@")
    try:
        return Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision or None, ignore_patterns=list(ignore) or None
            )
        )
    except GatedRepoError as error:
        raise IndusCotError(
            f"{source}: the repository is gated; accept its terms on its page, then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise IndusCotError(f"{source}: has no revision {revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise IndusCotError(
            f"{source}: no such dataset repository, or it is private; write hf://datasets/OWNER/NAME, "
            "and run `hf auth login` if it is private"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.TransportError) as error:
        raise IndusCotError(
            f"{source}: the Hub cannot be reached ({str(error).splitlines()[0]}); run again to go on"
        ) from error

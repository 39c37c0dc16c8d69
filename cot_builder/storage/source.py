"""Read the files of a source (folder, archive, URL or Hub repository) as one stream of members.

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

# Imported lazily: httpx would take a third of the run time of `indus-cot params`, which only lists files.
if TYPE_CHECKING:
    import httpx

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
TABLE_SUFFIXES = (".csv", ".jsonl")
HUB = "hf://datasets/"
MAX_MEMBER_BYTES = 2**30
MAX_RATIO = 200
"""An archive is refused as a bomb if it unpacks to more than this many times its own size …"""
RATIO_FROM_BYTES = 4 * 2**30
"""… and to more than this many bytes."""
STREAM_BYTES = 2**18
_DECOMPRESS: dict[str, Callable[[Any], Any]] = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}
DOWNLOAD_BYTES = 2**20
ATTEMPTS = 6
LONGEST_WAIT_S = 60.0
"""Longest pause between two attempts, also if the server asks for a longer one."""
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
    """Path with ``/`` as separator, in NFC; starts with the name of the folder or archive."""
    size: int
    read: Callable[[], bytes]
    """Returns the content. Call it before the iterator moves on, unless ``is_reusable``."""
    is_reusable: bool = False
    """Whether ``read`` may be called at any time and from any thread."""
    share: float = 0.0
    """Share of the source's bytes, in [0, 1], up to the end of this file; 0 if unknown."""


@dataclass
class Checksums:
    """Expected and computed checksums of the archives of a source."""

    expected: str | None = None
    """Expected sha256, if the source is a single archive."""
    published: Mapping[str, str] = field(default_factory=dict)
    """Published sha256 by file name; applies to every archive with that name."""
    found: dict[str, str] = field(default_factory=dict)
    """Computed sha256 by file name; complete after the last member."""


def open_members(
    source: str | Sequence[str],
    cache: Path,
    checksums: Checksums | None = None,
    ignore: Sequence[str] = (),
) -> Iterator[Member]:
    """Yield every file of ``source``.

    Archives inside a folder are opened too; the paths of their members start with the folder of the archive.
    Hidden files and ``__MACOSX`` folders are skipped.

    Args:
        source: A folder; an archive (.tar .tar.gz .tar.xz .tar.bz2 .zip); a table (.csv .jsonl), which stands
            for its folder; an http(s) URL of an archive; ``hf://datasets/OWNER/NAME[@REVISION]``; or a list of these.
        cache: Folder for downloads.
        checksums: Expected checksums; the computed ones are added to it.
        ignore: Shell patterns. Matching files of a repository are not downloaded; matching archives in a folder are
            not opened.

    Raises:
        IndusCotError: the source is missing, empty or unreachable; an archive is truncated, damaged, has another
            checksum, or contains a link, a device, a path outside the archive, or an unreasonably large file.
    """
    checksums = checksums or Checksums()
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise IndusCotError("the list of sources is empty; add a folder, an archive, a URL or a Hub repository")
    if checksums.expected and (len(sources) > 1 or not _is_archive(sources[0])):
        raise IndusCotError(
            f"{sources[0]}: sha256 is set, but the source is not a single archive; remove sha256 or give one archive"
        )
    found = False
    for number, one in enumerate(sources):
        for member in _open_one(one, cache, checksums, ignore):
            found = True
            yield member if len(sources) == 1 else _scale_share(member, number / len(sources), 1 / len(sources))
    if not found:
        raise IndusCotError(
            f"{', '.join(sources)}: contains no file; give the folder or archive that contains the data"
        )


def _scale_share(member: Member, before: float, part: float) -> Member:
    """Convert the member's share of one part to its share of the whole source.

    The part starts at ``before`` and has the size ``part``, both in [0, 1].
    """
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
    """Yield the members of the archive at ``url``; delete an unreadable download, so that the next run repeats it."""
    path = download(url, cache)
    name = _url_name(url)

    def read_or_delete(read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except IndusCotError:
            path.unlink(missing_ok=True)
            raise

    try:
        for member in _open_archive(path, _strip_suffix(name), name, checksums):
            yield replace(member, read=functools.partial(read_or_delete, member.read), is_reusable=False)
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
    """Convert a member's name to a relative path with ``/`` as separator, in NFC.

    Raises:
        IndusCotError: the path is absolute or points outside the archive.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or re.match(r"[A-Za-z]:/", text) or ".." in parts:
        raise IndusCotError(f"{where}: member {name!r} points outside the archive; the archive is refused")
    return unicodedata.normalize("NFC", "/".join(parts))


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def local_files(root: Path) -> Iterator[Path]:
    """Yield every file below ``root`` that is not hidden, in a fixed order; follow links, but enter each folder once.

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
        return  # The caller reports a missing source.
    raise IndusCotError(
        f"{error.filename}: the folder cannot be read ({error.strerror}); fix its permissions or remove it"
    ) from error


def _walk(root: Path, name: str, checksums: Checksums, ignore: Sequence[str]) -> Iterator[Member]:
    def files() -> Iterator[tuple[Path, str, bool]]:
        for full in local_files(root):
            inside = full.relative_to(root).as_posix()
            packed = full.name.lower().endswith(ARCHIVE_SUFFIXES)
            if not (packed and any(fnmatchcase(inside, pattern) for pattern in ignore)):
                yield full, clean_path(f"{name.strip('/')}/{inside}", str(root)), packed

    # Walk twice instead of keeping a list, which may have a million entries, in memory.
    total, before = sum(_read_size(full) for full, _, _ in files()) or 1, 0
    for full, path, packed in files():
        size = _read_size(full)
        if packed:
            for member in _open_archive(full, path.rpartition("/")[0], full.name, checksums):
                yield _scale_share(member, before / total, size / total)
        else:
            if size > MAX_MEMBER_BYTES:
                raise IndusCotError(f"{full}: {size} bytes is too large for an image; remove the file from the source")
            yield Member(path, size, functools.partial(_read_file, full), True, (before + size) / total)
        before += size


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise IndusCotError(f"{path}: cannot be read ({error.strerror}); fix its permissions or remove it") from error


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IndusCotError(f"{path}: cannot be read ({error.strerror}); fix its permissions or remove it") from error


def _open_archive(path: Path, prefix: str, name: str, checksums: Checksums) -> Iterator[Member]:
    """Yield the members of one archive, after comparing its sha256 if a checksum is known.

    Otherwise the sha256 is computed in parallel, except for a plain .tar, where hashing would take as long as all the
    reading.
    """
    kind = _detect_format(path, name)
    expected = checksums.expected or checksums.published.get(name)
    if expected and (actual := _hash_archive(path)) != expected:
        raise IndusCotError(
            f"{name}: its sha256 is {actual}, expected {expected}; "
            "the file is damaged or another version; download it again"
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
        return IndusCotError(f"{name}: unsupported compression ({error}); unpack the archive and give the folder")
    return IndusCotError(f"{name}: the archive is truncated or damaged ({error}); download it again")


def _hash_archive(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _detect_format(path: Path, name: str) -> str:
    """Return zip, gz, xz, bz2 or tar, by the content of the file."""
    with path.open("rb") as file:
        head = file.read(512)
    for kind, magic in {"zip": b"PK", "gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "bz2": b"BZh"}.items():
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar" or (len(head) == 512 and name.lower().endswith(".tar")):
        return "tar"
    if head.lstrip()[:1] == b"<":
        raise IndusCotError(
            f"{name}: is a web page, not an archive; the link may require a login. Download the archive in a browser"
        )
    raise IndusCotError(
        f"{name}: not an archive of a known format ({' '.join(ARCHIVE_SUFFIXES)}), or truncated; download it again"
    )


def _check_sizes(name: str, member: str, size: int, total: int, packed: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise IndusCotError(
            f"{name}: member {member!r} claims to have {size} bytes, more than any image; the archive is refused"
        )
    if total > max(RATIO_FROM_BYTES, MAX_RATIO * packed):
        raise IndusCotError(
            f"{name}: unpacks to over {MAX_RATIO} times its size, like a decompression bomb; the archive is refused"
        )


class _StrictTarInfo(tarfile.TarInfo):
    """Raises an error for a damaged or missing header; plain tarfile treats it as the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"at byte {archive.offset}: {error or 'the end is missing'}") from None


def _tar_members(path: Path, name: str, kind: str) -> Iterator[Member]:
    total, packed = 0, path.stat().st_size
    # In a plain .tar, this loop reads only the headers, 512 bytes per member.
    with path.open("rb", buffering=-1 if kind == "tar" else STREAM_BYTES) as raw:
        # Compressed archives use "r|": mode "r:" sometimes seeks one byte back, which would decompress from the start.
        stream: Any = raw if kind == "tar" else _DECOMPRESS[kind](raw)
        mode: Any = "r:" if kind == "tar" else "r|"
        with tarfile.open(fileobj=stream, mode=mode, bufsize=STREAM_BYTES, tarinfo=_StrictTarInfo) as tar:
            while (info := tar.next()) is not None:
                # tarfile keeps every header, so memory would grow with the archive.
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
                # Read to the end, where the compressed file has its checksum.
                pass


def _read_part(path: Path, member: str, start: int, size: int) -> bytes:
    """Read ``size`` bytes of a plain .tar, starting at byte ``start``."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        data = file.read(size)
    if len(data) != size:
        raise EOFError(f"member {member!r} is truncated")
    return data


def _tar_reader(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        data = tar.extractfile(info).read()  # type: ignore[union-attr]
        if len(data) != info.size:
            raise EOFError(f"member {info.name!r} is truncated")
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
    """Download ``url`` into ``cache`` unless it is there; resume an interrupted download.

    Retries with exponential backoff on 429 (or after the pause in ``Retry-After``), 5xx and broken connections.

    Raises:
        IndusCotError: the server refuses the request, or all attempts failed.
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
                    f"{url}: {error}, after {ATTEMPTS} attempts. The downloaded part is kept: run again to resume, "
                    "or download it yourself and give the file"
                ) from error
            except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
                raise IndusCotError(f"{url}: cannot be downloaded ({error}); check the URL") from error
        os.replace(partial, target)
        _validator_path(partial).unlink(missing_ok=True)
        return target


def _validator_path(partial: Path) -> Path:
    return partial.with_suffix(".validator")


def _fetch(client: "httpx.Client", url: str, partial: Path) -> None:
    """Make one download attempt; append to ``partial`` if the server confirms that the file has not changed.

    Raises:
        TransientError: the connection broke, or the server has a temporary failure.
        IndusCotError: the server refuses the request.
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
            raise TransientError("the downloaded part no longer matches the file", 0)
        if response.status_code == 429 or response.status_code >= 500:
            wait = parse_wait(response.headers.get("Retry-After", ""))
            raise TransientError(
                f"the server answers {response.status_code}", wait if wait is None else min(wait, LONGEST_WAIT_S)
            )
        if response.status_code >= 400:
            raise IndusCotError(
                f"{url}: the server answers {response.status_code}; check the URL, or download it yourself "
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
    """Write the response to ``file`` as it arrives; yield after each MiB and at the end."""
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
    """Download a Hub dataset repository into the Hub's own cache."""
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
        raise IndusCotError(
            f"{source}: has no revision {revision!r}; check the name of the branch, tag or commit"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise IndusCotError(
            f"{source}: no such dataset repository, or it is private; write hf://datasets/OWNER/NAME, "
            "and run `hf auth login` if it is private"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.TransportError) as error:
        raise IndusCotError(
            f"{source}: the Hub cannot be reached ({str(error).splitlines()[0]}); run again to resume"
        ) from error

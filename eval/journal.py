"""Journal of one evaluation: an append-only file of finished items that survives a kill at any moment."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from eval.policies import PolicyAnswer
from schemas.errors import IndusCotError

FORMER_KEYS = Path(__file__).with_name("former.yaml")
SYNC_EVERY_S = 1.0
"""Interval of fsync, seconds. A written line survives a killed process at once, a power loss after this time."""


class Journal:
    """Finished items of one run, one JSON line each, after a header that describes the run. A context manager.

    The key of an item holds everything that shaped its question, so a changed image is a new item. The file is named by
    the hash of the run, so that runs do not share answers.
    """

    def __init__(self, folder: Path, name: str, run: Mapping[str, Any], code: str, *, refresh: bool = False) -> None:
        """Open the journal of a run, or create it.

        Args:
            folder: Folder of all journals.
            name: Set that is evaluated; a part of the file name.
            run: Everything except code that shapes the answers.
            code: Code key of the modules that ask and parse.
            refresh: Discard the finished items.

        Raises:
            IndusCotError: another process has it open.
        """
        header = json.dumps({**run, "code": code}, sort_keys=True, default=str)
        self.path = folder / f"{name}-{hashlib.sha256(header.encode()).hexdigest()[:16]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise IndusCotError(
                f"{self.path}: the same evaluation is running already; wait for that run or stop it"
            ) from None
        self._finished, valid_bytes = ({}, 0) if refresh else _read_items(self.path, header)
        self.outdated: dict[Path, dict[str, PolicyAnswer]] = {}
        """Finished items of runs that differ only in their code, by file."""
        self._file = self.path.open("r+b" if valid_bytes else "wb", buffering=0)
        # A killed process may leave an incomplete last line.
        self._file.truncate(valid_bytes)
        self._file.seek(valid_bytes)
        if not valid_bytes:
            self._file.write(header.encode() + b"\n")
        self._synced = time.monotonic()
        if not refresh:
            self._import_finished(json.loads(header), code)

    def _import_finished(self, run: dict[str, Any], code: str) -> None:
        """Copy finished items from journals of equivalent code; remember those of other code in :attr:`outdated`."""
        for path in sorted(self.path.parent.glob("*.jsonl")):
            parsed = _read_header(path) if path != self.path else None
            if parsed is None:
                continue
            other, text = parsed
            former = other.pop("read by", None)
            key = other.pop("code", None) if former is None else _current_key(former)
            if other != {name: value for name, value in run.items() if name != "code"}:
                continue
            finished, _ = _read_items(path, text)
            if key == code:
                # A process killed during the import has copied some of them already.
                for item in finished.keys() - self._finished.keys():
                    self.add(item, finished[item])
            else:
                self.outdated[path] = finished

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._lock.release()

    def get(self, item: str) -> PolicyAnswer | None:
        """The answer of a finished item; None if it is not finished."""
        return self._finished.get(item)

    def add(self, item: str, said: PolicyAnswer) -> None:
        """Store the answer of an item. A failure is not stored, so that the next run tries again."""
        if said.parse == "failed":
            return
        self._finished[item] = said
        line = json.dumps([item, said.model_dump(mode="json")], ensure_ascii=False).encode(errors="replace") + b"\n"
        self._file.write(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def _read_items(path: Path, header: str) -> tuple[dict[str, PolicyAnswer], int]:
    """Finished items, and the number of bytes up to the last valid line."""
    if not path.is_file():
        return {}, 0
    finished: dict[str, PolicyAnswer] = {}
    valid_bytes = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                break
            try:
                if number == 0:
                    if line.decode() != header + "\n":
                        return {}, 0
                else:
                    item, said = json.loads(line)
                    finished[item] = PolicyAnswer.model_validate(said)
            except (ValueError, ValidationError, TypeError):
                # A power loss can leave zeros. Everything from here on is asked again.
                break
            valid_bytes += len(line)
    return finished, valid_bytes


def _read_header(path: Path) -> tuple[dict[str, Any], str] | None:
    """Header of a journal, parsed and as text; None if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline()
        parsed = json.loads(line)
    except (OSError, ValueError):
        return None
    return (parsed, line.removesuffix("\n")) if isinstance(parsed, dict) else None


def _current_key(read_by: Mapping[str, str]) -> str | None:
    """Current code key equivalent to the file hashes that a journal of version 0.1 lists; None if none is known.

    That version recorded a hash for each source file instead of a code key.
    """
    table: dict[str, str] = yaml.safe_load(FORMER_KEYS.read_text(encoding="utf-8"))
    return table.get(hashlib.sha256(json.dumps(read_by, sort_keys=True).encode()).hexdigest()[:16])

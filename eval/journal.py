"""What one run has finished so far: a file that grows by an item at a time, and outlives the process at any moment."""

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

from eval.policies import Said
from schemas.errors import IndusCotError

FORMER = Path(__file__).with_name("former.yaml")
SYNC_EVERY_S = 1.0
"""What is written outlives the process at once; the machine, after this long."""


class Journal:
    """Finished items of one run, as lines of JSON; the first line says which run. To be used as a context.

    An item is known by everything that it was asked with: an image that changed is a new item. The file is named by
    the hash of the run, so that no other run finds what this one said.
    """

    def __init__(self, folder: Path, name: str, run: Mapping[str, Any], code: str, *, anew: bool = False) -> None:
        """Open the journal of a run, or begin it.

        Args:
            folder: Where journals lie.
            name: What is evaluated; a part of the file's name.
            run: Everything but code that shapes what is said.
            code: Code key of what asks and reads.
            anew: Forget what was finished.

        Raises:
            IndusCotError: another process holds it.
        """
        described = json.dumps({**run, "code": code}, sort_keys=True, default=str)
        self.path = folder / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise IndusCotError(
                f"{self.path}: the same evaluation is running already; wait for that run or stop it"
            ) from None
        self._done, whole = ({}, 0) if anew else _read(self.path, described)
        self.others: dict[Path, dict[str, Said]] = {}
        """Finished items of runs that differ in their code alone, by file."""
        self._file = self.path.open("r+b" if whole else "wb", buffering=0)
        # Half a line is what a killed process leaves.
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._file.write(described.encode() + b"\n")
        self._synced = time.monotonic()
        if not anew:
            self._take_over(json.loads(described), code)

    def _take_over(self, run: dict[str, Any], code: str) -> None:
        """Take what code that answers alike has finished; remember what other code has."""
        for path in sorted(self.path.parent.glob("*.jsonl")):
            found = _header(path) if path != self.path else None
            if found is None:
                continue
            other, text = found
            former = other.pop("read by", None)
            key = other.pop("code", None) if former is None else _now(former)
            if other != {name: value for name, value in run.items() if name != "code"}:
                continue
            done, _ = _read(path, text)
            if key == code:
                # A process that was killed while it took over has some of them already.
                for item in done.keys() - self._done.keys():
                    self.add(item, done[item])
            else:
                self.others[path] = done

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._lock.release()

    def get(self, item: str) -> Said | None:
        """What was said of an item, where it is finished."""
        return self._done.get(item)

    def add(self, item: str, said: Said) -> None:
        """Keep what was said of an item; a failure is not kept, so that the next run tries again."""
        if said.parse == "failed":
            return
        self._done[item] = said
        line = json.dumps([item, said.model_dump(mode="json")], ensure_ascii=False).encode(errors="replace") + b"\n"
        self._file.write(line)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()


def _read(path: Path, described: str) -> tuple[dict[str, Said], int]:
    """Finished items, and how many bytes of the file are whole."""
    if not path.is_file():
        return {}, 0
    done: dict[str, Said] = {}
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                break
            try:
                if number == 0:
                    if line.decode() != described + "\n":
                        return {}, 0
                else:
                    item, said = json.loads(line)
                    done[item] = Said.model_validate(said)
            except (ValueError, ValidationError, TypeError):
                # A machine that lost power leaves zeros: what follows is asked again.
                break
            whole += len(line)
    return done, whole


def _header(path: Path) -> tuple[dict[str, Any], str] | None:
    """Which run a journal is of, and the line that says so; None where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline()
        found = json.loads(line)
    except (OSError, ValueError):
        return None
    return (found, line.removesuffix("\n")) if isinstance(found, dict) else None


def _now(read_by: Mapping[str, str]) -> str | None:
    """Code key that answers as the files of a journal of version 0.1 did; None where no code is known to.

    That version named the hash of each file that it counted, instead of a code key.
    """
    table: dict[str, str] = yaml.safe_load(FORMER.read_text(encoding="utf-8"))
    return table.get(hashlib.sha256(json.dumps(read_by, sort_keys=True).encode()).hexdigest()[:16])

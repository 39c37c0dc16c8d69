"""What one run has finished so far: a file that grows by an item at a time, and outlives the process at any moment."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from eval.policies import Said
from schemas.errors import IndusCotError

SYNC_EVERY_S = 1.0
"""What is written outlives the process at once; the machine, after this long."""


class Journal:
    """Finished items of one run, as lines of JSON; the first line says which run. To be used as a context.

    An item is known by everything that it was asked with: an image that changed is a new item. The file is named by
    the hash of the run, so that no other run finds what this one said.
    """

    def __init__(self, folder: Path, name: str, run: Mapping[str, Any], *, anew: bool = False) -> None:
        """Open the journal of a run, or begin it.

        Args:
            folder: Where journals lie.
            name: What is evaluated; a part of the file's name.
            run: Everything that shapes what is said.
            anew: Forget what was finished.

        Raises:
            IndusCotError: another process holds it.
        """
        described = json.dumps(run, sort_keys=True, default=str)
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
        self._file = self.path.open("r+b" if whole else "wb", buffering=0)
        # Half a line is what a killed process leaves.
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._file.write(described.encode() + b"\n")
        self._synced = time.monotonic()

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

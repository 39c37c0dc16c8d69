"""A file appears whole or not at all: the one way to write it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` to write to, and put it in the place of ``path`` on success.

    The folder is made where it is not there. Any number of processes may write the same file: the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        # A half-written file would take up room on a full disk.
        partial.unlink(missing_ok=True)
        raise

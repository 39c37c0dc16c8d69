"""Atomic writing of files."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` to write to, and move it to ``path`` on success.

    If the block fails, ``path`` is left unchanged and the temporary file is deleted. A missing folder is created.
    Several processes may write the same file: the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        # Delete the partial file: it would take up space on a full disk.
        partial.unlink(missing_ok=True)
        raise

"""Store of paid answers: each response is stored under the hash of its request before it is used."""

import hashlib
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cot_builder.endpoint.prices import Usage
from schemas.errors import IndusCotError

TABLES_SQL = """
CREATE TABLE IF NOT EXISTS answer (
    key TEXT PRIMARY KEY, step TEXT NOT NULL, model TEXT NOT NULL, response TEXT NOT NULL, sha256 TEXT NOT NULL,
    input INTEGER NOT NULL, cached_input INTEGER NOT NULL, output INTEGER NOT NULL, usd REAL NOT NULL,
    stored REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spend (
    stored REAL NOT NULL, model TEXT NOT NULL, step TEXT NOT NULL,
    input INTEGER NOT NULL, cached_input INTEGER NOT NULL, output INTEGER NOT NULL, usd REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS batch (
    id TEXT PRIMARY KEY, submitted REAL NOT NULL, keys TEXT NOT NULL, open INTEGER NOT NULL
);
"""
MIN_FREE_BYTES = 32 * 2**20
"""Send no request when less disk space than this is free: its answer might not fit."""
LOCK_TIMEOUT_S = 30.0
READ_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Errors raised on reading a damaged file: SQLite's own message about it may be invalid UTF-8."""
DAMAGE_MESSAGES = ("malformed", "not a database", "no such column", "no such table", "unsupported file format")


class StoredAnswer(NamedTuple):
    """A stored response, with its usage and its cost at the time."""

    response: dict[str, Any]
    usage: Usage
    usd: float


class ModelSpend(NamedTuple):
    """Total spend on one model, refreshed and pruned answers included."""

    model: str
    answers: int
    input: int
    output: int
    usd: float


class AnswerStore:
    """Stores answers in one SQLite file in WAL mode: committed answers survive a killed process."""

    def __init__(self, path: Path) -> None:
        """Open or make the store.

        Raises:
            IndusCotError: the file is damaged or cannot be written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explain_errors():
            self._db = _connect(path)
            _switch_to_wal(self._db)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(TABLES_SQL)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except READ_ERRORS as error:
            text = str(error)
            if "full" in text or "I/O" in text:
                raise IndusCotError(
                    f"{self.path}: the disk is full; all answers stored so far are safe. Free some space and run again"
                ) from error
            if isinstance(error, UnicodeDecodeError) or any(word in text for word in DAMAGE_MESSAGES):
                raise IndusCotError(
                    f"{self.path}: the answer store is damaged ({text}); nothing was sent. "
                    "Run `indus-cot cache --salvage` to recover the answers that can still be read"
                ) from error
            raise IndusCotError(
                f"{self.path}: cannot be opened ({text}); check its permissions and whether another program uses it"
            ) from error

    def get(self, key: str) -> StoredAnswer | None:
        """Return the answer under ``key``, or None if there is none or its checksum is wrong."""
        with self._explain_errors():
            row = self._db.execute(
                "SELECT response, sha256, input, cached_input, output, usd FROM answer WHERE key = ?", (key,)
            ).fetchone()
        if row is None or _checksum(key, row[0], *row[2:]) != row[1]:
            return None
        return StoredAnswer(json.loads(row[0]), Usage(input=row[2], cached_input=row[3], output=row[4]), row[5])

    def has(self, key: str) -> bool:
        """Return whether :meth:`get` finds an answer under ``key``."""
        return self.get(key) is not None

    def put(self, key: str, step: str, model: str, response: dict[str, Any], usage: Usage, usd: float) -> None:
        """Store an answer and book its cost, in one transaction."""
        # Keep non-ASCII characters escaped: JSON may contain a lone surrogate, which UTF-8 cannot encode.
        text = json.dumps(response)
        tokens = (usage.input, usage.cached_input, usage.output, usd)
        now = time.time()
        with self._explain_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "INSERT OR REPLACE INTO answer VALUES (?,?,?,?,?,?,?,?,?,?)",
                    (key, step, model, text, _checksum(key, text, *tokens), *tokens, now),
                )
                self._db.execute("INSERT INTO spend VALUES (?,?,?,?,?,?,?)", (now, model, step, *tokens))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def check_space(self) -> None:
        """Check that enough disk space is free, while there is still room to stop cleanly.

        Raises:
            IndusCotError: less than 32 MiB are free.
        """
        if shutil.disk_usage(self.path.parent).free < MIN_FREE_BYTES:
            raise IndusCotError(
                f"{self.path.parent}: the disk is full; no more requests are sent, since answers could not be stored. "
                "All answers stored so far are safe: free some space and run again"
            )

    def spent(self) -> tuple[float, int]:
        """Return the USD and tokens spent over all runs."""
        with self._explain_errors():
            usd, tokens = self._db.execute("SELECT total(usd), total(input + output) FROM spend").fetchone()
        return float(usd), int(tokens)

    def spend_by_model(self) -> list[ModelSpend]:
        """Return the spend by model, highest first."""
        with self._explain_errors():
            rows = self._db.execute(
                "SELECT model, count(*), sum(input), sum(output), sum(usd) FROM spend GROUP BY model ORDER BY 5 DESC, 1"
            ).fetchall()
        return [ModelSpend(*row) for row in rows]

    def counts(self) -> list[tuple[str, str, int]]:
        """Return the number of stored answers by model and step."""
        with self._explain_errors():
            return self._db.execute("SELECT model, step, count(*) FROM answer GROUP BY 1, 2 ORDER BY 1, 2").fetchall()

    def mean_output(self, model: str, least: int = 20) -> dict[str, float]:
        """Return the mean output tokens by step, for steps with at least ``least`` answers of ``model``."""
        with self._explain_errors():
            rows = self._db.execute(
                "SELECT step, avg(output) FROM answer WHERE model = ? GROUP BY step HAVING count(*) >= ?",
                (model, least),
            ).fetchall()
        return dict(rows)

    def prune(self, older_than_days: float | None = None, model: str | None = None) -> int:
        """Delete answers by age, by model, or both, and keep the record of spend. Returns the number deleted."""
        conditions, values = [], []
        if older_than_days is not None:
            conditions.append("stored < ?")
            values.append(time.time() - older_than_days * 86400)
        if model is not None:
            conditions.append("model = ?")
            values.append(model)  # type: ignore[arg-type]
        with self._explain_errors():
            deleted = self._db.execute(f"DELETE FROM answer WHERE {' AND '.join(conditions) or '1'}", values).rowcount
            self._db.execute("VACUUM")
        return deleted

    def open_batches(self) -> dict[str, list[str]]:
        """Return the batches that are not collected yet: batch id to the keys of its requests."""
        with self._explain_errors():
            rows = self._db.execute("SELECT id, keys FROM batch WHERE open ORDER BY submitted").fetchall()
        return {name: json.loads(keys) for name, keys in rows}

    def open_batch(self, name: str, keys: Iterable[str]) -> None:
        """Record a submitted batch."""
        with self._explain_errors():
            self._db.execute(
                "INSERT OR REPLACE INTO batch VALUES (?,?,?,1)", (name, time.time(), json.dumps(list(keys)))
            )

    def close_batch(self, name: str) -> None:
        """Mark a batch as closed: its answers are stored, or it will never have any."""
        with self._explain_errors():
            self._db.execute("UPDATE batch SET open = 0 WHERE id = ?", (name,))

    def copy_readable_rows(self, old: sqlite3.Connection) -> int:
        """Copy every readable row of a damaged store unchanged. Returns the number of answers."""
        with self._explain_errors():
            self._db.execute("BEGIN IMMEDIATE")
            for table, marks in (("spend", "?,?,?,?,?,?,?"), ("batch", "?,?,?,?")):
                with suppress(*READ_ERRORS):
                    for row in old.execute(f"SELECT * FROM {table}"):
                        self._db.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            for row in _iter_readable_rows(old):
                if _checksum(row[0], row[3], *row[5:9]) == row[4]:
                    self._db.execute("INSERT OR IGNORE INTO answer VALUES (?,?,?,?,?,?,?,?,?,?)", row)
            self._db.execute("COMMIT")
            return int(self._db.execute("SELECT count(*) FROM answer").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def answer_store_path(root: Path) -> Path:
    """Return the path of a project's answer store, which is outside all folders that a stage or DVC deletes."""
    return root / ".indus-cot" / "answers.sqlite"


def is_intact(path: Path) -> bool:
    """Return whether the store at ``path`` has all its tables, passes SQLite's check, and every checksum is right."""
    try:
        with closing(_connect(path)) as db:
            db.execute("SELECT step, model, stored FROM answer LIMIT 1")
            db.execute("SELECT stored, model, step, input, cached_input, output, usd FROM spend LIMIT 1")
            db.execute("SELECT id, submitted, keys, open FROM batch LIMIT 1")
            rows = db.execute("SELECT key, response, sha256, input, cached_input, output, usd FROM answer")
            checksums_match = all(_checksum(row[0], row[1], *row[3:]) == row[2] for row in rows)
            return checksums_match and db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except READ_ERRORS:
        return False


def salvage(path: Path) -> tuple[int, Path]:
    """Copy all readable answers of a damaged store into a new store at the same path.

    Returns:
        The number of recovered answers, and the path that the damaged file was moved to.

    Raises:
        IndusCotError: the file does not exist.
    """
    if not path.is_file():
        raise IndusCotError(f"{path}: no answer store found")
    damaged = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(damaged.with_name(damaged.name + suffix))
    fresh = AnswerStore(path)
    old = _connect(damaged)
    recovered = fresh.copy_readable_rows(old)
    old.close()
    fresh.close()
    return recovered, damaged


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    # A flipped bit may break the UTF-8. Don't fail on it: the checksum reveals that row, and the others stay readable.
    db.text_factory = lambda data: data.decode(errors="replace")
    return db


def _iter_readable_rows(old: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Yield every readable row of ``answer``, with one lookup per row: a scan would end at the first damaged page."""
    after = ""
    while True:
        try:
            row = old.execute("SELECT * FROM answer WHERE key > ? ORDER BY key LIMIT 1", (after,)).fetchone()
        except READ_ERRORS:
            row = (None,)
        if row is None:
            return
        if isinstance(row[0], str) and row[0] > after and re.fullmatch("[0-9a-f]{64}", row[0]):
            after = row[0]
            yield row
            continue
        # Skip the damaged part: keys are evenly distributed hashes, so continue at the next of 65,536 prefixes.
        prefix = int(after[:4] or "0", 16) + 1
        if prefix > 0xFFFF:
            return
        after = f"{prefix:04x}"


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Switch to WAL mode, and retry while another process holds the lock: SQLite's timeout does not apply here."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _checksum(key: str, text: str, *cost: float) -> str:
    """Return the checksum over an answer, its key and its cost."""
    return hashlib.sha256(repr((key, text, *cost)).encode(errors="replace")).hexdigest()

"""Paid answers, kept: each response is stored by the hash of its request before it is used."""

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

SCHEMA = """
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
KEEP_FREE_BYTES = 32 * 2**20
"""A request is not sent when its answer might not fit on the disk."""


WAIT_S = 30.0
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged file raises: SQLite's own words about it may be no text."""
DAMAGED = ("malformed", "not a database", "no such column", "no such table", "unsupported file format")


class Stored(NamedTuple):
    """A response as it was stored, with what it cost then."""

    response: dict[str, Any]
    usage: Usage
    usd: float


class Spend(NamedTuple):
    """What was spent on one model so far, re-asked and pruned answers included."""

    model: str
    answers: int
    input: int
    output: int
    usd: float


class Answers:
    """The store of answers: one SQLite file in WAL mode; what is committed survives the end of the process."""

    def __init__(self, path: Path) -> None:
        """Open or make the store.

        Raises:
            IndusCotError: the file is damaged or cannot be written.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._db = _connect(path)
            _switch_to_wal(self._db)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            text = str(error)
            if "full" in text or "I/O" in text:
                raise IndusCotError(
                    f"{self.path}: the disk is full; every answer stored so far is kept. Free some space and run again"
                ) from error
            if isinstance(error, UnicodeDecodeError) or any(word in text for word in DAMAGED):
                raise IndusCotError(
                    f"{self.path}: the store of answers is damaged ({text}); nothing was sent. "
                    "`indus-cot cache --salvage` keeps the answers that can still be read"
                ) from error
            raise IndusCotError(
                f"{self.path}: cannot be used ({text}); check its rights and who else has it open"
            ) from error

    def get(self, key: str) -> Stored | None:
        """The answer under ``key``, or None; one whose text was damaged on disk counts as absent."""
        with self._told():
            row = self._db.execute(
                "SELECT response, sha256, input, cached_input, output, usd FROM answer WHERE key = ?", (key,)
            ).fetchone()
        if row is None or _digest(key, row[0], *row[2:]) != row[1]:
            return None
        return Stored(json.loads(row[0]), Usage(input=row[2], cached_input=row[3], output=row[4]), row[5])

    def has(self, key: str) -> bool:
        """Whether :meth:`get` has an answer under ``key``."""
        return self.get(key) is not None

    def put(self, key: str, step: str, model: str, response: dict[str, Any], usage: Usage, usd: float) -> None:
        """Store an answer and book what it cost; both or neither."""
        # Escaped: JSON may hold half a character, which no text in UTF-8 may.
        text = json.dumps(response)
        tokens = (usage.input, usage.cached_input, usage.output, usd)
        now = time.time()
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "INSERT OR REPLACE INTO answer VALUES (?,?,?,?,?,?,?,?,?,?)",
                    (key, step, model, text, _digest(key, text, *tokens), *tokens, now),
                )
                self._db.execute("INSERT INTO spend VALUES (?,?,?,?,?,?,?)", (now, model, step, *tokens))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def check_space(self) -> None:
        """Raise while there is still room to stop cleanly.

        Raises:
            IndusCotError: less than 32 MiB are free.
        """
        if shutil.disk_usage(self.path.parent).free < KEEP_FREE_BYTES:
            raise IndusCotError(
                f"{self.path.parent}: the disk is full; nothing more is asked, since an answer could not be kept. "
                "Every answer stored so far is safe: free some space and run again"
            )

    def spent(self) -> tuple[float, int]:
        """USD and tokens over all runs."""
        with self._told():
            usd, tokens = self._db.execute("SELECT total(usd), total(input + output) FROM spend").fetchone()
        return float(usd), int(tokens)

    def spend(self) -> list[Spend]:
        """Spend by model, the dearest first."""
        with self._told():
            rows = self._db.execute(
                "SELECT model, count(*), sum(input), sum(output), sum(usd) FROM spend GROUP BY model ORDER BY 5 DESC, 1"
            ).fetchall()
        return [Spend(*row) for row in rows]

    def counts(self) -> list[tuple[str, str, int]]:
        """Stored answers by model and step."""
        with self._told():
            return self._db.execute("SELECT model, step, count(*) FROM answer GROUP BY 1, 2 ORDER BY 1, 2").fetchall()

    def mean_output(self, model: str, least: int = 20) -> dict[str, float]:
        """Mean output tokens by step, of steps with at least ``least`` answers of ``model``."""
        with self._told():
            rows = self._db.execute(
                "SELECT step, avg(output) FROM answer WHERE model = ? GROUP BY step HAVING count(*) >= ?",
                (model, least),
            ).fetchall()
        return dict(rows)

    def prune(self, older_than_days: float | None = None, model: str | None = None) -> int:
        """Delete answers, by age, by model, or both; the record of what was spent stays. Returns how many went."""
        conditions, values = [], []
        if older_than_days is not None:
            conditions.append("stored < ?")
            values.append(time.time() - older_than_days * 86400)
        if model is not None:
            conditions.append("model = ?")
            values.append(model)  # type: ignore[arg-type]
        with self._told():
            gone = self._db.execute(f"DELETE FROM answer WHERE {' AND '.join(conditions) or '1'}", values).rowcount
            self._db.execute("VACUUM")
        return gone

    def open_batches(self) -> dict[str, list[str]]:
        """Batches not collected yet: id to the keys of its requests."""
        with self._told():
            rows = self._db.execute("SELECT id, keys FROM batch WHERE open ORDER BY submitted").fetchall()
        return {name: json.loads(keys) for name, keys in rows}

    def open_batch(self, name: str, keys: Iterable[str]) -> None:
        """Remember a submitted batch."""
        with self._told():
            self._db.execute(
                "INSERT OR REPLACE INTO batch VALUES (?,?,?,1)", (name, time.time(), json.dumps(list(keys)))
            )

    def close_batch(self, name: str) -> None:
        """Forget a batch whose answers are stored, or that will never have any."""
        with self._told():
            self._db.execute("UPDATE batch SET open = 0 WHERE id = ?", (name,))

    def take_over(self, old: sqlite3.Connection) -> int:
        """Copy what can be read of a damaged store, as it was; returns how many answers."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            for table, marks in (("spend", "?,?,?,?,?,?,?"), ("batch", "?,?,?,?")):
                with suppress(*UNREADABLE):
                    for row in old.execute(f"SELECT * FROM {table}"):
                        self._db.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            for row in _readable(old):
                if _digest(row[0], row[3], *row[5:9]) == row[4]:
                    self._db.execute("INSERT OR IGNORE INTO answer VALUES (?,?,?,?,?,?,?,?,?,?)", row)
            self._db.execute("COMMIT")
            return int(self._db.execute("SELECT count(*) FROM answer").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def store(root: Path) -> Path:
    """Where a project's answers are: outside everything a stage or DVC deletes."""
    return root / ".indus-cot" / "answers.sqlite"


def is_sound(path: Path) -> bool:
    """Whether the store at ``path`` is whole, and every answer what was paid for."""
    try:
        with closing(_connect(path)) as db:
            db.execute("SELECT step, model, stored FROM answer LIMIT 1")
            db.execute("SELECT stored, model, step, input, cached_input, output, usd FROM spend LIMIT 1")
            db.execute("SELECT id, submitted, keys, open FROM batch LIMIT 1")
            rows = db.execute("SELECT key, response, sha256, input, cached_input, output, usd FROM answer")
            whole = all(_digest(row[0], row[1], *row[3:]) == row[2] for row in rows)
            return whole and db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except UNREADABLE:
        return False


def salvage(path: Path) -> tuple[int, Path]:
    """Copy every answer of a damaged store that can still be read into a new one, which takes its place.

    Returns:
        How many answers were kept, and where the damaged file now lies.

    Raises:
        IndusCotError: there is no such file.
    """
    if not path.is_file():
        raise IndusCotError(f"{path}: no store of answers here")
    damaged = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(damaged.with_name(damaged.name + suffix))
    fresh = Answers(path)
    old = _connect(damaged)
    kept = fresh.take_over(old)
    old.close()
    fresh.close()
    return kept, damaged


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    # A flipped bit may leave no UTF-8: that row is then known by its checksum, and the others can be read.
    db.text_factory = lambda data: data.decode(errors="replace")
    return db


def _readable(old: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Every row of ``answer`` that can be read, one look-up each: a scan would end at the first damage."""
    after = ""
    while True:
        try:
            row = old.execute("SELECT * FROM answer WHERE key > ? ORDER BY key LIMIT 1", (after,)).fetchone()
        except UNREADABLE:
            row = (None,)
        if row is None:
            return
        if isinstance(row[0], str) and row[0] > after and re.fullmatch("[0-9a-f]{64}", row[0]):
            after = row[0]
            yield row
            continue
        # Keys are evenly spread: the next of 65,536 places to go on from.
        place = int(after[:4] or "0", 16) + 1
        if place > 0xFFFF:
            return
        after = f"{place:04x}"


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """SQLite waits for nobody here, whatever its timeout."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _digest(key: str, text: str, *cost: float) -> str:
    """Checksum of an answer with the key it is kept under and what it cost."""
    return hashlib.sha256(repr((key, text, *cost)).encode(errors="replace")).hexdigest()

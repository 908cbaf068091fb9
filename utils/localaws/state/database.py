"""What localaws knows, in one SQLite file: durable when a call returns, whole after a kill at any moment.

    entry   kind, name, value: a resource each, its value with a checksum, as bits of a disk may change
    event   the lines of CloudWatch Logs                                                          moto/streams.py

SQLite writes ahead (WAL) and syncs at its checkpoints: a killed process loses nothing, and a power cut at most the last
seconds, of what can be made again. What cannot be used is put aside, under its name, in `HOME/aside`, and told.
"""

import logging
import os
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger("localaws")

TABLES = """
CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, kind TEXT, name TEXT, value BLOB, sum INTEGER, UNIQUE (kind, name));
CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, stream INTEGER, at INTEGER, taken INTEGER, message TEXT);
CREATE INDEX IF NOT EXISTS events_of_stream ON event (stream, at, id);
"""


class Database:
    """Entries by kind and name, for many threads. `lost` has, in words, what was put aside since the start."""

    def __init__(self, home: Path):
        self.home, self.aside = home, home / "aside"
        self.lost: list[str] = []
        self._lock = threading.RLock()
        home.mkdir(parents=True, exist_ok=True)
        # How many transactions were made stands in the file and beside it: SQLite takes a damaged -wal for a short one.
        self._beside = os.open(home / "state.count", os.O_RDWR | os.O_CREAT, 0o600)
        text = os.read(self._beside, 20)
        self._made = told = int(text) if text.isdigit() else 0
        ahead, copy = home / "state.db-wal", home / "state.db-wal.before"
        if ahead.exists():  # a killed server's: opening the file takes it in, or throws it away
            shutil.copyfile(ahead, copy)
        try:
            self._connection = self._opened()
            self._connection.execute("SELECT count(*) FROM entry WHERE sum IS NULL").fetchone()
            self._made = self.select("PRAGMA user_version")[0][0]
        except sqlite3.DatabaseError as error:
            self._salvage(error)
        if self._made < told:
            kept = self.aside / "state.db-wal"
            if copy.exists():
                self.aside.mkdir(exist_ok=True)
                copy.replace(kept)
            self.tell(
                f"the last {told - self._made:,} changes: state.db-wal, which had them, is damaged (kept as {kept})"
            )
        copy.unlink(missing_ok=True)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the database for one thread; what is written is there as a whole, or not at all where this raises."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection  # as a part of the one that this thread has begun
                return
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._made += 1
                self._connection.execute(f"PRAGMA user_version = {self._made}")
            os.pwrite(self._beside, b"%020d" % self._made, 0)

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Write an entry, in the place of the one that has its name."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO entry (kind, name, value, sum) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, name) DO UPDATE SET value = excluded.value, sum = excluded.sum",
                (kind, name, value, zlib.crc32(value)),
            )

    def delete(self, kind: str, name: str) -> None:
        with self.transaction() as connection:
            connection.execute("DELETE FROM entry WHERE kind = ? AND name = ?", (kind, name))

    def delete_below(self, kind: str, prefix: str) -> None:
        """Delete the entries of a kind whose names begin with `prefix`."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM entry WHERE kind = ? AND name >= ? AND name < ?",
                (kind, prefix, f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"),
            )

    def entries(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Give name and value of each entry of a kind, in the order in which they were first written.

        One whose bytes have changed is put aside.
        """
        last = 0
        while rows := self.select(
            "SELECT id, name, value, sum FROM entry WHERE kind = ? AND id > ? ORDER BY id LIMIT 1000",
            kind,
            last,
        ):
            last = rows[-1][0]
            for _, name, value, written in rows:
                if zlib.crc32(value) == written:
                    yield name, value
                else:
                    self.put_aside(kind, name, value, "its bytes are not those that were written")

    def counts(self) -> dict[str, int]:
        """How many entries there are of each kind."""
        return dict(self.select("SELECT kind, count(*) FROM entry GROUP BY kind ORDER BY min(id)"))

    def select(self, query: str, *values) -> list[tuple]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def put_aside(self, kind: str, name: str, value: bytes, why: str) -> None:
        """Take out an entry that cannot be used; keep its bytes in a file with its name."""
        self.aside.mkdir(exist_ok=True)
        file = self.aside / quote(f"{kind}-{name}", safe=" ")[:200]
        file.write_bytes(value)
        self.delete(kind, name)
        self.tell(f"{kind} {name}: {why} (kept as {file})")

    def tell(self, loss: str) -> None:
        """Remember a loss for `up` to print."""
        log.error("Not brought back: %s", loss)
        self.lost.append(loss)

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.home / "state.db", check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(TABLES)
        return connection

    def _salvage(self, error: sqlite3.DatabaseError) -> None:
        """Put the damaged file aside, and take from it, row by row, what can be read."""
        self.aside.mkdir(exist_ok=True)
        damaged = self.aside / f"state-{time.strftime('%Y-%m-%d-%H-%M-%S')}.db"
        for suffix in ("", "-wal", "-shm"):
            file = self.home / f"state.db{suffix}"
            if file.exists():
                file.rename(f"{damaged}{suffix}")
        self._connection = self._opened()
        found = dict.fromkeys(("entry", "event"), 0)
        with closing(sqlite3.connect(damaged)) as old, self.transaction() as new:
            for table in found:
                for row in _readable(old, table):
                    marks = ", ".join("?" * len(row))
                    found[table] += new.execute(
                        f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row
                    ).rowcount
        rest = f"{found['entry']:,} entries and {found['event']:,} log lines of it were read"
        self.tell(f"{self.home / 'state.db'} is damaged ({error}): {rest}, the file is kept as {damaged}")


def _readable(connection: sqlite3.Connection, table: str) -> Iterator[tuple]:
    """Give the rows that can be read: a damaged page takes its own rows with it, not those after it."""
    last, step = 0, 1
    while step < 1 << 62:
        try:
            row = connection.execute(
                f"SELECT * FROM {table} WHERE id > ? ORDER BY id LIMIT 1", (last,)
            ).fetchone()
        except sqlite3.DatabaseError:
            last, step = last + step, 2 * step
            continue
        if row is None:
            return
        yield row
        last, step = row[0], 1

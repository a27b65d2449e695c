"""The journal ``file``: one SQLite file a process, in WAL mode with synchronous=FULL, in a directory that stays.

An append has returned when the file system says that it is on the disk. Threads that append at the same moment share
one commit. What the directory holds::

    <uuid>.journal      entries, each with a checksum
    <uuid>.lock         locked (flock) by the process that the journal belongs to; whoever gets the lock adopts it

A process that dies leaves both; the next that looks takes the lock, flushes what is left and removes the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..contracts.journal import Entry, JournalFailed
from ..contracts.pauses import point
from ..errors import ConfigError

log = logging.getLogger("datalayer.writes")

_FORMAT = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, space TEXT NOT NULL, name TEXT NOT NULL,
  kind TEXT NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL
)
"""
_DAMAGED = "CREATE TABLE IF NOT EXISTS damaged AS SELECT * FROM entries WHERE false"
_COLUMNS = "id, seq, space, name, kind, key, body, crc"
_READABLE = "id, seq, space, name, kind, CAST(key AS BLOB), CAST(body AS BLOB), crc"  # also after bytes have changed

#: Connections of a parent process: closing one in the child could remove the files under the parent.
_inherited: list[Any] = []


class FileJournal:
    """See :class:`datalayer.contracts.journal.Appending`. Thread-safe. ``damaged`` counts entries whose
    checksum is wrong, because bytes changed on the disk: they are set aside in the file, which is then kept."""

    durability = "survives the death of any process and of Redis; lost with this machine's disk"

    def __init__(self, lock: Lock) -> None:
        self._lock_file = lock
        self.id = lock.id
        self._state = threading.Lock()
        self._leading = threading.Lock()
        self._waiting: list[_Append] = []
        self._broken = ""
        self._connection = _open(lock.path.with_suffix(".journal"))
        (self.damaged,) = self._run("SELECT count(*) FROM damaged").fetchone()
        self._count, self._next = self._extent()

    def append(self, entries: Sequence[Entry]) -> None:
        mine = _Append(entries)
        with self._state:
            self._waiting.append(mine)
        with self._leading:
            if not mine.done:
                with self._state:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        if mine.error is not None:
            raise mine.error
        point("wb.after_fsync")

    def _commit(self, group: Sequence[_Append]) -> None:
        entries = [entry for part in group for entry in part.entries]
        error = self._write(entries)
        for part in group:
            part.done, part.error = True, error

    def _write(self, entries: Sequence[Entry]) -> JournalFailed | None:
        with self._state:
            if self._broken:
                return JournalFailed(self._broken, certain=True)
            rows = [_row(replace(entry, id=self._next + i)) for i, entry in enumerate(entries)]
            try:
                self._run("BEGIN IMMEDIATE")
                self._connection.executemany(f"INSERT INTO entries ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", rows)
            except sqlite3.Error as error:
                return self._failed(error, certain=True)
            try:
                self._run("COMMIT")
            except sqlite3.Error as error:
                return self._failed(error, certain=False)
            self._next += len(rows)
            self._count += len(rows)
        return None

    def _failed(self, error: sqlite3.Error, *, certain: bool) -> JournalFailed:
        with contextlib.suppress(sqlite3.Error):
            self._run("ROLLBACK")
        reason = f"the journal {self.id} failed ({type(error).__name__}: {error})"
        if not certain:
            # After a failed fsync nobody knows what a later one would vouch for: this journal takes no more.
            self._broken = reason
        log.error("%s", reason)
        return JournalFailed(reason, certain=certain)

    def read(self, after: int, limit: int) -> list[Entry]:
        return self._select("id > ?", after, limit)

    def applied(self, upto: int, limit: int) -> list[Entry]:
        return self._select("id <= ?", upto, limit)

    def _select(self, where: str, bound: int, limit: int) -> list[Entry]:
        query = f"SELECT {_READABLE} FROM entries WHERE {where} ORDER BY id LIMIT ?"
        try:
            with self._state:
                found = self._run(query, bound, limit).fetchall()
        except sqlite3.DatabaseError as error:
            raise JournalFailed(f"the journal {self.id} cannot be read ({error})", certain=True) from error
        return [entry for row in found if (entry := self._checked(row)) is not None]

    def _checked(self, row: tuple[Any, ...]) -> Entry | None:
        entry = Entry(*row[:-1])
        if _checksum(entry) == row[-1]:
            return entry
        log.error("entry %d of the journal %s is damaged on the disk; it is set aside", entry.id, self.id)
        with self._state:
            self.damaged += 1
            self._run("BEGIN IMMEDIATE")
            self._run("INSERT INTO damaged SELECT * FROM entries WHERE id = ?", entry.id)
            self._run("DELETE FROM entries WHERE id = ?", entry.id)
            self._run("COMMIT")
            self._count -= 1
        return None

    def remove(self, upto: int) -> None:
        with self._state:
            self._count -= self._run("DELETE FROM entries WHERE id <= ?", upto).rowcount

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Close it; an empty journal leaves nothing behind. A journal with entries is adopted by another process."""
        with self._state:
            empty = not self._count and not self._broken and not self.damaged
            self._connection.close()
        self._lock_file.release(remove=empty)

    def abandon(self) -> None:
        """In a child after a fork: the journal is the parent's."""
        _inherited.append(self._connection)
        self._lock_file.abandon()

    def _extent(self) -> tuple[int, int]:
        (count,) = self._run("SELECT count(*) FROM entries").fetchone()
        last = self._run("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
        return count, (last[0] if last else 0) + 1

    def _run(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, parameters)


class _Append:
    """A thread's entries on their way to the disk."""

    __slots__ = ("done", "entries", "error")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.done = False
        self.error: JournalFailed | None = None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=2000", "wal_autocheckpoint=1000"):
        connection.execute(f"PRAGMA {pragma}").close()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found not in (0, _FORMAT):
        connection.close()
        raise ConfigError(f"the journal {path} has format {found}; this release reads format {_FORMAT}")
    connection.execute(_TABLE)
    connection.execute(_DAMAGED)
    connection.execute(f"PRAGMA user_version={_FORMAT}")
    _sync_directory(path.parent)
    return connection


def _row(entry: Entry) -> tuple[Any, ...]:
    e = entry
    return e.id, e.seq, e.space, e.name, e.kind, e.key, e.body, _checksum(e)


def _checksum(entry: Entry) -> int:
    text = f"{entry.id} {entry.seq} {entry.kind} {entry.space}:{entry.name} {len(entry.key)} "
    return zlib.crc32(entry.body, zlib.crc32(entry.key, zlib.crc32(text.encode("utf-8", "surrogatepass"))))


def _sync_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class Lock:
    """The lock of one journal, held by this process."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.id = uuid.UUID(path.stem)
        self._number = number

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """The lock, or None while another process has it or when it is gone."""
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed it in between: then this is the lock of nothing.
            if os.stat(path).st_ino == os.fstat(number).st_ino:
                return cls(path, number)
        except OSError:
            pass
        os.close(number)
        return None

    def release(self, *, remove: bool) -> None:
        if remove:
            for suffix in (".journal", ".journal-wal", ".journal-shm", ".lock"):
                self.path.with_suffix(suffix).unlink(missing_ok=True)
        os.close(self._number)

    def abandon(self) -> None:
        os.close(self._number)  # flock belongs to the open file, which the parent still has


class Directory:
    """A directory of journals. ConfigError if it cannot be made or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"journal_path {str(path)!r} cannot be made ({error.strerror}); name another") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"journal_path {str(path)!r} cannot be written by this process; name another")

    def create(self) -> FileJournal:
        """A new journal of this process."""
        lock = Lock.take(self.path / f"{uuid.uuid4()}.lock")
        assert lock is not None
        return FileJournal(lock)

    def census(self) -> dict[str, int]:
        """How many entries each journal has, whoever owns it; looks only."""
        found = {}
        for path in sorted(self.path.glob("*.journal")):
            with contextlib.suppress(sqlite3.Error):  # gone meanwhile
                connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
                with contextlib.closing(connection):
                    (found[path.stem],) = connection.execute("SELECT count(*) FROM entries").fetchone()
        return found

    def orphans(self) -> Iterator[FileJournal]:
        """The journals whose owners are gone; each is this process's own from now on."""
        for path in sorted(self.path.glob("*.lock")):
            if path.with_suffix(".journal").exists() and (lock := Lock.take(path)) is not None:
                log.info("adopting the journal %s, whose owner is gone", lock.id)
                yield FileJournal(lock)

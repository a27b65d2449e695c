"""Sequence numbers: larger than those of every write acknowledged before, in whatever way they are made.

With Redis a number is the shard's epoch and a count that Redis keeps (:mod:`datalayer.tiers.l2.behind`). Without it the
processes of one machine share a count in the journals' directory, under an epoch that the database hands out: a new one
whenever no process was left to remember the count. The database also remembers which of the two ways is in use, and
with how many shards: when that changes, all epochs are moved up, so that nothing new is taken for old.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ..contracts.journal import pack_seq
from ..tiers.upsert import insert_of
from .tables import state

_WORDS = struct.Struct("<QQ")


def adopt_layout(engine: sa.Engine, layout: str) -> int:
    """What to add to every epoch of this layout (``local`` or ``redis:<shards>``)."""
    with engine.begin() as connection:
        row = _locked(connection, layout)
        if row.layout == layout:
            return int(row.base)
        base = int(row.base) + _top(connection, row)
        connection.execute(sa.update(state).values(layout=layout, base=base, counter=0))
        return base


def next_epoch(engine: sa.Engine) -> int:
    """A local epoch that nobody ever had."""
    with engine.begin() as connection:
        row = _locked(connection, "local")
        connection.execute(sa.update(state).values(counter=row.counter + 1))
        return int(row.base) + int(row.counter) + 1


def _locked(connection: sa.Connection, layout: str) -> Any:
    """The row of the state, made if it is missing, locked until the end of the transaction."""
    insert = insert_of(connection.dialect.name)(state)
    # On SQLite it is this statement that takes the lock.
    connection.execute(insert.values(id=1, layout=layout, base=0, counter=0).on_conflict_do_nothing())
    return connection.execute(sa.select(state).with_for_update()).one()


def _top(connection: sa.Connection, row: Any) -> int:
    """The largest epoch that was used under the layout of a row."""
    if row.layout == "local":
        return int(row.counter)
    return int(connection.execute(sa.text("SELECT max(epoch) FROM datalayer_fence")).scalar() or 0)


class OwnSequence:
    """The numbers of one process that shares them with nobody. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._lock = threading.Lock()
        self._last = pack_seq(next_epoch(engine), 0)

    def next(self, how_many: int) -> range:
        with self._lock:
            first = self._last + 1
            self._last += how_many
            return range(first, first + how_many)

    def close(self) -> None:
        """Holds nothing."""


class SharedSequence:
    """The numbers of all processes on this machine that use one directory. Thread-safe; a number costs a file lock."""

    def __init__(self, engine: sa.Engine, directory: Path) -> None:
        self._thread_lock = threading.Lock()
        self._file = os.open(directory / "sequence", os.O_RDWR | os.O_CREAT, 0o600)
        self._present = os.open(directory / "present", os.O_RDWR | os.O_CREAT, 0o600)
        with self._thread_lock, _Locked(self._file):
            if self._alone():
                self._write(next_epoch(engine), 0)
            fcntl.flock(self._present, fcntl.LOCK_SH)

    def _alone(self) -> bool:
        """Whether no other process is there that has seen the count grow: its file may be from before a power cut."""
        try:
            fcntl.flock(self._present, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def next(self, how_many: int) -> range:
        with self._thread_lock, _Locked(self._file):
            epoch, count = _WORDS.unpack(os.pread(self._file, _WORDS.size, 0))
            self._write(epoch, count + how_many)
        first = pack_seq(epoch, count + 1)
        return range(first, first + how_many)

    def _write(self, epoch: int, count: int) -> None:
        os.pwrite(self._file, _WORDS.pack(epoch, count), 0)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._present)


class _Locked:
    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        fcntl.flock(self._number, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._number, fcntl.LOCK_UN)

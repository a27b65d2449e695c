"""Writes that the database refused: tried again a few times, then kept for somebody to look at.

A refused write leaves the journal at once, in the transaction that passes it, so that it holds nothing up. It is then
``waiting``; after the last try it is ``dead``. ``done`` is one that has succeeded and whose overlay is being cleared.
The sequence number stays with it: a try that comes after a newer write of the same row changes nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ..contracts.journal import Entry, Kind
from .tables import letters as table


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A write that used up its tries. ``key`` is the row's primary key as text; the row itself is not shown."""

    id: int
    table: str
    key: str
    kind: Kind
    attempts: int
    reason: str
    first_failed: dt.datetime
    last_failed: dt.datetime

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found = asdict(self)
        return found | {name: found[name].isoformat() for name in ("first_failed", "last_failed")}


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as the flusher sees it."""

    id: int
    entry: Entry
    state: str
    attempts: int


class LetterBox:
    """The table of letters; every method works on the connection that it is given."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def put(self, connection: sa.Connection, entry: Entry, reason: str, *, dead: bool, pause: float) -> None:
        now = self._clock()
        row = {name: getattr(entry, name) for name in ("seq", "space", "name", "kind", "key", "body")}
        row |= {"state": "dead" if dead else "waiting", "attempts": 1, "reason": reason}
        connection.execute(sa.insert(table).values(**row, first_at=now, last_at=now, next_at=now + pause))

    def due(self, connection: sa.Connection, limit: int, *, now: float | None = None) -> list[Letter]:
        """Letters whose turn it is, locked for this transaction."""
        moment = self._clock() if now is None else now
        ready = sa.or_(table.c.state == "done", sa.and_(table.c.state == "waiting", table.c.next_at <= moment))
        found = sa.select(table).where(ready).order_by(table.c.seq).limit(limit).with_for_update(skip_locked=True)
        return [
            Letter(r.id, Entry(0, r.seq, r.space, r.name, r.kind, r.key, r.body), r.state, r.attempts)
            for r in connection.execute(found)
        ]

    def failed(self, connection: sa.Connection, letter: Letter, reason: str, *, dead: bool, pause: float) -> None:
        now = self._clock()
        values = {"attempts": letter.attempts + 1, "reason": reason, "last_at": now, "next_at": now + pause}
        self._set(connection, [letter.id], state="dead" if dead else "waiting", **values)

    def done(self, connection: sa.Connection, ids: Sequence[int]) -> None:
        self._set(connection, ids, state="done")

    def _set(self, connection: sa.Connection, ids: Sequence[int], **values: Any) -> None:
        connection.execute(sa.update(table).where(table.c.id.in_(ids)).values(values))

    def forget(self, connection: sa.Connection, ids: Sequence[int]) -> None:
        connection.execute(sa.delete(table).where(table.c.id.in_(ids), table.c.state == "done"))

    def waiting(self, connection: sa.Connection) -> int:
        return int(connection.scalar(sa.select(sa.func.count()).where(table.c.state == "waiting")) or 0)


class DeadLetters:
    """``layer.dead_letters()``: what was refused for good. Every call is a transaction of its own. Thread-safe."""

    def __init__(
        self,
        engine: sa.Engine,
        name_of: Callable[[str], str],
        wake: Callable[[], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._name_of = name_of
        self._wake = wake
        self._clock = clock

    def list(self, *, limit: int = 100) -> Sequence[DeadLetter]:
        """The letters, oldest write first."""
        query = sa.select(table).where(table.c.state == "dead").order_by(table.c.seq).limit(limit)
        with self._engine.connect() as connection:
            return [self._letter(row) for row in connection.execute(query)]

    def _letter(self, row: Any) -> DeadLetter:
        moments = (dt.datetime.fromtimestamp(at, dt.UTC) for at in (row.first_at, row.last_at))
        return DeadLetter(row.id, self._name_of(row.space), row.name, row.kind, row.attempts, row.reason, *moments)

    def __len__(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).where(table.c.state == "dead")) or 0)

    def retry(self, ids: Iterable[int] | None = None) -> int:
        """Try these, or all, again from the start, at once; how many that are. A newer write of a row still wins."""
        values = {"state": "waiting", "attempts": 0, "next_at": self._clock()}
        with self._engine.begin() as connection:
            found = connection.execute(sa.update(table).where(*self._among(ids)).values(values)).rowcount
        self._wake()  # this process's flusher, if it has one; else that of any other finds them
        return int(found)

    def drop(self, ids: Iterable[int] | None = None) -> int:
        """Throw these away, or all; how many those were. Nothing brings them back."""
        with self._engine.begin() as connection:
            return int(connection.execute(sa.delete(table).where(*self._among(ids))).rowcount)

    def _among(self, ids: Iterable[int] | None) -> Collection[Any]:
        dead = table.c.state == "dead"
        return [dead] if ids is None else [dead, table.c.id.in_(tuple(ids))]

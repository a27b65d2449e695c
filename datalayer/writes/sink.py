"""Into the database: batches of a journal, each in one transaction with the journal's offset, so that no entry is
applied twice.

The order within a batch is: for every row the newest whole write and the additions after it, parents before children;
then the deletions, children before parents. When the database refuses that, the earlier half is tried, then the later
one, and so on: in the end each entry in the order of the acknowledgements, which was possible when they were made. What
is refused by itself becomes a letter.

Two flushers, of different journals, may carry writes of one row. The row's sequence number decides: an older write
changes nothing. A deleted row has no such column; its number is kept in ``datalayer_wb_gone``. So that an insert does
not overtake the deletion it cannot see yet, batches with deletions have a table to themselves for a moment.
"""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ..contracts.coherence import WriteSet
from ..contracts.journal import MOST_COUNT, Entry, Journal
from ..contracts.pauses import point
from ..errors import DecodeError
from ..tiers.upsert import insert_of
from .failures import is_transient, pause_after, reason_of
from .letters import Letter, LetterBox
from .shapes import Shape, Shapes
from .tables import applied, gone

log = logging.getLogger("datalayer.writes")


@dataclass(slots=True)
class Batch:
    """What became of some entries. ``written``: the newest of each row that the database has now, or something newer;
    ``waiting``: to be tried again; ``dead``: with the reasons; ``passed``: all of them; ``upto``: the
    journal is applied up to this id; ``leftovers``: entries that were applied before and are still in it."""

    written: list[Entry] = field(default_factory=list)
    waiting: list[Entry] = field(default_factory=list)
    dead: list[tuple[Entry, str]] = field(default_factory=list)
    leftovers: list[Entry] = field(default_factory=list)
    passed: list[Entry] = field(default_factory=list)
    upto: int = 0
    busy: bool = False

    @property
    def settled(self) -> list[int]:
        """The numbers of all entries that need not be kept in mind any more."""
        waiting = {entry.seq for entry in self.waiting}
        return [entry.seq for entry in self.passed if entry.seq not in waiting]

    @property
    def over(self) -> list[Entry]:
        """Entries whose overlays must go."""
        return [*self.written, *(entry for entry, _ in self.dead), *self.leftovers]


class _Refused(Exception):
    """The database does not want an entry."""


class Sink:
    """Thread-safe: every call uses a connection of its own. Database errors that are no entry's fault come through."""

    def __init__(
        self,
        engine: sa.Engine,
        shapes: Shapes,
        write_set: Callable[[sa.Connection], WriteSet],
        box: LetterBox,
        *,
        max_retry: int,
    ) -> None:
        self._engine = engine
        self._shapes = shapes
        self._write_set = write_set
        self._box = box
        self._max_retry = max_retry
        self._postgres = engine.dialect.name == "postgresql"

    # -- a journal -------------------------------------------------------------------------------------------------

    def flush(self, journal: Journal, limit: int, *, wait: bool = False) -> Batch:
        """Apply the next entries of a journal. ``busy``: another process is doing that, and ``wait`` is not set."""
        with self._begin() as connection:
            last = self._offset(connection, journal.id, wait)
            if last is None:
                return Batch(busy=True)
            leftovers = journal.applied(last, limit)
            entries = journal.read(last, limit)
            batch = self._apply(connection, entries)
            batch.leftovers, batch.passed = leftovers, entries
            batch.upto = entries[-1].id if entries else last
            if entries:
                self._advance(connection, journal.id, batch.upto)
            self._touch(connection, batch)
        if entries:
            point("wb.after_db_commit")
        return batch

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def _offset(self, connection: sa.Connection, journal: uuid.UUID, wait: bool) -> int | None:
        """How far the journal is applied; its row stays locked, so that there is one flusher at a time."""
        mine = applied.c.journal == journal
        if not self._postgres:  # a statement that writes is what takes the lock
            connection.execute(sa.update(applied).where(mine).values(last_id=applied.c.last_id))
        select = sa.select(applied.c.last_id).where(mine)
        if (found := connection.execute(select.with_for_update(skip_locked=not wait)).scalar()) is not None:
            return int(found)
        if connection.execute(select).scalar() is not None:
            return None
        insert = insert_of(connection.dialect.name)(applied).values(journal=journal, last_id=0)
        made = connection.execute(insert.on_conflict_do_nothing().returning(applied.c.last_id)).scalar()
        return None if made is None else 0

    def _advance(self, connection: sa.Connection, journal: uuid.UUID, upto: int) -> None:
        connection.execute(sa.update(applied).where(applied.c.journal == journal).values(last_id=upto))

    def applied_upto(self, journal: uuid.UUID) -> int:
        """How far a journal is applied, as committed."""
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(applied.c.last_id).where(applied.c.journal == journal)) or 0)

    def forget(self, journal: uuid.UUID) -> None:
        """A journal that is gone for good needs no offset."""
        with self._begin() as connection:
            connection.execute(sa.delete(applied).where(applied.c.journal == journal))

    # -- single writes ---------------------------------------------------------------------------------------------

    def write(self, entries: Sequence[Entry]) -> None:
        """Apply entries that no journal has; what the database refuses is raised, and nothing is written."""
        with self._begin() as connection:
            self._together(connection, coalesced(entries))
            self._touch(connection, Batch(written=list(entries)))

    def write_next(self, entry: Entry, floor: int) -> None:
        """Apply an entry after everything that the row has seen in the epoch of ``floor`` and before.

        A write of a later epoch came meanwhile, and stays: that epoch's numbers are not ours to give.
        """
        with self._begin() as connection:
            shape = self._shape(entry)
            self._fence(connection, [shape], deleting=[shape])
            tomb = self._gone(connection, shape, [entry]).get(entry.name, 0)
            seen = max(shape.number_of(connection, entry) or 0, tomb)
            if seen >= floor | MOST_COUNT and entry.kind != "add":
                return
            numbered = Entry(0, max(floor, seen + 1), *_rest(entry))
            self._together(connection, [numbered])
            self._touch(connection, Batch(written=[numbered]))

    def recover(self, entries: Sequence[Entry]) -> Batch:
        """Apply whole writes that a journal has lost, as far as nothing newer is there."""
        with self._begin() as connection:
            batch = self._apply(connection, entries)
            batch.passed = list(entries)
            self._touch(connection, batch)
        return batch

    # -- letters ---------------------------------------------------------------------------------------------------

    def try_letters(self, limit: int, *, now: float | None = None) -> tuple[Batch, list[int]]:
        """Try refused writes whose turn has come; the batch, and the letters to forget once it is cleared."""
        batch, done = Batch(), list[Letter]()
        with self._begin() as connection:
            for letter in self._box.due(connection, limit, now=now):
                reason = None if letter.state == "done" else self._alone(connection, [letter.entry])
                if reason is None:
                    done.append(letter)
                    continue
                dead = letter.attempts >= self._max_retry
                self._box.failed(connection, letter, reason, dead=dead, pause=pause_after(letter.attempts))
                if dead:
                    batch.dead.append((letter.entry, reason))
            batch.written = [letter.entry for letter in done]
            if done:
                self._box.done(connection, [letter.id for letter in done])
            self._touch(connection, batch)
        return batch, [letter.id for letter in done]

    def forget_letters(self, ids: Sequence[int]) -> None:
        with self._begin() as connection:
            self._box.forget(connection, ids)

    def waiting_letters(self) -> int:
        with self._engine.connect() as connection:
            return self._box.waiting(connection)

    def bury(self, entries: Iterable[Entry], reason: str) -> None:
        """Make letters of entries without trying them."""
        with self._begin() as connection:
            for entry in entries:
                self._box.put(connection, entry, reason, dead=True, pause=0.0)

    # -- applying --------------------------------------------------------------------------------------------------

    def _apply(self, connection: sa.Connection, entries: Sequence[Entry]) -> Batch:
        batch, fine = Batch(), list[Entry]()
        self._part(connection, sorted(entries, key=lambda entry: entry.seq), batch, fine)
        batch.written = _newest(fine)
        return batch

    def _part(self, connection: sa.Connection, entries: Sequence[Entry], batch: Batch, fine: list[Entry]) -> None:
        """Apply entries together or, if that is refused, the earlier half and then the later one."""
        if not entries:
            return
        reason = self._alone(connection, entries)
        if reason is None:
            fine += entries
        elif len(entries) > 1:
            half = len(entries) // 2
            self._part(connection, entries[:half], batch, fine)
            self._part(connection, entries[half:], batch, fine)
        else:
            self._refuse(connection, entries[0], reason, batch)

    def _refuse(self, connection: sa.Connection, entry: Entry, reason: str, batch: Batch) -> None:
        dead = self._max_retry == 0
        self._box.put(connection, entry, reason, dead=dead, pause=pause_after(0))
        log.warning("a queued write of %s was refused: %s", entry.space, reason)
        if dead:
            batch.dead.append((entry, reason))
        else:
            batch.waiting.append(entry)

    def _alone(self, connection: sa.Connection, entries: Sequence[Entry]) -> str | None:
        """Apply entries, all of them or none; why they were refused, or None."""
        try:
            with connection.begin_nested():
                self._together(connection, coalesced(entries))
        except _Refused as error:
            return str(error)
        except DecodeError as error:
            return str(error)
        except Exception as error:
            if is_transient(error):
                raise
            return reason_of(error)
        return None

    def _together(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        by_shape: dict[Shape, list[Entry]] = {}
        for entry in entries:
            by_shape.setdefault(self._shape(entry), []).append(entry)
        shapes = sorted(by_shape, key=self._shapes.rank)
        parts = {shape: _by_kind(by_shape[shape]) for shape in shapes}
        self._fence(connection, shapes, deleting=[shape for shape in shapes if parts[shape]["delete"]])
        for shape in shapes:
            self._set(connection, shape, parts[shape]["set"])
        for shape in shapes:
            self._add(connection, shape, parts[shape]["add"])
        for shape in reversed(shapes):
            self._delete(connection, shape, parts[shape]["delete"])

    def _shape(self, entry: Entry) -> Shape:
        shape = self._shapes.get(entry.space)
        if shape is None:
            raise _Refused("no write-behind model of this process has this table")
        return shape

    def _fence(self, connection: sa.Connection, shapes: Iterable[Shape], *, deleting: Sequence[Shape]) -> None:
        """Nobody inserts rows of a table while another deletes some of which it does not know yet."""
        if not self._postgres:
            return
        locks = sorted((zlib.crc32(shape.space.encode()), shape in deleting) for shape in shapes)
        take = [sa.func.pg_advisory_xact_lock, sa.func.pg_advisory_xact_lock_shared]
        # Constants of type int: the pair of a class of locks and one of them.
        calls = [take[not alone](sa.literal(_LOCKS), sa.literal(n - 2**31)) for n, alone in locks]
        for call in calls:
            connection.execute(sa.select(call))

    def _set(self, connection: sa.Connection, shape: Shape, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        tombs = self._gone(connection, shape, entries)
        wanted = [entry for entry in entries if entry.seq > tombs.get(entry.name, 0)]
        rows = [shape.parameters(entry) for entry in sorted(wanted, key=lambda entry: entry.key)]
        if rows:
            shape.upsert(connection, rows)
        risen = [entry.name for entry in wanted if entry.name in tombs]
        if risen:
            connection.execute(sa.delete(gone).where(gone.c.space == shape.space, gone.c.name.in_(risen)))

    def _gone(self, connection: sa.Connection, shape: Shape, entries: Sequence[Entry]) -> Mapping[str, int]:
        names = [entry.name for entry in entries]
        found = sa.select(gone.c.name, gone.c.seq).where(gone.c.space == shape.space, gone.c.name.in_(names))
        return {row.name: row.seq for row in connection.execute(found)}

    def _add(self, connection: sa.Connection, shape: Shape, entries: Sequence[Entry]) -> None:
        if not entries or shape.add(connection, entries) == len(entries):
            return
        # Some were replaced by newer whole writes, which is as it should be, or have no row.
        tombs = self._gone(connection, shape, entries)
        for entry in entries:
            if shape.number_of(connection, entry) is None and entry.seq > tombs.get(entry.name, 0):
                raise _Refused("there is no row to add to")

    def _delete(self, connection: sa.Connection, shape: Shape, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        ordered = sorted(entries, key=lambda entry: entry.key)
        shape.delete(connection, ordered)
        insert = insert_of(connection.dialect.name)(gone)
        keep = insert.on_conflict_do_update(
            index_elements=[gone.c.space, gone.c.name],
            set_={"seq": insert.excluded.seq},
            where=gone.c.seq < insert.excluded.seq,
        )
        connection.execute(keep, [{"space": shape.space, "name": e.name, "seq": e.seq} for e in ordered])

    def _touch(self, connection: sa.Connection, batch: Batch) -> None:
        """Tell the caches what this transaction changes, or will never change."""
        written = self._write_set(connection) if batch.written or batch.dead else WriteSet()
        for entry in (*batch.written, *(entry for entry, _ in batch.dead)):
            shape = self._shapes.get(entry.space)
            if shape is not None:
                key = shape.key_of(entry)
                written.touch(shape.schema.space, key, shape.schema.tables)
                written.vague.update(shape.schema.tables)


_LOCKS = 0x646C_7762  # "dlwb"


def coalesced(entries: Sequence[Entry]) -> list[Entry]:
    """For every row the newest whole write, and the additions after it, in the order of their numbers."""
    kept: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.seq):
        row = entry.space, entry.name
        if entry.kind == "add":
            kept.setdefault(row, []).append(entry)
        else:
            kept[row] = [entry]
    return [entry for group in kept.values() for entry in group]


def _newest(entries: Iterable[Entry]) -> list[Entry]:
    found: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.seq):
        found[entry.space, entry.name] = entry
    return list(found.values())


def _by_kind(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    parts: dict[str, list[Entry]] = {"set": [], "add": [], "delete": []}
    for entry in entries:
        parts[entry.kind].append(entry)
    return parts


def _rest(entry: Entry) -> tuple[Any, ...]:
    return entry.space, entry.name, entry.kind, entry.key, entry.body


__all__ = ["Batch", "Sink", "coalesced"]

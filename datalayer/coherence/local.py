"""Coherence within one process: turns a transaction's write set into changes of the spaces that it concerns.

``mark`` is called before COMMIT with the write set complete and the row locks held; ``finish`` after it. In between no
cache of this process serves or keeps what is being written. Nothing here has a time limit: a commit that takes an hour
is as safe as one that takes a microsecond.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..contracts.coherence import Change, Outcome, Space, WriteSet

log = logging.getLogger("datalayer.coherence")


@dataclass(eq=False, slots=True)
class Marks:
    """The changes that one committing transaction announced."""

    write_set: WriteSet
    changes: list[tuple[Space, Change]] = field(default_factory=list)


class Coherence:
    """The spaces of one layer and the transactions that are being committed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spaces: weakref.WeakSet[Any] = weakref.WeakSet()
        self._active: set[Marks] = set()
        self.unknown = 0

    def register(self, space: Space) -> None:
        """Add a space; commits that are under way are announced to it before it serves its first read."""
        with self._lock:
            for marks in self._active:
                self._announce(marks, [space])
            self._spaces.add(space)

    def mark(self, write_set: WriteSet) -> Marks:
        marks = Marks(write_set)
        with self._lock:
            self._active.add(marks)
            self._announce(marks, self._spaces)
        return marks

    def _announce(self, marks: Marks, spaces: Iterable[Space]) -> None:
        for space in spaces:
            change = change_for(space, marks.write_set)
            if change:
                space.begin(change)
                marks.changes.append((space, change))

    def finish(self, marks: Marks, outcome: Outcome) -> None:
        """Lift the marks. An unknown outcome leaves them: those rows are read from the database from now on."""
        if outcome is Outcome.UNKNOWN:
            self.unknown += 1
            log.warning("outcome of a COMMIT is unknown; its rows bypass the caches of this process from now on")
            return
        with self._lock:
            self._active.discard(marks)
            changes = list(marks.changes)
        for space, change in changes:
            space.end(change, outcome)

    def forget(self, write_set: WriteSet) -> None:
        """Drop what ``write_set`` names from every tier, as if a transaction with it had just committed."""
        self.finish(self.mark(write_set), Outcome.COMMITTED)

    def pending(self) -> int:
        return len(self._active)

    def reset_after_fork(self) -> None:
        """The parent's transactions are not ours: only its spaces are."""
        self._lock = threading.Lock()
        self._active = set()


def change_for(space: Space, written: WriteSet) -> Change:
    """What a write set means for one space.

    Exact keys of the space's own base table stay exact. A class that merely includes a touched table loses everything.
    """
    if written.everything or not space.tables.isdisjoint(written.tables):
        return Change(whole=True)
    for base, extent in written.extent.items():
        if base != space.base_table and not space.tables.isdisjoint(extent):
            return Change(whole=True)
    keys = written.keys.get(space.base_table, ())
    return Change(
        keys=frozenset(key[0] if len(key) == 1 else key for key in keys),
        births=not space.tables.isdisjoint(written.births),
    )

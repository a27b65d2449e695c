"""The commits of one process: turns a transaction's write set into changes of the spaces that it concerns.

``mark`` is called before COMMIT with the write set complete and the row locks held; ``finish`` after it. In between no
cache of this process serves or keeps what is being written, and through ``remote`` no other process does. Nothing here
has a time limit: a commit that takes an hour is as safe as one that takes a microsecond.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..contracts.causal import UNHEARD, Token
from ..contracts.coherence import Change, Image, Outcome, Space, WriteSet
from .spaces import Spaces
from .tags import Tags
from .touched import Touched, query_tags, touched

log = logging.getLogger("datalayer.coherence")


class Remote(Protocol):
    """The half of a commit that other processes see. Thread-safe."""

    def announce(self, names: Touched, connection: Any, *, patient: bool, image: Image | None) -> Any:
        """Before COMMIT, on the connection that will send it; returns what :meth:`lift` wants.

        ``patient``: return only when no other process serves from its memory what is announced. ``image``: rows that
        may be left in the shared tier.
        """

    def token(self, announced: Any) -> Token:
        """What other processes must have heard to know of the write."""

    def lift(self, announced: Any, outcome: Outcome) -> None:
        """After it."""

    def drop(self, names: Touched) -> None:
        """Forget now what a write that is over may have changed."""

    def ended(self, announced: Any) -> bool:
        """Whether a transaction whose outcome was not told has ended by now."""


class Alone:
    """The remote half of a layer without a shared tier."""

    def announce(self, names: Touched, connection: Any, *, patient: bool, image: Image | None) -> None:
        """There is nobody to tell."""

    def token(self, announced: Any) -> Token:
        return UNHEARD

    def lift(self, announced: Any, outcome: Outcome) -> None:
        """There is nobody to tell."""

    def drop(self, names: Touched) -> None:
        """There is nobody to tell."""

    def ended(self, announced: Any) -> bool:
        return False


@dataclass(eq=False, slots=True)
class Marks:
    """The changes that one committing transaction announced."""

    write_set: WriteSet
    changes: list[tuple[Space, Change]] = field(default_factory=list)
    remote: Any = None
    token: Token = ()
    tags: tuple[str, ...] = ()
    kept: dict[Space, Any] = field(default_factory=dict)


class Coherence:
    """The spaces of one layer and the transactions that are being committed. Thread-safe.

    ``discover`` makes every space of the layer known, whether this process has read it or not; ``tables`` names every
    table. ``tags`` are those of cached queries. ``finished`` counts commits that wrote, once they are over.
    """

    def __init__(
        self,
        remote: Remote | None = None,
        discover: Callable[[], object] = bool,
        tables: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.remote: Remote = remote or Alone()
        self.tags = Tags()
        self.unknown = 0
        self.finished = 0
        self._discover = discover
        self._tables = tables
        self._lock = threading.Lock()
        self._spaces = Spaces()
        self._active: set[Marks] = set()
        self._lost: list[Marks] = []

    def register(self, space: Space) -> None:
        """Add a space; commits that are under way are announced to it before it serves its first read."""
        with self._lock:
            for marks in self._active:
                self._announce(marks, [space])
            self._spaces.add(space)

    def spaces(self) -> list[Space]:
        with self._lock:
            return list(self._spaces)

    def mark(self, write_set: WriteSet, connection: Any = None, image: Image | None = None) -> Marks:
        """Announce a commit, here and to the other processes. What ``remote`` raises leaves no mark here.

        ``image``: rows that the caches are to hold once the commit has succeeded.
        """
        self._see_all()
        marks = self._begin(write_set)
        try:
            names = self._names(marks)
            patient = any(space.strict_local for space, _ in marks.changes)
            marks.remote = self.remote.announce(names, connection, patient=patient, image=image)
        except BaseException:
            self._end(marks, Outcome.ROLLED_BACK)
            raise
        if image is not None:  # only now: our own message on the bus would take the leave away again
            marks.kept[image.space] = image.space.keep(image.rows)
        marks.token = self.remote.token(marks.remote)
        return marks

    def _see_all(self) -> None:
        """Other processes may have read models that this one has not: their rows are named, too."""
        if not isinstance(self.remote, Alone):
            self._discover()

    def _begin(self, write_set: WriteSet) -> Marks:
        """Announce a change here."""
        marks = Marks(write_set, tags=tuple(query_tags(write_set, self._tables() if write_set.everything else ())))
        self.tags.begin(marks.tags)
        with self._lock:
            self._active.add(marks)
            self._announce(marks, self._spaces.concerned(write_set))
        return marks

    def _names(self, marks: Marks) -> Touched:
        if isinstance(self.remote, Alone):
            return Touched(narrow=marks.tags)
        with self._lock:
            return touched(marks.write_set, marks.changes, self._spaces, marks.tags)

    def _announce(self, marks: Marks, spaces: Iterable[Space]) -> None:
        for space in spaces:
            change = change_for(space, marks.write_set)
            if change:
                space.begin(change)
                marks.changes.append((space, change))

    def finish(self, marks: Marks, outcome: Outcome) -> None:
        """Lift the marks. An unknown outcome leaves them until :meth:`settle` learns it."""
        self.finished += 1
        self.remote.lift(marks.remote, outcome)
        if outcome is Outcome.UNKNOWN:
            self.unknown += 1
            self._lost.append(marks)
            log.warning("outcome of a COMMIT is unknown; its rows bypass the caches until the database tells it")
            return
        self._end(marks, outcome)

    def _end(self, marks: Marks, outcome: Outcome) -> None:
        with self._lock:
            self._active.discard(marks)
            changes = list(marks.changes)
        for space, change in changes:
            space.end(change, marks.kept.get(space) if outcome is Outcome.COMMITTED else None)
        self.tags.end(marks.tags)

    def settle(self) -> None:
        """Lift the marks of transactions whose outcome was not told and that have ended since."""
        for marks in list(self._lost):
            if self.remote.ended(marks.remote):
                self._lost.remove(marks)
                self._end(marks, Outcome.UNKNOWN)  # it has ended, nobody says how

    def forget(self, write_set: WriteSet) -> None:
        """Drop what ``write_set`` names from every tier, as if a transaction with it had just committed."""
        self._see_all()
        marks = self._begin(write_set)
        try:
            self.remote.drop(self._names(marks))
        finally:
            self._end(marks, Outcome.COMMITTED)

    def suspend(self, write_set: WriteSet) -> Marks:
        """Bypass the caches of this process for what ``write_set`` names, until :meth:`resume`."""
        return self._begin(write_set)

    def resume(self, suspended: Marks) -> None:
        self._end(suspended, Outcome.UNKNOWN)

    # -- what other processes say ----------------------------------------------------------------------------------

    def heard(self, names: Sequence[str]) -> None:
        """Other processes are changing these keys (``<space>:<id>``) and tags (``t:<tag>``)."""
        for name in names:
            kind, tag = name[:3], name[3:]
            if kind in ("t:=", "t:+"):
                for space in self._of(tag):
                    space.heard_whole() if kind == "t:=" else space.heard_births()
            elif kind in ("t:?", "t:!"):
                self.tags.heard((name[2:],))
            elif not kind.startswith("t:"):
                owner, _, id = name.partition(":")
                for space in self._of(owner):
                    space.heard(id)

    def lost(self) -> None:
        """Something was not heard: anything may have changed."""
        self.tags.lost()
        for space in self.spaces():
            space.heard_whole()

    def _of(self, name: str) -> list[Space]:
        """The spaces of this name."""
        with self._lock:
            return self._spaces.named(name)

    def pending(self) -> int:
        return len(self._active)

    def reset_after_fork(self) -> None:
        """The parent's transactions are not ours: only its spaces are."""
        self._lock = threading.Lock()
        self._active, self._lost = set(), []
        self.tags.reset_after_fork()


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
        reborn=not space.tables.isdisjoint(written.reborn),
    )

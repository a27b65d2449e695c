"""Generations of tags in this process: whether anything changed that a cached result depends on.

The rule of :mod:`datalayer.coherence.guard` for results instead of rows. Whoever wants to keep a result takes a ticket
of its tags *before* it is read; the ticket holds while nobody here commits, and nobody elsewhere announces, a change of
one of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_MOST = 100_000


class TagTicket(NamedTuple):
    """What a reader saw before it read. ``era`` counts the times when everything may have changed."""

    era: int
    generations: tuple[int, ...]


class Tags:
    """Thread-safe; tickets are taken and checked without a lock. At most 100,000 tags are told apart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._era = 0
        self._changes = 0
        self._generations: dict[str, int] = {}
        self._marks: Counter[str] = Counter()

    def ticket(self, tags: Sequence[str]) -> TagTicket | None:
        """Leave to keep a result that depends on ``tags``, or None while a change of one is being committed."""
        generations = self._generations
        taken = TagTicket(self._era, tuple([generations.get(tag, 0) for tag in tags]))
        return None if any(tag in self._marks for tag in tags) else taken

    def holds(self, tags: Sequence[str], ticket: TagTicket) -> bool:
        """Whether nothing has happened to ``tags`` since the ticket was taken."""
        generations = self._generations
        return ticket.era == self._era and ticket.generations == tuple([generations.get(tag, 0) for tag in tags])

    def begin(self, tags: Iterable[str]) -> None:
        """A change of these is about to be committed."""
        with self._lock:
            self._marks.update(tags)
            self._move(tags)

    def end(self, tags: Iterable[str]) -> None:
        """The transaction is over."""
        with self._lock:
            self._move(tags)
            for tag in tags:
                self._marks[tag] -= 1
                if self._marks[tag] <= 0:
                    del self._marks[tag]

    def heard(self, tags: Iterable[str]) -> None:
        """Another process changes these."""
        with self._lock:
            self._move(tags)

    def lost(self) -> None:
        """Anything may have changed."""
        with self._lock:
            self._forget()

    def _move(self, tags: Iterable[str]) -> None:
        for tag in tags:
            self._changes += 1
            self._generations[tag] = self._changes
        if len(self._generations) > _MOST:
            self._forget()

    def _forget(self) -> None:
        self._era += 1
        self._generations.clear()

    def reset_after_fork(self) -> None:
        """The parent's transactions are not ours."""
        self._lock = threading.Lock()
        self._marks.clear()
        self._forget()

"""Who may put what into L1: tickets against slow reads, marks against transactions that are about to commit.

A reader takes a ticket *before* it asks L2 or the database and shows it again when it puts the value. Every write that
begins or ends, and every put, changes the tickets of its keys, so a value that was read before the change is refused.
While a transaction that wrote a key is committing, the key is marked: readers of a marked key go to the database and
keep nothing. This is section 6.1 of the Epoch-Fenced Marks protocol, for one process.

Entries are dropped when the mark is set, before COMMIT, so the lock-free reader of L1 needs no check of its own: an
entry that is in the index is valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol, Unpack

from ..contracts.coherence import ABSENT, Change
from ..contracts.tier import Keeping, Put

_STRIPES = 1024


class LocalTier(Protocol):
    """What the guard needs of L1."""

    lock: Any

    def put(self, key: Hashable, value: Any, **how: Unpack[Keeping]) -> None: ...

    def put_batch(self, items: Iterable[Put], until: float = inf) -> None: ...

    def drop(self, key: Hashable) -> bool: ...

    def drop_if(self, predicate: Any) -> int: ...

    def clear(self) -> None: ...


class Ticket(NamedTuple):
    """What a reader saw before it read. ``stripe`` counts changes of keys like this one, ``era`` of the whole space."""

    stripe: int
    era: int
    births: int


class Kept(NamedTuple):
    """A row that its writer leaves in L1; ``life`` in seconds."""

    key: Hashable
    ticket: Ticket
    value: Any
    size: int
    life: float | None


class Tickets(NamedTuple):
    """A ticket for every key: the counts of all stripes. Taking it costs a microsecond, once a batch."""

    stripes: list[int]
    era: int
    births: int


class Glance(NamedTuple):
    """A ticket for whatever key a read turns out to be about."""

    changes: int
    stripes: list[int]


class Guard:
    """The gate of one L1. Thread-safe; ``lock`` is L1's own, so that a check and the put after it are one step."""

    def __init__(self, l1: LocalTier) -> None:
        self._l1 = l1
        self._lock = l1.lock
        self._stripes = [0] * _STRIPES
        self._era = 0
        self._births = 0
        self._marks: Counter[Hashable] = Counter()
        self._whole = 0
        self._newborn = 0
        self._changes = 0
        self.refused = 0

    def ticket(self, key: Hashable) -> Ticket | None:
        """Leave to read ``key`` through the caches, or None while a write of it is being committed. Lock-free."""
        ticket = Ticket(self._stripes[hash(key) % _STRIPES], self._era, self._births)
        if self._whole or key in self._marks:
            return None
        return ticket

    def put(self, key: Hashable, ticket: Ticket, value: Any, **how: Unpack[Keeping]) -> bool:
        """Keep ``value`` iff nothing happened to ``key`` since ``ticket`` was taken; otherwise forget the key."""
        at = hash(key) % _STRIPES
        with self._lock:
            if (
                self._stripes[at] != ticket.stripe
                or self._era != ticket.era
                or self._marks
                or self._whole
                or value is ABSENT
            ) and not self._valid(key, ticket, value is ABSENT):
                self.refused += 1
                self._l1.drop(key)
                self._stripes[at] += 1
                return False
            self._l1.put(key, value, **how)
            self._stripes[at] += 1
            return True

    def finished(self, key: Hashable) -> None:
        """A read of ``key`` has ended that may not be kept: older reads may not be kept either."""
        with self._lock:
            self._l1.drop(key)
            self._stripes[hash(key) % _STRIPES] += 1

    def glance(self) -> Glance | None:
        """A ticket for a key that is not known before the read: good while no write begins or ends in this space."""
        glance = Glance(self._changes, self._stripes.copy())
        return None if self._whole or self._newborn or self._marks else glance

    def put_seen(self, key: Hashable, glance: Glance, value: Any, **how: Unpack[Keeping]) -> bool:
        """Keep ``value`` iff nothing at all happened in this space since ``glance``; otherwise forget the key."""
        at = hash(key) % _STRIPES
        with self._lock:
            good = self._changes == glance.changes and self._stripes[at] == glance.stripes[at] and not self.pending()
            if good:
                self._l1.put(key, value, **how)
            else:
                self.refused += 1
                self._l1.drop(key)
            self._stripes[at] += 1
            return good

    def tickets(self) -> Tickets | None:
        """One ticket for any number of keys, or None while the whole space is being written. Lock-free."""
        taken = Tickets(self._stripes.copy(), self._era, self._births)
        return None if self._whole else taken

    def free(self, keys: Sequence[Hashable]) -> Sequence[Hashable]:
        """The keys that no committing transaction has written."""
        return [key for key in keys if key not in self._marks] if self._marks else keys

    def put_many(self, tickets: Tickets, puts: Sequence[Put], until: float = inf) -> None:
        """As :meth:`put` for a batch, each judged by its own stripe.

        All are judged before any stripe moves on: keys of one batch may share one. What is refused is forgotten.
        """
        stripes, seen = self._stripes, tickets.stripes
        places = [hash(put[0]) % _STRIPES for put in puts]
        with self._lock:
            good: Sequence[Put] = ()
            if not self._whole and self._era == tickets.era:
                good = [put for put, at in zip(puts, places, strict=True) if stripes[at] == seen[at]]
                if self._marks:
                    good = [put for put in good if put[0] not in self._marks]
                if self._newborn or self._births != tickets.births:
                    good = [put for put in good if not _is_absent(put[1])]
            if len(good) < len(puts):
                self.refused += len(puts) - len(good)
                for key in {put[0] for put in puts}.difference([put[0] for put in good]):
                    self._l1.drop(key)
            self._l1.put_batch(good, until)
            for at in places:
                stripes[at] += 1

    def _valid(self, key: Hashable, ticket: Ticket, absent: bool) -> bool:
        return (
            not self._whole
            and key not in self._marks
            and self._era == ticket.era
            and self._stripes[hash(key) % _STRIPES] == ticket.stripe
            and not (absent and (self._newborn or self._births != ticket.births))
        )

    def reserve(self, keys: Iterable[Hashable]) -> dict[Hashable, Ticket]:
        """Leave for the one whose marks stand on ``keys`` to put their rows when it lifts them."""
        with self._lock:
            return {key: Ticket(self._stripes[hash(key) % _STRIPES], self._era, self._births) for key in keys}

    def begin(self, change: Change) -> None:
        with self._lock:
            self._drop(change)
            self._marks.update(change.keys)
            self._whole += change.whole
            self._newborn += change.births

    def end(self, change: Change, kept: Iterable[tuple[Any, ...]] = ()) -> None:
        """Lift the marks of a transaction, and put what it ``kept``, rows as in :class:`Kept`, where nobody else has
        marked or heard of anything."""
        with self._lock:
            good = [keep for keep in map(Kept._make, kept) if self._untouched(keep)]
            self._drop(change)
            for key in change.keys:
                self._marks[key] -= 1
                if self._marks[key] <= 0:
                    del self._marks[key]
            self._whole -= change.whole
            self._newborn -= change.births
            for key, _, value, size, life in good:
                self._l1.put(key, value, size=size, max_life=life)

    def _untouched(self, kept: Kept) -> bool:
        ticket, key = kept.ticket, kept.key
        return (
            not self._whole
            and self._marks[key] == 1
            and self._era == ticket.era
            and self._stripes[hash(key) % _STRIPES] == ticket.stripe
        )

    def _drop(self, change: Change) -> None:
        self._changes += 1
        if change.whole or change.reborn:
            self._era += 1
            self._l1.clear()
        for key in change.keys:
            self._stripes[hash(key) % _STRIPES] += 1
            self._l1.drop(key)
        if change.births:
            self._births += 1
            self._l1.drop_if(lambda _key, entry: _is_absent(entry.value))

    def drop_key(self, key: Hashable) -> None:
        """Another process changes this row: forget it, and what is being read now."""
        self._forget(Change(keys=frozenset((key,))))

    def drop_all(self) -> None:
        """Anything may have changed."""
        self._forget(Change(whole=True))

    def drop_absent(self) -> None:
        """Any row that did not exist may exist now."""
        self._forget(Change(births=True))

    def _forget(self, change: Change) -> None:
        with self._lock:
            self._drop(change)

    def reset_after_fork(self) -> None:
        """The parent's transactions are not ours, and L1 made itself a new lock."""
        self._lock = self._l1.lock
        self._marks.clear()
        self._whole = self._newborn = 0
        self._era += 1

    def pending(self) -> int:
        """How many marks stand now: 0 when no transaction is being committed."""
        return sum(self._marks.values()) + self._whole + self._newborn


def _is_absent(value: Any) -> bool:
    return value is ABSENT or (type(value) is dict and ABSENT in value.values())

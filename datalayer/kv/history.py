"""What a store knows of its keys: every kept version of each, their order, and what open snapshots still need.

The memory engine and the file engine share it and differ in what a version holds: the bytes, or the name of a file. A
chain of versions is a tuple that is replaced and never changed, so that readers take no lock: they pick the chain out
of a dict, which is atomic, and look at its end. Whatever changes the history happens under the engine's own lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

H = TypeVar("H")


class Record(NamedTuple, Generic[H]):
    """One version of a key. ``live`` is False for a deletion. ``deadline`` is in seconds of the engine's clock: when
    the value ends, or when the key was deleted."""

    number: int
    deadline: float
    live: bool
    held: H

    def there(self, now: float) -> bool:
        return self.live and self.deadline > now


Chain = tuple[Record[H], ...]


class History(Generic[H]):
    """The versions of every key. Reading takes no lock; everything else needs the engine's."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.last = 0
        self._chains: dict[bytes, Chain[H]] = {}
        self._ordered: list[bytes] = []
        self._fresh: list[bytes] = []
        self._pins: Counter[int] = Counter()
        self._released: deque[int] = deque()

    # -- reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._chains)

    def chain(self, key: bytes) -> Chain[H]:
        """Every kept version, oldest first."""
        return self._chains.get(key, ())

    def current(self, key: bytes, now: float) -> Record[H] | None:
        """The version that the key has now, if it has a value."""
        chain = self._chains.get(key)
        if chain is None:
            return None
        record = chain[-1]
        return record if record.live and record.deadline > now else None

    def as_of(self, key: bytes, moment: int, now: float) -> Record[H] | None:
        """The version that the key had after write number ``moment``, if it had a value that has not ended since."""
        for record in reversed(self.chain(key)):
            if record.number <= moment:
                return record if record.there(now) else None
        return None

    def find(self, key: bytes, number: int) -> Record[H] | None:
        """The version with that number."""
        return next((record for record in self.chain(key) if record.number == number), None)

    # -- changing ----------------------------------------------------------------------------------------------------

    def next_number(self) -> int:
        self.last += 1
        return self.last

    def add(self, key: bytes, record: Record[H]) -> list[Record[H]]:
        """Append a version; returns those that nobody needs any more."""
        chain = self._chains.get(key)
        if chain is None:
            self._fresh.append(key)
            chain = ()
        self.last = max(self.last, record.number)
        kept, dropped = self._retained((*chain, record))
        self._chains[key] = kept
        return dropped

    def load(self, key: bytes, records: Iterable[Record[H]]) -> None:
        """Set the versions of a key that was not known, in any order."""
        chain = tuple(sorted(records, key=lambda record: record.number))
        self.last = max(self.last, chain[-1].number)
        self._chains[key] = chain
        self._fresh.append(key)

    def remove(self, key: bytes, number: int) -> None:
        """Forget one version; the key itself with its last one."""
        kept = tuple(record for record in self.chain(key) if record.number != number)
        if kept:
            self._chains[key] = kept
        else:
            self._chains.pop(key, None)

    def trim(self, key: bytes) -> Chain[H]:
        """Forget all versions but the last; returns the others."""
        chain = self._chains[key]
        self._chains[key] = chain[-1:]
        return chain[:-1]

    def forget(self, key: bytes) -> None:
        """Forget the key and all its versions."""
        self._chains.pop(key, None)

    def _retained(self, chain: Chain[H]) -> tuple[Chain[H], list[Record[H]]]:
        if len(chain) <= self.keep:
            return chain, []
        cut = len(chain) - self.keep
        pins = self._pinned()
        kept: list[Record[H]] = []
        dropped: list[Record[H]] = []
        for record, following in pairwise(chain[: cut + 1]):
            pinned = any(record.number <= pin < following.number for pin in pins)
            (kept if pinned else dropped).append(record)
        return (*kept, *chain[cut:]), dropped

    # -- order -------------------------------------------------------------------------------------------------------

    def ordered(self, prefix: bytes) -> Iterator[bytes]:
        """The keys that begin with ``prefix``, in order, deleted ones included. Needs the lock until it returns.

        New keys wait in a list of their own and are sorted in when somebody asks, which costs one pass.
        """
        if self._fresh or len(self._ordered) > 2 * len(self._chains) + 16:
            merged = [*self._ordered, *sorted(self._fresh)]
            merged.sort()  # two runs in order: one pass
            self._ordered = [key for key in dict.fromkeys(merged) if key in self._chains]
            self._fresh = []
        return _walk(self._ordered, bisect_left(self._ordered, prefix), prefix)

    def everything(self) -> list[tuple[bytes, Chain[H]]]:
        """All keys with their versions, in no order."""
        return list(self._chains.items())

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def pin(self) -> int:
        """Keep from now on what can be seen now; returns the number that :meth:`as_of` and :meth:`unpin` take."""
        self._pins[self.last] += 1
        return self.last

    def unpin(self, moment: int) -> None:
        """Take a pin back. Needs no lock, for a view may be collected at any moment, even while the lock is held."""
        self._released.append(moment)

    @property
    def pinned(self) -> bool:
        """Whether a snapshot is open."""
        return bool(self._pinned())

    def _pinned(self) -> list[int]:
        while self._released:
            self._pins[self._released.popleft()] -= 1
        self._pins = +self._pins
        return list(self._pins)

    def dead(self, by: float) -> list[bytes]:
        """The keys that had been deleted or had expired by then, with nothing that a snapshot shows."""
        first = min(self._pinned(), default=self.last)
        ends = ((key, chain[-1]) for key, chain in self._chains.items())
        return [key for key, last in ends if last.number <= first and last.deadline <= by]


def _walk(keys: list[bytes], start: int, prefix: bytes) -> Iterator[bytes]:
    for index in range(start, len(keys)):
        key = keys[index]
        if not key.startswith(prefix):
            return
        yield key

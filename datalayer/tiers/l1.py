"""The in-process tier of one model: a bounded cache whose hit takes no lock.

cachetools holds and bounds the entries; ``index`` mirrors them in a plain dict that readers ask directly::

    entry = l1.index.get(key)
    if entry is not None and entry.deadline > l1.clock():
        entry.hits += 1      # also the CLOCK bit: a touched entry gets a second chance
        ... entry.value ...

Everything that changes the cache happens under ``lock``. ``lru`` is CLOCK: first in, first out, with another round for
entries that were read since their last turn. It needs no order to be kept on a hit, and on skewed and scanning loads it
keeps more of what is asked for than LRU does. ``lfu`` and ``ttl`` choose among the oldest few entries.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from math import inf
from typing import Any, Self

from cachetools import Cache

from ..contracts.tier import Put
from ..errors import ConfigError

POLICIES = ("lru", "lfu", "fifo", "ttl")

_SAMPLE = 8
_SWEEP = 2
_EVERY = 16


class Entry:
    """One cached value. ``born`` and ``deadline`` are monotonic seconds; ``snapshot`` an immutable view that a reader
    left here; ``prefix`` names the value of the shared tier that this one was made of."""

    __slots__ = ("born", "deadline", "hits", "prefix", "size", "snapshot", "value")

    def __init__(self, born: float, deadline: float, value: Any, size: int, prefix: bytes | None = None) -> None:
        self.born = born
        self.deadline = deadline
        self.value = value
        self.snapshot: Any = None
        self.prefix = prefix
        self.hits = 0
        self.size = size


class _Fifo(Cache[Hashable, Entry]):
    """First in, first out, with the mirror for readers (whose order is that of the queue) and the sums kept right."""

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self.index: dict[Hashable, Entry] = {}
        self.bytes = 0
        self.hits = 0
        self.evictions = 0

    def __setitem__(self, key: Hashable, entry: Entry, *_: Any) -> None:
        if key in self.index:
            del self[key]
        Cache.__setitem__(self, key, entry)
        self.index[key] = entry
        self.bytes += entry.size

    def __delitem__(self, key: Hashable, *_: Any) -> None:
        super().__delitem__(key)
        entry = self.index.pop(key)
        self.bytes -= entry.size
        self.collect(entry)

    def emptied(self) -> Self:
        """An empty one with the same index and sums, in the time that it takes to count."""
        fresh = type(self)(int(self.maxsize))
        fresh.hits, fresh.evictions = self.hits + sum(entry.hits for entry in self.index.values()), self.evictions
        self.index.clear()
        fresh.index = self.index
        return fresh

    def collect(self, entry: Entry) -> None:
        """Move an entry's count to the sum, which also takes its CLOCK bit back."""
        self.hits += entry.hits
        entry.hits = 0

    def popitem(self) -> tuple[Hashable, Entry]:
        self.evictions += 1
        return self.victim()

    def victim(self) -> tuple[Hashable, Entry]:
        return self._take(next(iter(self.index)))

    def oldest(self, count: int) -> list[tuple[Hashable, Entry]]:
        return list(islice(self.index.items(), count))

    def _take(self, key: Hashable) -> tuple[Hashable, Entry]:
        return key, self.pop(key)


class _Clock(_Fifo):
    """FIFO with a second chance for what was read."""

    def victim(self) -> tuple[Hashable, Entry]:
        for _ in range(len(self.index)):
            ((key, entry),) = self.oldest(1)
            if not entry.hits:
                break
            self.collect(entry)
            self[key] = entry  # to the back of the queue
        return super().victim()


class _Lfu(_Fifo):
    """The least read of the oldest few; the others lose half their count, so that old fame fades."""

    def victim(self) -> tuple[Hashable, Entry]:
        candidates = self.oldest(_SAMPLE)
        key, _ = min(candidates, key=lambda item: item[1].hits)
        for other, entry in candidates:
            if other != key and entry.hits:
                self.hits += entry.hits - entry.hits // 2
                entry.hits //= 2
                self[other] = entry
        return self._take(key)


class _Ttl(_Fifo):
    """The nearest to its deadline among the oldest few."""

    def victim(self) -> tuple[Hashable, Entry]:
        return self._take(min(self.oldest(_SAMPLE), key=lambda item: item[1].deadline)[0])


_CACHES: dict[str, type[_Fifo]] = {"lru": _Clock, "lfu": _Lfu, "fifo": _Fifo, "ttl": _Ttl}


class L1:
    """A bounded cache of one model. Thread-safe. ``ttl`` in seconds; ``jitter`` takes up to that fraction off it.

    Bounded by ``max_entries`` and, if given, ``max_bytes`` of the sizes that :meth:`put` is told. Dead entries stay for
    ``linger`` seconds, unless room is needed.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int | None = None,
        ttl: float,
        eviction: str = "lru",
        jitter: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
        linger: float = 0.0,
    ) -> None:
        if eviction not in _CACHES:
            raise ConfigError(f"l1_eviction is {eviction!r}; expected one of {', '.join(POLICIES)}")
        self._cache = _CACHES[eviction](max_entries)
        self.index = self._cache.index
        self.lock = threading.RLock()
        self.clock = clock
        self.ttl = ttl
        self.max_bytes = max_bytes
        self._puts = 0
        self._linger = linger
        self._jitter = jitter

    def put(
        self,
        key: Hashable,
        value: Any,
        *,
        ttl: float | None = None,
        size: int = 0,
        max_life: float | None = None,
        prefix: bytes | None = None,
        until: float = inf,
    ) -> None:
        """Keep a value for ``ttl`` seconds, never longer than ``max_life``, and not after the moment ``until``.

        One that is too large is not kept.
        """
        life = (self.ttl if ttl is None else ttl) * (1 - self._jitter * random.random())
        if max_life is not None and max_life < life:
            life = max_life
        with self.lock:
            if life <= 0 or (self.max_bytes is not None and size > self.max_bytes):
                self.drop(key)
                return
            now = self.clock()
            self._cache[key] = Entry(now, min(now + life, until), value, size, prefix)
            self._puts += 1
            if not self._puts % _EVERY:
                self._sweep(_SWEEP * _EVERY, now)
            if self.max_bytes is not None:
                self._shrink()

    def put_batch(self, items: Iterable[Put], until: float = inf) -> None:
        """As :meth:`put` for many, with the default life and one look at the clock."""
        with self.lock:
            now, cache, ttl, jitter, draw = self.clock(), self._cache, self.ttl, self._jitter, random.random
            count, most, latest = 0, self.max_bytes, until - now
            for key, value, size, max_life in items:
                life = ttl * (1 - jitter * draw())
                if max_life is not None and max_life < life:
                    life = max_life
                if most is None or size <= most:
                    cache[key] = Entry(now, now + (life if life < latest else latest), value, size)
                    count += 1
                else:
                    self.drop(key)
            self._sweep(_SWEEP * count, now)
            self._shrink()

    def _shrink(self) -> None:
        while self.max_bytes is not None and self._cache.bytes > self.max_bytes:
            self._cache.popitem()

    def _sweep(self, count: int, now: float) -> None:
        """Free dead entries at the front, so that they do not linger while the cache is not full."""
        dead, alive, since = [], 0, now - self._linger
        for key, entry in islice(self.index.items(), count):
            if entry.deadline <= since:
                dead.append(key)
            elif (alive := alive + 1) > _SAMPLE:  # the others are younger still, most of them
                break
        self.drop_many(dead)

    def drop(self, key: Hashable) -> bool:
        """Forget one key; says whether it was there."""
        with self.lock:
            if key not in self.index:
                return False
            del self._cache[key]
            return True

    def drop_many(self, keys: Iterable[Hashable]) -> None:
        with self.lock:
            for key in keys:
                self.drop(key)

    def drop_if(self, predicate: Callable[[Hashable, Entry], bool]) -> int:
        """Forget what the predicate picks; returns how many. Costs a walk over everything."""
        with self.lock:
            picked = [key for key, entry in self.index.items() if predicate(key, entry)]
            self.drop_many(picked)
            return len(picked)

    def clear(self) -> None:
        """Forget everything; the index stays the same object."""
        with self.lock:
            self._cache = self._cache.emptied()

    def reset_after_fork(self) -> None:
        """In the child: a lock that nobody holds, and nothing cached."""
        self.lock = threading.RLock()
        self.clear()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def bytes(self) -> int:
        return self._cache.bytes

    @property
    def evictions(self) -> int:
        return self._cache.evictions

    @property
    def hits(self) -> int:
        """Reads answered since the start. Concurrent readers may lose a count now and then."""
        with self.lock:
            return self._cache.hits + sum(entry.hits for entry in self.index.values())

    def check(self) -> None:
        """Assert the invariants; for tests."""
        with self.lock:
            assert set(self.index) == set(self._cache), "the index and the cache disagree"
            assert len(self.index) <= self._cache.maxsize
            assert self._cache.bytes == sum(entry.size for entry in self.index.values())
            assert self.max_bytes is None or self._cache.bytes <= self.max_bytes


def estimate_size(value: Any) -> int:
    """Bytes of a cached row: the container and what it holds, one level deep, and the entry around it."""
    size = sys.getsizeof(value) + 160
    held = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return size + sum(map(sys.getsizeof, held))

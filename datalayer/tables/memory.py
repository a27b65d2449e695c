"""``MemoryProvider``: values in this process, bounded by number and by bytes, with a life of their own each."""

from __future__ import annotations

import heapq
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from cachetools import Cache

from ..errors import ConfigError, UnavailableError
from .checks import check_key, check_ttl, check_value
from .evictions import Entry, entry_cache
from .forks import renew_after_fork


class MemoryProvider:
    """A :class:`~datalayer.contracts.provider.Provider` in a dict, also Scannable, Expiring and Adding. Thread-safe.

    Holds at most ``max_entries`` values, and ``max_bytes`` of keys and values if that is given, and makes room by
    ``eviction``: ``"lru"``, ``"lfu"``, ``"fifo"``, ``"random"``, ``"ttl"`` (what ends soonest). A value that is
    larger than ``max_bytes`` is not kept. Dead values are freed by the next write. A get takes one lock and about a
    microsecond.
    """

    def __init__(
        self,
        *,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        eviction: str = "lru",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, bound in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if bound is not None and bound < 1:
                raise ConfigError(f"{name} is {bound!r}; expected a number greater than 0, or None for no bound")
        self._cache = entry_cache(eviction, max_bytes)
        self._max_entries = max_entries or sys.maxsize
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._closed = False
        self.evictions = 0
        renew_after_fork(self)

    # -- one key ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        with self._lock:
            entry = self._cache.get(check_key(key))  # not _live: the policy learns of reads by this look-up
            if entry is None:
                self._open()
                return None
            value: bytes = entry.value
            return value if entry.deadline > self._clock() else None

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        check_value(value, check_key(key)), check_ttl(ttl)
        with self._lock:
            self._put(key, value, ttl)

    def delete(self, key: str) -> bool:
        with self._lock:
            return self._drop(check_key(key))

    def exists(self, key: str) -> bool:
        with self._lock:
            return self._live(check_key(key)) is not None

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        check_value(value, check_key(key)), check_ttl(ttl)
        with self._lock:
            if self._live(key) is not None:
                return False
            self._put(key, value, ttl)
            return True

    def ttl(self, key: str) -> float | None:
        with self._lock:
            entry = self._live(check_key(key))
            return None if entry is None else entry.deadline - self._clock()

    # -- many ------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        check_ttl(ttl)
        for key, value in items.items():
            check_value(value, check_key(key))
        with self._lock:
            for key, value in items.items():
                self._put(key, value, ttl)

    def add_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> int:
        return sum([self.add(key, value, ttl) for key, value in items.items()])

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        left = {key: self.ttl(key) for key in keys}
        return {key: seconds for key, seconds in left.items() if seconds is not None}

    def delete_many(self, keys: Iterable[str]) -> int:
        picked = [check_key(key) for key in keys]
        with self._lock:
            return sum(map(self._drop, picked))

    def keys(self, prefix: str = "") -> Iterator[str]:
        with self._lock:
            self._open()
            now = self._clock()
            found = [key for key, entry in _items(self._cache) if key.startswith(prefix) and entry.deadline > now]
        return iter(found)

    def clear(self, prefix: str = "") -> int:
        return self.delete_many(list(self.keys(prefix)))

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            self._cache.clear()
            self._deaths.clear()

    def reset_after_fork(self) -> None:
        """In the child: a lock that nobody holds; the values stay."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def size(self) -> int:
        """Bytes: what the values and their keys count for now, dead ones included until they are freed."""
        return int(self._cache.currsize)

    def __repr__(self) -> str:
        return f"<MemoryProvider: {len(self._cache)} values{', closed' if self._closed else ''}>"

    # -- under the lock --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            raise UnavailableError("this MemoryProvider is closed; make another one")

    def _live(self, key: str) -> Entry | None:
        self._open()
        entry = _peek(self._cache, key)
        return entry if entry is not None and entry.deadline > self._clock() else None

    def _put(self, key: str, value: bytes, ttl: float | None) -> None:
        self._open()
        now = self._clock()
        self._free(now)
        entry = Entry(value, math.inf if ttl is None else now + ttl, len(value) + len(key))
        self._cache.pop(key, None)  # the policy takes it for a new value
        if entry.size > self._cache.maxsize:
            return
        before = len(self._cache)
        while len(self._cache) >= self._max_entries:  # before, so that the new value is not the victim
            self._cache.popitem()
        self._cache[key] = entry
        self.evictions += before + 1 - len(self._cache)
        if ttl is not None:
            heapq.heappush(self._deaths, (entry.deadline, next(self._order), key))

    def _drop(self, key: str) -> bool:
        was = self._live(key) is not None
        self._cache.pop(key, None)
        return was

    def _free(self, now: float) -> None:
        deaths = self._deaths
        while deaths and deaths[0][0] <= now:
            _, _, key = heapq.heappop(deaths)
            entry = _peek(self._cache, key)
            if entry is not None and entry.deadline <= now:
                del self._cache[key]
        if len(deaths) > 2 * len(self._cache) + 64:  # mostly of values that were replaced since
            self._deaths = [
                (entry.deadline, next(self._order), key)
                for key, entry in _items(self._cache)
                if entry.deadline < math.inf
            ]
            heapq.heapify(self._deaths)


def _peek(cache: Cache[str, Entry], key: str) -> Entry | None:
    """An entry without the policy taking it for a read."""
    found: Entry | None = Cache.__getitem__(cache, key) if key in cache else None
    return found


def _items(cache: Cache[str, Entry]) -> Iterator[tuple[str, Entry]]:
    return ((key, Cache.__getitem__(cache, key)) for key in cache)

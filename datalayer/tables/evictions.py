"""What a bounded cache makes room by: cachetools' policies, and one that goes by the lives of values."""

from __future__ import annotations

import heapq
import itertools
import sys
from dataclasses import dataclass
from typing import Any

from cachetools import Cache, FIFOCache, LFUCache, LRUCache, RRCache

from ..errors import ConfigError


@dataclass(slots=True)
class Entry:
    """A kept value, the moment it dies at, and what it counts for."""

    value: Any
    deadline: float
    size: int


class SoonestCache(Cache[str, Entry]):
    """Makes room by what ends soonest; of what ends at one moment, or never, by the oldest."""

    def __init__(self, maxsize: float, getsizeof: Any = None) -> None:
        super().__init__(maxsize, getsizeof)
        self._ends: list[tuple[float, int, str, Entry]] = []
        self._order = itertools.count()

    def __setitem__(self, key: str, entry: Entry, *arguments: Any) -> None:
        super().__setitem__(key, entry, *arguments)
        if len(self._ends) > 2 * len(self) + 64:  # mostly of entries that were replaced or deleted since
            self._ends = [end for end in self._ends if self._holds(end)]
            heapq.heapify(self._ends)
        heapq.heappush(self._ends, (entry.deadline, next(self._order), key, entry))

    def popitem(self) -> tuple[str, Entry]:
        while self._ends:
            end = heapq.heappop(self._ends)
            if self._holds(end):
                return end[2], self.pop(end[2])
        raise KeyError("the cache is empty")

    def _holds(self, end: tuple[float, int, str, Entry]) -> bool:
        key, entry = end[2:]
        return key in self and Cache.__getitem__(self, key) is entry


_CACHES: dict[str, type[Cache[str, Entry]]] = {
    "lru": LRUCache,
    "lfu": LFUCache,
    "fifo": FIFOCache,
    "random": RRCache,
    "ttl": SoonestCache,
}

#: What room is made by: the least recently read, the least often read, the oldest, any, what ends soonest.
EVICTIONS = tuple(_CACHES)


def entry_cache(eviction: str, max_bytes: int | None) -> Cache[str, Entry]:
    """An empty cachetools cache of entries; ConfigError for a policy that there is not."""
    if eviction not in _CACHES:
        raise ConfigError(f"eviction is {eviction!r}; expected one of {', '.join(EVICTIONS)}")
    return _CACHES[eviction](max_bytes or sys.maxsize, getsizeof=_size_of)


def _size_of(entry: Entry) -> int:
    return entry.size

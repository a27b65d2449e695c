"""``Bounded``: any provider with a bound on how much it holds, for those that have none of their own."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterable, Mapping

from ..contracts.provider import Provider
from ..errors import ConfigError, EncodeError
from .checks import check_key, check_value
from .evictions import Entry, entry_cache
from .forks import renew_after_fork
from .wrapper import Wrapper


class Bounded(Wrapper):
    """Holds at most ``max_entries`` values and ``max_bytes`` of keys and values; makes room by deleting victims from
    the inner provider, by ``eviction``: ``"lru"``, ``"lfu"``, ``"fifo"``, ``"random"``, ``"ttl"`` (ends soonest).

    It counts what is written through it, and knows neither what other writers do nor what expires: a dead value counts
    until it is a victim. A value that is larger than ``max_bytes`` raises EncodeError. Evictions of one process only:
    for a server that several share, set the server's own bound.
    """

    def __init__(
        self, inner: Provider, *, max_entries: int | None = None, max_bytes: int | None = None, eviction: str = "lru"
    ) -> None:
        super().__init__(inner)
        if max_entries is None and max_bytes is None:
            raise ConfigError("a Bounded provider has no bound; expected max_entries, max_bytes or both")
        self._held = entry_cache(eviction, max_bytes)
        self._max_entries = max_entries or sys.maxsize
        self._lock = threading.Lock()
        self.evictions = 0
        renew_after_fork(self)

    def get(self, key: str) -> bytes | None:
        found = super().get(key)
        if found is not None:
            with self._lock:
                self._held.get(key)  # the policy learns of reads by this look-up
        return found

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._checked(key, value)
        super().set(key, value, ttl)
        self._note({key: value}, ttl)

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        for key, value in items.items():
            self._checked(key, value)
        super().set_many(items, ttl)
        self._note(items, ttl)

    def delete(self, key: str) -> bool:
        self._forget([key])
        return super().delete(key)

    def delete_many(self, keys: Iterable[str]) -> int:
        picked = list(keys)
        self._forget(picked)
        return super().delete_many(picked)

    def reset_after_fork(self) -> None:
        """In the child: a lock that nobody holds."""
        self._lock = threading.Lock()

    def _out(self, key: str, value: bytes) -> bytes:
        return self._checked(key, value)

    def _added(self, key: str, value: bytes, ttl: float | None) -> None:
        self._note({key: value}, ttl)

    def _cleared(self, prefix: str) -> None:
        with self._lock:
            for key in [key for key in self._held if key.startswith(prefix)]:
                del self._held[key]

    def _checked(self, key: str, value: bytes) -> bytes:
        size = len(check_value(value, check_key(key))) + len(key)
        if size > self._held.maxsize:
            raise EncodeError(f"the value for key {key!r} takes {size} bytes; max_bytes allows {self._held.maxsize}")
        return value

    def _note(self, items: Mapping[str, bytes], ttl: float | None) -> None:
        deadline = math.inf if ttl is None else time.monotonic() + ttl
        with self._lock:
            victims = [
                victim
                for key, value in items.items()
                for victim in self._hold(key, Entry(None, deadline, len(value) + len(key)))
            ]
            self.evictions += len(victims)
        if victims:
            self.inner.delete_many(victims)

    def _hold(self, key: str, entry: Entry) -> list[str]:
        self._held.pop(key, None)
        victims = []
        while len(self._held) >= self._max_entries or self._held.currsize + entry.size > self._held.maxsize:
            victims.append(self._held.popitem()[0])
        self._held[key] = entry
        return victims

    def _forget(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._held.pop(key, None)

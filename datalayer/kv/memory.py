"""The store in memory: everything that a store can do, without a file or a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from operator import index
from typing import NamedTuple, SupportsIndex

from ..config.units import refused
from ..contracts.clock import Clock, SystemClock
from ..contracts.store import Buffer, StoreEvent, Version
from ..errors import NotFoundError, StoreError, UnavailableError
from .checks import checked_key, checked_prefix, checked_value, deadline, shown
from .events import Events
from .history import History, Record
from .overlay import OverlayTransaction, Reads, Seen, Stamps, Write
from .snapshots import SnapshotView

FULL = ("refuse", "evict")


class _Held(NamedTuple):
    value: bytes
    written_at: datetime


class MemoryStore:
    """A store in this process. Thread-safe; ``get`` takes no lock.

    ``keep_versions`` states of each key are kept, the current one included. ``max_entries`` bounds the keys and
    ``max_bytes`` the sum of keys and kept values; a store that is full raises StoreError (``full="refuse"``) or forgets
    the keys that were written least recently (``full="evict"``), for open snapshots too. A store that refuses
    first forgets what is deleted, expired or an old version.
    """

    def __init__(
        self,
        *,
        name: str = "memory",
        keep_versions: int = 10,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        full: str = "refuse",
        clock: Clock | None = None,
    ) -> None:
        if full not in FULL:
            raise refused("full", full, "'refuse' or 'evict'")
        for option, bound in (("keep_versions", keep_versions), ("max_entries", max_entries), ("max_bytes", max_bytes)):
            if bound is not None and bound < 1:
                raise refused(option, bound, "a number of 1 or more")
        self.name = name
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._evicting = full == "evict"
        self._bounded = max_entries is not None or max_bytes is not None
        self._clock: Clock = clock or SystemClock()
        self._now = self._clock.monotonic
        self._lock = threading.RLock()
        self._history: History[_Held] = History(keep_versions)
        self._queue: dict[bytes, None] = {}  # keys by their last write, the oldest first; kept while evicting
        self._bytes = 0
        self._open = True
        self._events = Events(name)

    # -- Store ---------------------------------------------------------------------------------------------------------

    def get(self, key: bytes, version: SupportsIndex | None = None) -> bytes | None:
        self._check_open()
        key = checked_key(key)
        if version is None:
            record = self._history.current(key, self._now())
            return None if record is None else record.held.value
        record = self._version(key, index(version))
        return record.held.value if record.there(self._now()) else None

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        key, value = checked_key(key), checked_value(value)
        self._change({key: Write(value, ttl)})
        self._events.tell("put", (key,))

    def delete(self, key: bytes) -> bool:
        key = checked_key(key)
        with self._lock:
            if not self.exists(key):
                return False
            self._change({key: Write(None)})
        self._events.tell("delete", (key,))
        return True

    def exists(self, key: bytes) -> bool:
        self._check_open()
        return self._history.current(checked_key(key), self._now()) is not None

    def close(self) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
            self._history = History(1)
        self._events.tell("close")

    # -- Scannable, Expiring, Versioned, Snapshots, Transactional, Observable ------------------------------------------

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self.known_keys(checked_prefix(prefix)))

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        return (key for key, _ in self.scan(prefix))

    def ttl(self, key: bytes) -> float | None:
        self._check_open()
        now = self._now()
        record = self._history.current(checked_key(key), now)
        return None if record is None else record.deadline - now

    def versions(self, key: bytes) -> list[Version]:
        self._check_open()
        chain = self._history.chain(checked_key(key))
        return [Version(r.number, len(r.held.value), not r.live, r.held.written_at) for r in chain]

    def restore(self, key: bytes, version: SupportsIndex) -> int:
        key = checked_key(key)
        with self._lock:
            self._check_open()
            old = self._version(key, index(version))
            self._change({key: Write(old.held.value if old.live else None)})
            number = self._history.last
        self._events.tell("restore", (key,))
        return number

    def snapshot(self) -> SnapshotView:
        with self._lock:
            self._check_open()
            return SnapshotView(self, self._history.pin(), self._history.unpin)

    def begin(self) -> OverlayTransaction:
        self._check_open()
        return OverlayTransaction(self)

    def subscribe(self, listener: Callable[[StoreEvent], None]) -> Callable[[], None]:
        return self._events.subscribe(listener)

    # -- what transactions and snapshots stand on ----------------------------------------------------------------------

    def see(self, key: bytes) -> Seen:
        self._check_open()
        record = self._history.current(key, self._now())
        return Seen(0, None) if record is None else Seen(record.number, record.held.value)

    def see_all(self, prefix: bytes) -> list[tuple[bytes, Seen]]:
        with self._lock:
            return [(key, seen) for key in self.known_keys(prefix) if (seen := self.see(key)).value is not None]

    def stamp(self, key: bytes) -> int:
        return self._number(self._history.current(key, self._now()))

    def stamps(self, prefix: bytes) -> Stamps:
        return tuple((key, seen.stamp) for key, seen in self.see_all(prefix))

    def commit(self, reads: Reads, writes: Mapping[bytes, Write]) -> None:
        with self._lock:
            self._check_open()
            reads.verify(self)
            self._change({key: write for key, write in writes.items() if write.value is not None or self.stamp(key)})
        self._events.tell("commit", writes)

    def get_as_of(self, key: bytes, moment: int) -> bytes | None:
        self._check_open()
        record = self._history.as_of(key, moment, self._now())
        return None if record is None else record.held.value

    def known_keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys in order, including those that are deleted but not forgotten."""
        with self._lock:
            self._check_open()
            return self._history.ordered(prefix)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def compact(self) -> int:
        """Forget deleted and expired keys with their history; returns how many. Costs a walk over all keys."""
        with self._lock:
            self._check_open()
            dead = self._history.dead(self._now())
            for key in dead:
                self._forget(key)
            return len(dead)

    @property
    def stored_bytes(self) -> int:
        """What keys and kept values take, without Python's own overhead."""
        return self._bytes

    def __len__(self) -> int:
        """How many keys are there, deleted and expired ones included until they are forgotten."""
        return len(self._history)

    def __repr__(self) -> str:
        state = f"{len(self)} keys, {self._bytes} bytes" if self._open else "closed"
        return f"<MemoryStore {self.name!r}: {state}>"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _scan(self, keys: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for key in keys:
            value = self.get(key)
            if value is not None:
                yield key, value

    def _change(self, writes: Mapping[bytes, Write]) -> None:
        """Write all or nothing."""
        with self._lock:
            self._check_open()
            deadlines = {key: self._ends(write) for key, write in writes.items()}
            evicted = self._make_room(writes) if self._bounded else []
            for key, write in writes.items():
                self._append(key, write, deadlines[key])
            if self._max_bytes is not None and self._bytes > self._max_bytes:
                self._trim(writes)
        if evicted:
            self._events.tell("evict", evicted)

    def _ends(self, write: Write) -> float:
        """When the value ends, or that it was deleted now."""
        return self._now() if write.value is None else deadline(write.ttl, self._now())

    def _append(self, key: bytes, write: Write, ends: float) -> None:
        live = write.value is not None
        held = _Held(write.value or b"", self._clock.now())
        known = bool(self._history.chain(key))
        record = Record(self._history.next_number(), ends, live, held)
        dropped = self._history.add(key, record)
        self._bytes += len(held.value) + (0 if known else len(key)) - sum(len(r.held.value) for r in dropped)
        if self._evicting:
            self._queue.pop(key, None)
            self._queue[key] = None

    def _make_room(self, writes: Mapping[bytes, Write]) -> list[bytes]:
        """Forget what may be forgotten until the writes fit; StoreError if they cannot."""
        if self._fits(writes):
            return []
        self._check_not_too_large(writes)
        evicted: list[bytes] = []
        if self._evicting:
            while not self._fits(writes) and (key := self._oldest(writes)) is not None:
                self._forget(key)
                evicted.append(key)
        else:
            self.compact()
            self._trim(key for key, _ in self._history.everything())
        if not self._fits(writes):
            raise self._full()
        return evicted

    def _check_not_too_large(self, writes: Mapping[bytes, Write]) -> None:
        size = sum(len(key) + len(write.value or b"") for key, write in writes.items())
        too_many = self._max_entries is not None and len(writes) > self._max_entries
        if too_many or (self._max_bytes is not None and size > self._max_bytes):
            raise self._full()

    def _trim(self, keys: Iterable[bytes]) -> None:
        """Forget old versions of these keys, unless a snapshot is open."""
        if not self._history.pinned:
            for key in keys:
                self._bytes -= sum(len(record.held.value) for record in self._history.trim(key))

    def _full(self) -> StoreError:
        return StoreError(
            f"store {self.name!r} is full: it holds {len(self)} keys and {self._bytes} bytes and may hold "
            f"{self._max_entries or 'any number of'} keys and {self._max_bytes or 'any number of'} bytes; "
            "delete something, allow more, or open it with full='evict'"
        )

    def _fits(self, writes: Mapping[bytes, Write]) -> bool:
        fresh = [key for key in writes if not self._history.chain(key)]
        more = sum(map(len, fresh)) + sum(len(write.value or b"") for write in writes.values())
        freed = 0 if self._history.pinned else sum(map(self._size, writes))
        entries = self._max_entries is None or len(self._history) + len(fresh) <= self._max_entries
        return entries and (self._max_bytes is None or self._bytes + more - freed <= self._max_bytes)

    def _oldest(self, but: Mapping[bytes, Write]) -> bytes | None:
        return next((key for key in self._queue if key not in but), None)

    def _size(self, key: bytes) -> int:
        return sum(len(record.held.value) for record in self._history.chain(key))

    def _forget(self, key: bytes) -> None:
        self._bytes -= len(key) + self._size(key)
        self._history.forget(key)
        self._queue.pop(key, None)

    def _version(self, key: bytes, number: int) -> Record[_Held]:
        record = self._history.find(key, number)
        if record is None:
            kept = [r.number for r in self._history.chain(key)]
            raise NotFoundError(f"key {shown(key)} has no version {number}; kept are {kept or 'none'}")
        return record

    @staticmethod
    def _number(record: Record[_Held] | None) -> int:
        return 0 if record is None else record.number

    def _check_open(self) -> None:
        if not self._open:
            raise UnavailableError(f"store {self.name!r} is closed; open another one")

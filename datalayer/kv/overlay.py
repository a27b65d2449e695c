"""Transactions: a private layer of writes over a store, which is laid on it at once or thrown away.

A transaction notes a *stamp* for everything that it reads: something that differs whenever the key was written since.
The commit compares the stamps with the store as it is now, under the store's lock, and writes only if all of them still
hold. So a transaction that commits might as well have run at that one moment: that is all that serializable means. No
lock is held while it runs, nobody waits, and a transaction that is forgotten costs nothing.

Engines say how stamps are found and how a batch is written (:class:`Ground`); :class:`Overlay` does both for any store.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Protocol, Self, cast

from ..contracts.store import Buffer, Expiring, Scannable, Store
from ..errors import (
    ConfigError,
    ConflictError,
    StoreError,
    TransactionFailed,
    TransactionOutcomeUnknown,
    UnavailableError,
)
from .checks import checked_key, checked_prefix, checked_value, deadline, shown


class Write(NamedTuple):
    """What a transaction will do with a key: keep ``value`` for ``ttl`` seconds, or delete it if ``value`` is None."""

    value: bytes | None
    ttl: float | None = None


class Seen(NamedTuple):
    """What a key holds, and the stamp that changes with it. An absent key has value None and its own stamp."""

    stamp: Hashable
    value: bytes | None


Stamps = tuple[tuple[bytes, Hashable], ...]


@dataclass
class Reads:
    """What a transaction has read: the stamp of every key, and of every key under each scanned prefix."""

    keys: dict[bytes, Hashable] = field(default_factory=dict)
    scans: dict[bytes, Stamps] = field(default_factory=dict)

    def verify(self, ground: Evidence) -> None:
        """ConflictError unless the ground still shows all of it. Call it while nobody else can write."""
        for key, stamp in self.keys.items():
            if ground.stamp(key) != stamp:
                raise ConflictError(f"key {shown(key)} was changed by somebody else; run the transaction again")
        for prefix, stamps in self.scans.items():
            if ground.stamps(prefix) != stamps:
                raise ConflictError(f"keys under {shown(prefix)} were changed by somebody else; run it again")


class Evidence(Protocol):
    """The stamps as they are now."""

    def stamp(self, key: bytes) -> Hashable: ...

    def stamps(self, prefix: bytes) -> Stamps: ...


class Ground(Protocol):
    """What a transaction stands on."""

    def see(self, key: bytes) -> Seen: ...

    def see_all(self, prefix: bytes) -> list[tuple[bytes, Seen]]: ...

    def commit(self, reads: Reads, writes: Mapping[bytes, Write]) -> None:
        """Verify and write, as one step for everybody else. ConflictError leaves the store as it was."""


class OverlayTransaction:
    """The :class:`~datalayer.contracts.store.Transaction` of every engine here."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._reads = Reads()
        self._writes: dict[bytes, Write] = {}
        self._cache: dict[bytes, bytes | None] = {}
        self._over = ""

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        key = checked_key(key)
        return self._writes[key].value if key in self._writes else self._read(key)

    def exists(self, key: bytes) -> bool:
        return self.get(key) is not None

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        self._check_open()
        deadline(ttl, 0.0)
        self._writes[checked_key(key)] = Write(checked_value(value), ttl)

    def delete(self, key: bytes) -> bool:
        found = self.exists(key)
        self._writes[bytes(key)] = Write(None)
        return found

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        prefix = checked_prefix(prefix)
        seen = self._ground.see_all(prefix)
        self._reads.scans.setdefault(prefix, tuple((key, one.stamp) for key, one in seen))
        values: dict[bytes, bytes | None] = {key: self._cache.get(key, one.value) for key, one in seen}
        values |= {key: write.value for key, write in self._writes.items() if key.startswith(prefix)}
        return iter([(key, value) for key, value in sorted(values.items()) if value is not None])

    def commit(self) -> None:
        self._check_open()
        self._over = "rolled back"
        self._ground.commit(self._reads, self._writes)
        self._over = "committed"

    def rollback(self) -> None:
        self._over = self._over or "rolled back"

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._over:
            self.commit()
        self.rollback()

    def __repr__(self) -> str:
        return f"<transaction {self._over or 'open'}: {len(self._reads.keys)} reads, {len(self._writes)} writes>"

    def _read(self, key: bytes) -> bytes | None:
        if key not in self._cache:
            seen = self._ground.see(key)
            self._cache[key] = seen.value
            self._reads.keys[key] = seen.stamp
        return self._cache[key]

    def _check_open(self) -> None:
        if self._over:
            raise TransactionFailed(f"the transaction is {self._over}; begin another one")


class Overlay:
    """Any store, with transactions. Thread-safe.

    Isolation holds among all who go through this object: it holds one lock while it writes. A commit is written key by
    key, so a crash of the machine in the middle of it leaves a part; an engine that can do better has transactions of
    its own. A key that cannot be written undoes the ones before it. Values are their own stamps. The store is closed
    with the overlay, which is Scannable and Expiring if the store is.
    """

    def __new__(cls, store: Store) -> Self:
        if cls is not Overlay:
            return object.__new__(cls)
        able = _ABLE[isinstance(store, Scannable), isinstance(store, Expiring)]
        return cast(Self, object.__new__(able))

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._open = True

    # -- the store itself --------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        return self._store.get(key)

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        with self._lock:
            self._write(checked_key(key), Write(checked_value(value), ttl))

    def delete(self, key: bytes) -> bool:
        with self._lock:
            return self._store.delete(key)

    def exists(self, key: bytes) -> bool:
        return self._store.exists(key)

    def close(self) -> None:
        with self._lock:
            self._open = False
            self._store.close()

    def begin(self) -> OverlayTransaction:
        self._check_open()
        return OverlayTransaction(self)

    # -- the ground of transactions ----------------------------------------------------------------------------------

    def see(self, key: bytes) -> Seen:
        value = self._store.get(key)
        return Seen(value, value)

    def see_all(self, prefix: bytes) -> list[tuple[bytes, Seen]]:
        return [(key, Seen(value, value)) for key, value in self._scannable().scan(prefix)]

    def stamp(self, key: bytes) -> Hashable:
        return self._store.get(key)

    def stamps(self, prefix: bytes) -> Stamps:
        return tuple(self._scannable().scan(prefix))

    def commit(self, reads: Reads, writes: Mapping[bytes, Write]) -> None:
        with self._lock:
            self._check_open()
            reads.verify(self)
            undo: dict[bytes, Write] = {}
            try:
                for key, write in writes.items():
                    undo[key] = self._before(key)
                    self._write(key, write)
            except Exception as error:
                self._undo(undo, error)
                raise

    def _before(self, key: bytes) -> Write:
        left = self._store.ttl(key) if isinstance(self._store, Expiring) else None
        return Write(self._store.get(key), left if left and left != float("inf") else None)

    def _undo(self, undo: Mapping[bytes, Write], cause: Exception) -> None:
        try:
            for key, write in undo.items():
                self._write(key, write)
        except Exception as error:
            raise TransactionOutcomeUnknown(
                f"a commit failed ({type(cause).__name__}) and could not be undone ({type(error).__name__}); "
                f"look at the {len(undo)} keys that it was to write"
            ) from cause

    def _write(self, key: bytes, write: Write) -> None:
        if write.value is None:
            self._store.delete(key)
        elif write.ttl is None:
            self._store.put(key, write.value)
        else:
            self._expiring().put(key, write.value, write.ttl)

    def _check_open(self) -> None:
        if not self._open:
            raise UnavailableError("the store under the overlay is closed; open another one")

    def _expiring(self) -> Expiring:
        if not isinstance(self._store, Expiring):
            raise ConfigError(f"ttl: {type(self._store).__name__} keeps values for good; expected an Expiring store")
        return self._store

    def _scannable(self) -> Scannable:
        if not isinstance(self._store, Scannable):
            raise StoreError(f"{type(self._store).__name__} cannot be scanned; expected a Scannable store")
        return self._store


class _Scans(Overlay):
    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._scannable().scan(prefix)

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        return self._scannable().keys(prefix)


class _Expires(Overlay):
    def ttl(self, key: bytes) -> float | None:
        return self._expiring().ttl(key)


class _ScansAndExpires(_Scans, _Expires):
    pass


_ABLE: dict[tuple[bool, bool], type[Overlay]] = {
    (False, False): Overlay,
    (True, False): _Scans,
    (False, True): _Expires,
    (True, True): _ScansAndExpires,
}

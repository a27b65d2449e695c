"""What a key/value store promises, so that engines can be swapped and anybody can write another one.

The fewest methods that work are :class:`Store`; rarer abilities are Protocols of their own, which a caller looks for
with ``isinstance(store, Versioned)``. All of them follow the same rules:

* **Keys** are 1 to :data:`MAX_KEY_BYTES` bytes, **values** any bytes. Both are copied: what the caller does to a buffer
  after ``put`` changes nothing in the store, and what ``get`` answers is the caller's own.
* **Threads**: every method of a store may be called from any thread. A transaction, a snapshot, a stream and an
  iterator belong to one thread at a time.
* **Ownership**: who opens a store closes it. ``close`` may be called twice; everything else then raises
  :class:`~datalayer.errors.UnavailableError`.
* **Absence** is an answer, not an error: ``get`` says None, ``delete`` says False.
* **Acknowledged** means that the method returned. A write that raised may or may not be there; the value before it is
  intact.
* **Errors**: :class:`~datalayer.errors.EncodeError` for a key or value that is not one,
  :class:`~datalayer.errors.ConfigError` for a ``ttl`` that is not one, :class:`~datalayer.errors.StoreError` for all
  that goes wrong below, with the driver's own error as ``__cause__``.

The suites in ``datalayer.testing.compliance`` check an engine against this page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, SupportsIndex, runtime_checkable

MAX_KEY_BYTES = 1024

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Version:
    """One state that a key was in. Stands for its ``number`` wherever a number is asked for.

    Numbers grow with every write to the store and are shared by all its keys. ``written_at`` is aware and UTC.
    """

    number: int
    size: int
    deleted: bool
    written_at: datetime

    def __index__(self) -> int:
        return self.number


@runtime_checkable
class Store(Protocol):
    """Values by key. Thread-safe; see the module's rules."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def put(self, key: bytes, value: Buffer) -> None:
        """Keep the value under the key, in place of the one before."""

    def delete(self, key: bytes) -> bool:
        """Remove the key; says whether it was there."""

    def exists(self, key: bytes) -> bool:
        """Whether :meth:`get` would find a value, without fetching it."""

    def close(self) -> None:
        """Give back what the store holds. May be called twice."""


@runtime_checkable
class Scannable(Protocol):
    """Keys in order. Writing while an iterator is open is allowed: a key that is there all the time comes exactly once,
    with a value that it had meanwhile; others may or may not come."""

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The keys that begin with ``prefix``, with their values, ordered by key as bytes."""

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        """As :meth:`scan` without the values."""


@runtime_checkable
class Expiring(Protocol):
    """Values that end. An expired key is absent for every method, from its deadline on and not only when swept."""

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        """As :meth:`Store.put`, for ``ttl`` seconds (more than 0) or, with None, for good."""

    def ttl(self, key: bytes) -> float | None:
        """Seconds that the key has left (``inf`` without a deadline), or None if it is absent."""


@runtime_checkable
class Versioned(Protocol):
    """Earlier states of a key, as many as the store's retention keeps, the newest at least."""

    def get(self, key: bytes, version: SupportsIndex | None = None) -> bytes | None:
        """The value now, or as it was in that version: None where the key was deleted.

        NotFoundError when the store does not have that version of the key.
        """

    def versions(self, key: bytes) -> list[Version]:
        """What is kept of the key, oldest first, deletions included; empty for an unknown key."""

    def restore(self, key: bytes, version: SupportsIndex) -> int:
        """Write that version's state again, as a new version without a deadline; returns its number.

        NotFoundError when the store does not have that version of the key.
        """


class Transaction(Protocol):
    """Several reads and writes that happen at one moment or not at all. For one thread at a time.

    * It sees its own writes; nobody else does before the commit. What it read once it reads again.
    * ``commit`` raises ConflictError, and writes nothing, if anything that the transaction read (a value, an absence, a
      deletion's answer, a scan) has changed since by somebody else. Running it again may work. A write of a key that
      the transaction did not read conflicts with nobody.
    * After ``commit`` or ``rollback`` every method raises TransactionFailed, but for ``rollback``, which then does
      nothing. As a context manager it commits at the end of the block and rolls back when the block raises.
    * TransactionOutcomeUnknown from ``commit``: the store failed at a moment when it cannot tell.
    """

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        """``ttl`` counts from the commit."""

    def delete(self, key: bytes) -> bool: ...

    def exists(self, key: bytes) -> bool: ...

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As of the call, the transaction's own writes included. StoreError if the store cannot be scanned."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Transactional(Protocol):
    """Changes of several keys at once. What commits is serializable, among plain reads and writes too."""

    def begin(self) -> Transaction:
        """A new transaction. One that is dropped without a commit leaves nothing behind."""


class View(Protocol):
    """A store as it was at one moment. Time goes on in it: what expires is absent there too. Close it: while it is
    open the store keeps what it shows."""

    def get(self, key: bytes) -> bytes | None: ...

    def exists(self, key: bytes) -> bool: ...

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Snapshots(Protocol):
    """A look at one moment while others go on writing."""

    def snapshot(self) -> View:
        """The store as it is now. Costs nothing until something that it shows is overwritten."""


@runtime_checkable
class Streaming(Protocol):
    """Values that are larger than what should be in memory at once."""

    def put_stream(self, key: bytes, source: BinaryIO, ttl: float | None = None) -> int:
        """As ``put`` with all that ``source`` has left; returns its size. The source is not closed."""

    def get_stream(self, key: bytes) -> BinaryIO | None:
        """The value as a forward-only binary file, or None. Close it. Later writes do not change what it reads.

        Reading raises StoreCorruptError at the first bytes that fail their check; no wrong byte is handed out.
        """


@dataclass(frozen=True, slots=True)
class StoreEvent:
    """Something that happened in a store.

    ``kind`` is ``"put"``, ``"delete"``, ``"commit"``, ``"restore"``, ``"evict"``, ``"quarantine"``, ``"read_only"`` or
    ``"close"``. ``keys`` are those concerned; values are never part of an event.
    """

    kind: str
    store: str
    keys: tuple[bytes, ...] = ()


@runtime_checkable
class Observable(Protocol):
    """Tells others what happened."""

    def subscribe(self, listener: Callable[[StoreEvent], None]) -> Callable[[], None]:
        """Call ``listener`` after each event, in the thread that caused it and outside the store's locks; returns the
        function that ends this. What a listener raises is logged and does not reach the writer."""


#: What a store may be able to do beyond :class:`Store`.
ABILITIES: tuple[type, ...] = (Scannable, Expiring, Versioned, Transactional, Snapshots, Streaming, Observable)


def abilities_of(store: Store | type) -> frozenset[type]:
    """Which of :data:`ABILITIES` a store, or a class of stores, has."""
    of = store if isinstance(store, type) else type(store)
    return frozenset(ability for ability in ABILITIES if issubclass(of, ability))


@runtime_checkable
class Engine(Protocol):
    """A kind of store, by name. Thread-safe.

    ``abilities`` are the Protocols of this module that its stores keep beyond :class:`Store`, so that an engine can be
    chosen by what it can do before anything is opened.
    """

    name: str
    abilities: frozenset[type]

    def open(self, name: str, **options: Any) -> Store:
        """A new store called ``name``; the caller closes it. ConfigError for options that the engine does not know."""


@runtime_checkable
class MultiStore(Protocol):
    """Several stores by name, each of an engine of its own, all of them owned by it. Thread-safe."""

    def open(self, name: str, engine: str, **options: Any) -> Store:
        """Open a store and keep it. AlreadyExistsError if the name is taken, ConfigError for an unknown engine."""

    def add(self, name: str, store: Store) -> None:
        """Keep a store that is open already, and own it from now on. AlreadyExistsError if the name is taken."""

    def store(self, name: str) -> Store:
        """The store of that name. NotFoundError if there is none."""

    def names(self) -> list[str]:
        """The names in order."""

    def remove(self, name: str) -> None:
        """Close the store and forget it; what it has stored stays where it is. NotFoundError if there is none."""

    def close(self) -> None:
        """Close all of them, also when one of them fails; the first error is raised at the end. May be called twice;
        everything else then raises :class:`~datalayer.errors.UnavailableError`."""

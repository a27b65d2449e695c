"""What a table needs from the thing that keeps its values: bytes under text, and a few rarer abilities apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Provider(Protocol):
    """Keeps bytes under text keys. Thread-safe.

    A key is any non-empty ``str`` that UTF-8 can write; two keys are one only if they are equal, letter by letter. A
    value is ``bytes``, the empty one included, and comes back as ``bytes``. Anything else raises
    :class:`~datalayer.errors.EncodeError` and changes nothing. An absent key is None, False or left out, no error.

    ``ttl`` is in seconds and greater than 0 (else :class:`~datalayer.errors.ConfigError`); None keeps the value until
    it is replaced, deleted or evicted. A provider whose clock is coarser rounds up. Every ``set`` replaces the life
    together with the value. The methods that take many keys are not atomic, but cost one round trip where the server
    allows it; order and repetition of keys do not matter.

    A server that does not answer raises an :class:`~datalayer.errors.UnavailableError`, as does every method after
    ``close``, which may be called twice. Whoever made the provider closes it; a provider closes what it made itself.
    """

    def get(self, key: str) -> bytes | None: ...

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None: ...

    def delete(self, key: str) -> bool:
        """Forget one key; says whether it was there."""

    def exists(self, key: str) -> bool: ...

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """What is there; absent keys are left out."""

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None: ...

    def delete_many(self, keys: Iterable[str]) -> int:
        """Forget these keys; returns how many were there."""

    def close(self) -> None: ...


@runtime_checkable
class Scannable(Protocol):
    """A provider that can say what it holds. ``prefix`` is taken literally, whatever characters it has.

    What is written or deleted while a scan runs may or may not be seen; what was there all the time is seen once.
    Neither method blocks other users of a server.
    """

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that begin with ``prefix``, in no particular order. Costs a walk over all that the provider has."""

    def clear(self, prefix: str = "") -> int:
        """Forget the keys that begin with ``prefix`` and no others; returns how many were forgotten."""


@runtime_checkable
class Expiring(Protocol):
    """A provider that can say how long a value has left."""

    def ttl(self, key: str) -> float | None:
        """Seconds left; ``math.inf`` for a value that does not expire, None for an absent key."""

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        """As :meth:`ttl` for many; absent keys are left out."""


@runtime_checkable
class Adding(Protocol):
    """A provider that can store a value only where there is none, in one step."""

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        """Store the value if the key is absent; says whether it was. Of several concurrent callers one hears True."""

    def add_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> int:
        """As :meth:`add` for many; returns how many were absent. Atomic for each key, not for all."""


@runtime_checkable
class Native(Protocol):
    """A provider over a client with abilities of its own, which ``native`` is. Closed with the provider."""

    @property
    def native(self) -> object: ...

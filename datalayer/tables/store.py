"""``StoreProvider``: any key/value store as a provider, so that tables can lie in a file or a database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, Self, cast, runtime_checkable

from ..errors import ConfigError, UnavailableError
from .abilities import with_abilities
from .checks import check_key, check_ttl, check_value


@runtime_checkable
class Store(Protocol):
    """The part of a key/value store that is needed here. Thread-safe."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def get(self, key: bytes) -> bytes | None: ...

    def delete(self, key: bytes) -> bool: ...

    def exists(self, key: bytes) -> bool: ...

    def close(self) -> None: ...


@runtime_checkable
class _Walks(Protocol):
    def scan(self, prefix: bytes = b"") -> Iterable[tuple[bytes, bytes]]: ...


@runtime_checkable
class _Ends(Protocol):
    def ttl(self, key: bytes) -> float | None: ...


class StoreProvider:
    """A :class:`~datalayer.contracts.provider.Provider` over a store: keys in UTF-8, values as they are. Thread-safe.

    Scannable if the store has ``scan``, Expiring if it has ``ttl``; ``native`` is the store. A life needs a store whose
    ``put`` takes ``ttl``, ConfigError otherwise. Calls with many keys cost one call to the store for each. ``close``
    closes the store, unless ``owned`` is False: then only the provider ends.
    """

    def __new__(cls, store: Store, *_: Any, **__: Any) -> Self:
        able = tuple(mixin for ability, mixin in _MIXINS.items() if isinstance(store, ability))
        return cast(Self, object.__new__(with_abilities(cls, able)))

    def __init__(self, store: Store, *, owned: bool = True) -> None:
        if not isinstance(store, Store):
            raise ConfigError(f"store is a {type(store).__name__}; expected put, get, delete, exists and close")
        self._store: Any = store
        self._owned = owned
        self._closed = False

    @property
    def native(self) -> object:
        """The store."""
        store: object = self._store
        return store

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._open().get(check_key(key).encode())
        return found

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._put(check_key(key), check_value(value, key), check_ttl(ttl))

    def delete(self, key: str) -> bool:
        return bool(self._open().delete(check_key(key).encode()))

    def exists(self, key: str) -> bool:
        return bool(self._open().exists(check_key(key).encode()))

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        check_ttl(ttl)
        for key, value in items.items():
            check_value(value, check_key(key))
        for key, value in items.items():
            self._put(key, value, ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        return sum(map(self.delete, dict.fromkeys(keys)))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._owned:
                self._store.close()

    def __repr__(self) -> str:
        return f"<StoreProvider of {self._store!r}>"

    def _open(self) -> Any:
        if self._closed:
            raise UnavailableError("this StoreProvider is closed; make another one")
        return self._store

    def _put(self, key: str, value: bytes, ttl: float | None) -> None:
        store = self._open()
        if ttl is None:
            store.put(key.encode(), value)
            return
        try:
            store.put(key.encode(), value, ttl=ttl)
        except TypeError as error:
            if isinstance(store, _Ends):
                raise
            raise ConfigError(f"{type(store).__name__}.put takes no ttl; leave it out, or use another store") from error


class _Scans(StoreProvider):
    def keys(self, prefix: str = "") -> Iterator[str]:
        listing = getattr(self._open(), "keys", None)  # spares the values, where there is one
        start = prefix.encode()
        found = listing(start) if listing is not None else (key for key, _ in self._store.scan(start))
        return (key.decode() for key in found)

    def clear(self, prefix: str = "") -> int:
        return self.delete_many(list(self.keys(prefix)))


class _Expires(StoreProvider):
    def ttl(self, key: str) -> float | None:
        left: float | None = self._open().ttl(check_key(key).encode())
        return left

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        left = {key: self.ttl(key) for key in keys}
        return {key: seconds for key, seconds in left.items() if seconds is not None}


_MIXINS: dict[Any, type[StoreProvider]] = {_Walks: _Scans, _Ends: _Expires}

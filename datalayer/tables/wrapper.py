"""The basis of providers around another one: everything goes through, and the inner one's rare abilities show.

A wrapper of a provider that is Scannable, Expiring, Adding or Native is so too, and no other is: the class that is
made has the methods of those abilities only, so that ``isinstance`` tells the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, cast

from ..contracts.provider import Adding, Expiring, Native, Provider, Scannable
from .abilities import with_abilities


class Wrapper:
    """Passes every call on. A subclass overrides :meth:`_out` and :meth:`_in`, which see each value that is written
    and read, or whole methods of ``Provider``. ``close`` closes what is wrapped."""

    inner: Any

    def __new__(cls, inner: Provider, *_: Any, **__: Any) -> Self:
        able = tuple(mixin for ability, mixin in _MIXINS.items() if isinstance(inner, ability))
        return cast(Self, object.__new__(with_abilities(cls, able)))

    def __init__(self, inner: Provider) -> None:
        self.inner = inner

    def _out(self, key: str, value: bytes) -> bytes:
        """What is stored for a value."""
        return value

    def _in(self, key: str, stored: bytes) -> bytes:
        """The value of what is stored."""
        return stored

    def _added(self, key: str, value: bytes, ttl: float | None) -> None:
        """The inner provider has added a value."""

    def _cleared(self, prefix: str) -> None:
        """The inner provider has forgotten all keys with that prefix."""

    def get(self, key: str) -> bytes | None:
        stored = self.inner.get(key)
        return None if stored is None else self._in(key, stored)

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.inner.set(key, self._out(key, value), ttl)

    def delete(self, key: str) -> bool:
        found: bool = self.inner.delete(key)
        return found

    def exists(self, key: str) -> bool:
        found: bool = self.inner.exists(key)
        return found

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return {key: self._in(key, stored) for key, stored in self.inner.get_many(keys).items()}

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        self.inner.set_many({key: self._out(key, value) for key, value in items.items()}, ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        count: int = self.inner.delete_many(keys)
        return count

    def close(self) -> None:
        self.inner.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.inner!r}>"


class _Scans(Wrapper):
    def keys(self, prefix: str = "") -> Iterator[str]:
        found: Iterator[str] = self.inner.keys(prefix)
        return found

    def clear(self, prefix: str = "") -> int:
        count: int = self.inner.clear(prefix)
        self._cleared(prefix)
        return count


class _Expires(Wrapper):
    def ttl(self, key: str) -> float | None:
        left: float | None = self.inner.ttl(key)
        return left

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        left: dict[str, float] = self.inner.ttl_many(keys)
        return left


class _Adds(Wrapper):
    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        added: bool = self.inner.add(key, self._out(key, value), ttl)
        if added:
            self._added(key, value, ttl)
        return added

    def add_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> int:
        count: int = self.inner.add_many({key: self._out(key, value) for key, value in items.items()}, ttl)
        for key, value in items.items():
            self._added(key, value, ttl)  # or is there from before, which comes to the same
        return count


class _Shows(Wrapper):
    @property
    def native(self) -> object:
        shown: object = self.inner.native
        return shown


_MIXINS: dict[Any, type[Wrapper]] = {Scannable: _Scans, Expiring: _Expires, Adding: _Adds, Native: _Shows}

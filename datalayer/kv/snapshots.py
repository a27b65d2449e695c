"""A store as it was at one moment, for engines that keep a history of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self

from ..errors import UnavailableError
from .checks import checked_key, checked_prefix


class Past(Protocol):
    """What a view asks its engine. ``moment`` is what the engine's history pinned."""

    def get_as_of(self, key: bytes, moment: int) -> bytes | None: ...

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]: ...

    def known_keys(self, prefix: bytes) -> Iterator[bytes]: ...


class SnapshotView:
    """The :class:`~datalayer.contracts.store.View` of the engines here. For one thread at a time."""

    def __init__(self, past: Past, moment: int, unpin: Callable[[int], None]) -> None:
        self._past = past
        self._moment = moment
        self._unpin = unpin
        self._open = True

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._past.get_as_of(checked_key(key), self._moment)

    def exists(self, key: bytes) -> bool:
        return self.get(key) is not None

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        return self._scan(self._past.known_keys(checked_prefix(prefix)))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._unpin(self._moment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A view that is dropped must not keep old versions for ever.
        if getattr(self, "_open", False):
            self.close()

    def __repr__(self) -> str:
        return f"<snapshot of write {self._moment}, {'open' if self._open else 'closed'}>"

    def _scan(self, keys: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for key in keys:
            self._check_open()
            value = self._past.get_as_of(key, self._moment)
            if value is not None:
                yield key, value

    def _check_open(self) -> None:
        if not self._open:
            raise UnavailableError("the snapshot is closed; take another one")

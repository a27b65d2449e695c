"""What the shared tier (L2) offers to the ladder.

One key holds one row in all its shapes, so that one delete kills them all. A stored value is
``V<epoch>|<fill id>|<generation>|<entry>``; a token that announces a fill is ``L<token>``. Only a fill that still finds
its own token (or the very value it extends) is stored: whoever deletes the key in between wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Key(NamedTuple):
    """A row's address in the shared tier: ``space`` is the logical table (with database and scope), ``id`` the key."""

    space: str
    id: str


@dataclass(slots=True)
class Found:
    """A usable value: the entry's bytes, what is left of its life in seconds, and the prefix that names this value."""

    entry: bytes
    ttl: float
    prefix: bytes


@dataclass(slots=True)
class Lease:
    """Leave to fill one key: what the stored string must still begin with, and the generation it was given under."""

    expect: bytes
    generation: str


class SharedTier(Protocol):
    """A cache that several processes share. Thread-safe. No method raises because the server is away:
    reads answer "nothing", fills are dropped, and ``delete``/``bump`` answer False."""

    enabled: bool

    def get(self, key: Key) -> Found | None: ...

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]: ...

    def lease(self, key: Key) -> Lease | Found | None: ...

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Lease]: ...

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None: ...

    def fill_many(self, fills: Mapping[Key, tuple[Lease, bytes]], ttl: float) -> None: ...

    def delete(self, keys: Sequence[Key]) -> bool: ...

    def bump(self, spaces: Sequence[str]) -> bool: ...

    def ping(self) -> bool: ...

    def reset_after_fork(self) -> None: ...

    def close(self) -> None: ...

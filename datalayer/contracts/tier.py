"""What the shared tier (L2) offers to the ladder.

One key holds one row in all its shapes, so that one delete kills them all. A stored value is
``V<epoch>|<fill id>|<generation>|<payload>``; a token that announces a fill is ``L<token>``. Only a fill that still
finds its own token (or the very value it extends) is stored: whoever deletes the key in between wins.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict

from .fence import Stand

#: How the prefix of a queued write begins.
OVERLAY = b"O"

#: A value for L1, as part of a batch: its key, the value, its size in bytes, and the longest that it may live.
Put = tuple[Hashable, Any, int, float | None]


class Keeping(TypedDict, total=False):
    """How L1 is to keep a value.

    For ``ttl`` seconds (None or nothing: the model's), never longer than ``max_life``, and not after the moment
    ``until`` of L1's clock. ``size`` in bytes; ``prefix`` names the value of the shared tier that it was made of.
    """

    ttl: float | None
    size: int
    max_life: float | None
    prefix: bytes | None
    until: float


class Key(NamedTuple):
    """A row's address in the shared tier: ``space`` is the logical table (with database and scope), ``id`` the key."""

    space: str
    id: str


class Found(NamedTuple):
    """A usable value: the entry's bytes (empty: the row is known not to exist), what is left of its life in seconds,
    and the prefix that names this value."""

    entry: bytes
    ttl: float
    prefix: bytes

    @property
    def queued(self) -> bool:
        """Whether it shows what a write will leave that is not in the database yet."""
        return self.prefix.startswith(OVERLAY)


class Lease(NamedTuple):
    """Leave to fill one key: what the stored string must still begin with, and what it was given under."""

    expect: bytes
    generation: bytes
    births: bytes
    stand: Stand


class Fill(NamedTuple):
    """What a reader gives for a lease; ``ttl`` in seconds."""

    key: Key
    lease: Lease
    entry: bytes
    ttl: float


class Met(NamedTuple):
    """A writer's mark: the row is in the database only. ``record`` names its writers; None: leave it alone.

    ``stand`` is what a proof of their end would be told under.
    """

    record: bytes | None
    stand: Stand


class Busy(NamedTuple):
    """Somebody else is filling the key at this moment."""


class Queued(NamedTuple):
    """Writes of the row wait for the database, and what they make of it cannot be told before they are there."""


Leave = Lease | Found | Met | Busy | Queued | None


class SharedTier(Protocol):
    """A cache that several processes share. Thread-safe. No method raises because the server is away:
    reads answer "nothing", fills are dropped."""

    enabled: bool

    @property
    def round_trips(self) -> int: ...

    def get(self, key: Key) -> Found | None: ...

    def same(self, key: Key, prefix: bytes) -> bool:
        """Whether the usable value under a key is still the one of this prefix: a hit without its bytes."""

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]: ...

    def lease(self, key: Key) -> Leave: ...

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Leave]: ...

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None:
        """Store a value under a lease; an empty entry says that there is no row. Nobody waits for it."""

    def fill_many(self, fills: Sequence[Fill]) -> None:
        """As :meth:`fill` for many keys."""

    def release(self, key: Key, lease: Lease) -> None:
        """Give a lease back unused, so that nobody waits for its fill."""

    def extend(self, key: Key, found: Found, entry: bytes, ttl: float) -> None:
        """Replace a value that is still the one that was found; it lives no longer than it would have."""

    def resolve(self, key: Key, met: Met, entry: bytes | None, ttl: float) -> None:
        """The reader's own snapshot has seen that the writers have ended: lift their marks, and store what it read."""

    def discard(self, key: Key, found: Found) -> None:
        """Forget a value that cannot be read, if it is still there. Nobody waits."""

    def matching(self, space: str, glob: str) -> set[str] | None:
        """The ids under a space that match a glob; None when there are too many to look at, or nobody answers."""

    def ping(self) -> bool: ...

    def reset_after_fork(self) -> None: ...

    def close(self) -> None: ...

"""The shared tier of a layer without Redis: it knows nothing and forgets everything at once."""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts.tier import Fill, Found, Key, Lease, Leave, Met


class NullTier:
    """Answers "nothing" to every read. Thread-safe."""

    enabled = False
    round_trips = 0

    def get(self, key: Key) -> Found | None:
        return None

    def same(self, key: Key, prefix: bytes) -> bool:
        return False

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]:
        return {}

    def lease(self, key: Key) -> Leave:
        return None

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Leave]:
        return {}

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None:
        """Keeps nothing."""

    def fill_many(self, fills: Sequence[Fill]) -> None:
        """Keeps nothing."""

    def release(self, key: Key, lease: Lease) -> None:
        """Gives no leases."""

    def extend(self, key: Key, found: Found, entry: bytes, ttl: float) -> None:
        """Keeps nothing."""

    def resolve(self, key: Key, met: Met, entry: bytes | None, ttl: float) -> None:
        """Holds no marks."""

    def discard(self, key: Key, found: Found) -> None:
        """Holds nothing."""

    def matching(self, space: str, glob: str) -> set[str] | None:
        return set()

    def ping(self) -> bool:
        return True

    def reset_after_fork(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""

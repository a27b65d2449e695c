"""The shared tier of a layer without Redis: it knows nothing and forgets everything at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts.tier import Found, Key, Lease


class NullTier:
    """Answers "nothing" to every read and "done" to every invalidation. Thread-safe."""

    enabled = False
    round_trips = 0

    def get(self, key: Key) -> Found | None:
        return None

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]:
        return {}

    def lease(self, key: Key) -> Lease | Found | None:
        return None

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Lease]:
        return {}

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None:
        """Keeps nothing."""

    def fill_many(self, fills: Mapping[Key, tuple[Lease, bytes]], ttl: float) -> None:
        """Keeps nothing."""

    def delete(self, keys: Sequence[Key]) -> bool:
        return True

    def bump(self, spaces: Sequence[str]) -> bool:
        return True

    def ping(self) -> bool:
        return True

    def reset_after_fork(self) -> None:
        """Holds nothing."""

    def close(self) -> None:
        """Holds nothing."""

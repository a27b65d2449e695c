"""What the shared tier offers to cached query results: lists that stay true while the tags they depend on stand still.

Section 7 of the Epoch-Fenced Marks protocol. A result is stored together with the generations of its tags, which were
read before its query began; it is believed while they are still the same and no change of a tag is being committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Recalled(NamedTuple):
    """What is known of a result. ``entry``: its bytes, None when there is none that may be believed; ``ttl``: what is
    left of its life in seconds; ``guards``: the tags' generations, None when they cannot be told or one is being
    changed; ``settled``: a new result may be stored under them."""

    entry: bytes | None
    ttl: float
    guards: bytes | None
    settled: bool


class SharedResults(Protocol):
    """Query results that several processes share. Thread-safe; no method raises because the server is away."""

    def recall(self, digest: str, tags: Sequence[str]) -> Recalled: ...

    def store(self, digest: str, tags: Sequence[str], guards: bytes, entry: bytes, ttl: float) -> None:
        """Keep a result whose query began after ``guards`` were read. Nobody waits for it."""

    def unchanged(self, tags: Sequence[str], guards: bytes) -> bool:
        """Whether the tags' generations are still these, and no change of one is being committed."""

"""The journal ``redis``: a stream a shard, shared by all processes, whose ids are the sequence numbers.

It is as durable as that Redis' append-only file and replication are. The offset lies in the database, so whoever takes
the offset's row may flush, and what one flusher began another one goes on with.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from ..contracts.journal import Entry, JournalFailed

if TYPE_CHECKING:
    from ..tiers.l2.overlay import RedisOverlay

_NAMESPACE = uuid.UUID("6d0b5e34-58a5-4a7e-9d0f-9a4f3c0a0b51")


class StreamJournal:
    """See :class:`datalayer.contracts.journal.Journal`. Thread-safe. JournalFailed while Redis does not answer."""

    durability = "as durable as the append-only file and the replication of its Redis; survives any process"

    def __init__(self, overlay: RedisOverlay, shard: int, prefix: str) -> None:
        self.id = uuid.uuid5(_NAMESPACE, f"{prefix}:{shard}")
        self.shard = shard
        self._overlay = overlay

    def read(self, after: int, limit: int) -> list[Entry]:
        return self._range(after + 1, None, limit)

    def applied(self, upto: int, limit: int) -> list[Entry]:
        return self._range(0, upto, limit) if upto else []

    def _range(self, first: int, last: int | None, limit: int) -> list[Entry]:
        found = self._overlay.read(self.shard, first, last, limit)
        if found is None:
            raise JournalFailed(f"Redis does not answer for the journal of shard {self.shard}", certain=True)
        return found

    def has(self, entry: Entry) -> bool:
        """Whether an entry is in the stream now."""
        return bool(self._range(entry.seq, entry.seq, 1))

    def remove(self, upto: int) -> None:
        self._overlay.trim(self.shard, upto)

    def last(self) -> int | None:
        """The largest number that was ever in the stream; None while Redis does not answer."""
        return self._overlay.last(self.shard)

    def __len__(self) -> int:
        return self._overlay.length(self.shard) or 0

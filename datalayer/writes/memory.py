"""The journal ``memory``: gone with the process. For tests, and for writes that nobody would miss."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace

from ..contracts.journal import Entry


class MemoryJournal:
    """See :class:`datalayer.contracts.journal.Appending`. Thread-safe."""

    durability = "none: queued writes are lost with the process"

    def __init__(self) -> None:
        self.id = uuid.uuid4()
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._next = 1

    def append(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            for entry in entries:
                self._entries[self._next] = replace(entry, id=self._next)
                self._next += 1

    def read(self, after: int, limit: int) -> list[Entry]:
        with self._lock:
            return [entry for id, entry in self._entries.items() if id > after][:limit]

    def applied(self, upto: int, limit: int) -> list[Entry]:
        with self._lock:
            return [entry for id, entry in self._entries.items() if id <= upto][:limit]

    def remove(self, upto: int) -> None:
        with self._lock:
            for id in [id for id in self._entries if id <= upto]:
                del self._entries[id]

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """What is left is lost, as said."""

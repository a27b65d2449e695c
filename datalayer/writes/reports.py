"""What write-behind says of itself: what a flush did, and what is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What a flush did. ``flushed`` queued writes were applied; ``left`` are still in the journals that this process
    flushes; ``waiting`` were refused and will be tried again; ``dead`` are dead letters. ``error``: what stopped it."""

    flushed: int = 0
    left: int = 0
    waiting: int = 0
    dead: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the database has everything that was queued."""
        return not (self.left or self.waiting or self.error)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What waits: queued writes by journal (``redis:<shard>``, or the name of a file), refused writes that will be
    tried again, and dead letters. ``journal`` says what the journal in use survives; ``lost`` what this process has
    seen getting lost."""

    journals: Mapping[str, int]
    waiting: int
    dead: int
    journal: str
    lost: Sequence[str] = ()

    @property
    def queued(self) -> int:
        return sum(self.journals.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "journals": dict(self.journals), "lost": list(self.lost), "queued": self.queued}

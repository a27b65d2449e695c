"""Rows that are queued and not in the database yet: looked for wherever a read would pass the caches by.

The shared tier shows them as overlays. Where it does not know, this process's own queue is asked; where nobody can tell
what the row will be, the read waits until the database has it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..contracts.coherence import ABSENT, Absent
from ..contracts.tier import Found, Queued, SharedTier
from ..models.schema import Schema
from .needs import Backlog, Row
from .packing import Packing


class Overlays:
    """The queued writes of one space. Thread-safe. ``backlog``: those of this process, if the space is written behind;
    ``l2`` is None where there is no shared tier."""

    def __init__(self, packing: Packing, l2: SharedTier | None, counts: Counter[str]) -> None:
        self.backlog: Backlog | None = None
        self._packing = packing
        self._l2 = l2
        self._counts = counts

    def find(self, schema: Schema, key: tuple[Any, ...]) -> Row | Absent | None:
        """What is queued for a key; None: the database knows best."""
        if self.backlog is None:
            return None
        if self._l2 is None:
            return self.own(schema, key, None)
        address = self._packing.address(key)
        leave = self._l2.lease(address)
        if not isinstance(leave, Found):
            return self.own(schema, key, leave)
        if not leave.queued:
            return None
        row = self._packing.unpack(schema, key, address, leave) if leave.entry else ABSENT
        if row is None:
            self.settle(key)
        return row

    def own(self, schema: Schema, key: tuple[Any, ...], leave: Any) -> Row | Absent | None:
        """What this process has queued itself, unless the shared tier's ``leave`` vouches that nothing is."""
        if self.backlog is None or isinstance(leave, Found):
            return None
        if isinstance(leave, Queued):
            self.settle(key)
            return None
        values = self.backlog.newest(key, vouched=leave is not None)
        return Row(values, schema.full, "queued") if isinstance(values, tuple) else values

    def settle(self, key: tuple[Any, ...]) -> None:
        """Wait, not for ever, until the database has a queued write that cannot be read here."""
        self._counts["settled"] += 1
        if self.backlog is not None:
            self.backlog.settle(key)

"""Rows from L1 after their end, while the database is away: for applications that prefer an old answer to none.

This is outside of every promise about consistency, so it is only done on request (``stale_on_error``), for reads that
may lag anyway (``"cached"``), of rows that exist, outside of transactions, and for a bounded time. Rows that this
process knows to have changed are not in L1 any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from ..contracts.coherence import Absent
from ..errors import L3UnavailableError, PoolTimeout
from ..models.schema import Schema
from ..observe.logs import StateLog
from .ladder import Ladder
from .needs import FOREVER, Row

log = logging.getLogger("datalayer.l3")

#: Seconds for which the database is left alone after it could not be reached, where there is something to serve.
_PAUSE = 1.0

Key = tuple[Any, ...]


class Stale:
    """Serves rows whose end is at most ``limit`` seconds ago. Thread-safe.

    A row ends with its time to live, or at the last moment up to which news from other processes were complete:
    ``vouched``, which others advance. Every row that is served so counts as ``stale`` in its model's statistics.
    """

    def __init__(self, limit: float, clock: Callable[[], float], vouched: list[float] = FOREVER) -> None:
        self.limit = limit
        self._clock = clock
        self._vouched = vouched
        self._state = StateLog(log)
        self._state.assume("database", "reachable")
        self._until = 0.0

    def read(self, ladder: Ladder, schema: Schema, key: Key, ask: Callable[[], Row | Absent]) -> Row | Absent:
        """What ``ask`` says; while the database is away, what L1 had."""
        if self._clock() < self._until and (found := ladder.near.look(schema, key) or self._find(ladder, schema, key)):
            return found
        try:
            row = ask()
        except PoolTimeout:
            raise
        except L3UnavailableError:
            self._away()
            stale = self._find(ladder, schema, key)
            if stale is None:
                raise
            return stale
        if self._until and (isinstance(row, Absent) or row.tier == "l3"):
            self._back()
        return row

    def read_many(
        self, ladder: Ladder, schema: Schema, keys: Iterable[Key], ask: Callable[[], dict[Key, Row]]
    ) -> dict[Key, Row]:
        """As :meth:`read` for a batch: all of its rows, or the error."""
        try:
            return ask()
        except PoolTimeout:
            raise
        except L3UnavailableError:
            self._away()
            found = {key: ladder.near.look(schema, key) or self._find(ladder, schema, key) for key in keys}
            if None in found.values():
                raise
            return {key: row for key, row in found.items() if isinstance(row, Row)}

    def _find(self, ladder: Ladder, schema: Schema, key: Key) -> Row | None:
        vouched = self._vouched[0]
        entry = ladder.l1.index.get(key[0] if len(key) == 1 else key)
        if entry is None or self._clock() - min(entry.deadline, max(vouched, entry.born)) > self.limit:
            return None
        found = ladder.near.served(schema, entry)
        if not isinstance(found, Row):
            return None
        ladder.counts["stale"] += 1
        return found

    def _away(self) -> None:
        self._until = self._clock() + _PAUSE
        self._state.change(
            "database",
            "away",
            "the database cannot be reached; rows are served from memory after their end",
            level=logging.WARNING,
            limit=self.limit,
        )

    def _back(self) -> None:
        self._until = 0.0
        self._state.change("database", "reachable", "the database answers again", level=logging.WARNING)

    def reset_after_fork(self) -> None:
        """In the child: under a lock that nobody in the parent can be holding."""
        self._state.reset_after_fork()

"""Looks at the health of the servers every so often, so that a change is logged although nobody asks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ..observe.rounds import Rounds


class Vigil:
    """Calls ``look``, a bound method, every ``period`` seconds from the first connection of ``engine`` on.

    Thread-safe; keeps ``look``'s owner alive no longer than others do.
    """

    def __init__(self, engine: sa.Engine, period: float, look: Callable[[], object]) -> None:
        self._engine = engine
        self._rounds = Rounds("datalayer-health", period, look)
        rounds = weakref.ref(self._rounds)

        def connected(*_: Any) -> None:
            if (found := rounds()) is not None:
                found.start()

        self._connected = connected
        sa.event.listen(engine, "connect", connected)

    def close(self) -> None:
        """Stop. Idempotent."""
        if sa.event.contains(self._engine, "connect", self._connected):
            sa.event.remove(self._engine, "connect", self._connected)
        self._rounds.close()

    def reset_after_fork(self) -> None:
        self._rounds.reset_after_fork()

"""Something that is done every so often from the first connection of an engine on: not before anybody needs it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ..observe.rounds import Rounds


class Vigil:
    """Calls ``act``, a bound method, every ``period`` seconds; ``at_once``: also when it starts, in its thread.

    Thread-safe; keeps ``act``'s owner alive no longer than others do.
    """

    def __init__(
        self, name: str, engine: sa.Engine, period: float, act: Callable[[], object], *, at_once: bool = False
    ) -> None:
        self._engine = engine
        self._rounds = Rounds(name, period, act, at_once=at_once)
        rounds = weakref.ref(self._rounds)

        def connected(*_: Any) -> None:
            if (found := rounds()) is not None and not found.started:
                found.start()

        self._connected = connected
        sa.event.listen(engine, "connect", connected)

    def close(self) -> None:
        """Stop. Idempotent."""
        self._rounds.close()

    def remove(self) -> None:
        """Leave the engine; not while somebody may be connecting, who would meet the change. Idempotent."""
        if sa.event.contains(self._engine, "connect", self._connected):
            sa.event.remove(self._engine, "connect", self._connected)

    def start(self) -> None:
        """Do not wait for a connection."""
        self._rounds.start()

    def reset_after_fork(self) -> bool:
        """The parent's thread stays the parent's; the child's starts with its first connection. Says whether there was
        one."""
        return self._rounds.reset_after_fork()

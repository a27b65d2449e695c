"""A read-only copy of the database, for reads that fill no cache, and whether it has what this process has written.

Nothing of a standby is ever cached: it says that transactions have ended which still run on the primary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ..observe.logs import StateLog

log = logging.getLogger("datalayer.l3")

_PAUSE = 0.005
#: After the write: everything up to its commit is before this position.
_POSITION = sa.text("SELECT CAST(pg_current_wal_insert_lsn() AS text)")
#: NULL where nothing is replayed: on a primary, or a copy that is kept by other means.
_REACHED = sa.text("SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), CAST(CAST(:position AS text) AS pg_lsn)) >= 0")


class Replica:
    """The engine of a copy of ``primary``. Thread-safe. ``writes`` counts the commits of this process that wrote.

    On PostgreSQL it is known what the copy has replayed. With another database, or a copy that is not in recovery, it
    cannot be told, and the copy serves only while this process has written nothing.
    """

    def __init__(self, engine: sa.Engine, primary: sa.Engine, writes: Callable[[], int]) -> None:
        self.engine = engine
        self._primary = primary
        self._writes = writes
        self._known: tuple[int, str] = (0, "")
        self._state = StateLog(log)
        self._state.assume("replica", "in use")
        self.refuses_writes = engine.dialect.name == "postgresql"
        if self.refuses_writes:
            sa.event.listen(engine, "connect", _only_read)

    def ready(self, wait: float) -> bool:
        """Whether the copy answers and has every write of this process, by now or within ``wait`` seconds."""
        try:
            ready = self._reached(self._position(), time.monotonic() + wait)
        except sa.exc.SQLAlchemyError as error:
            kind = type(error).__name__
            self._state.change("replica", "away", f"the read replica fails ({kind})", level=logging.WARNING)
            return False
        self._state.change("replica", "in use", "the read replica is in use")
        return ready

    def _position(self) -> str | None:
        """Where the last write of this process is at the latest; None when there was none; "" when nobody knows."""
        written = self._writes()  # before the question: what is committed meanwhile is not answered for
        if not written:
            return None
        seen, position = self._known
        if seen == written or self._primary.dialect.name != "postgresql":
            return position
        position = str(_scalar(self._primary, _POSITION))
        self._known = written, position
        return position

    def _reached(self, position: str | None, deadline: float) -> bool:
        if position is None:
            return bool(_scalar(self.engine, sa.text("SELECT 1")) == 1)
        if not position or self.engine.dialect.name != "postgresql":
            return False
        while (reached := _scalar(self.engine, _REACHED, position=position)) is False and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        return bool(reached)

    def ping(self) -> float:
        """Seconds that the copy takes to answer. Raises what connecting raises."""
        began = time.perf_counter()
        _scalar(self.engine, sa.text("SELECT 1"))
        return time.perf_counter() - began

    def reset_after_fork(self) -> None:
        """In the child: the parent's connections stay the parent's."""
        self._state.reset_after_fork()
        self.engine.dispose(close=False)


def _only_read(connection: Any, _record: Any) -> None:
    """By the session's default: a standby refuses transactions that say themselves what they are."""
    cursor = connection.cursor()
    cursor.execute("SET default_transaction_read_only = on")
    cursor.close()
    connection.commit()


def _scalar(engine: sa.Engine, statement: Any, **values: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(statement, values).scalar()

"""A pool of connections that keeps to its settings while nobody asks, and says which it is when it is exhausted.

SQLAlchemy's pool looks at a connection only when somebody wants one. Here the *janitor*, one thread a layer, opens what
``pool_min`` promises, and closes what has been idle or alive for too long. It starts with the first connection.
"""

from __future__ import annotations

import logging
import random
import select
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.util import queue

from ..errors import PoolTimeout
from .vigil import Vigil

log = logging.getLogger("datalayer.l3")

_SINCE = "datalayer.idle_since"

_SHARE = "datalayer.share_of_jitter"

#: A connection that was in use so many seconds ago, and whose socket is silent, is alive.
_TRUSTED = 5.0


class Exhausted(PoolTimeout, sa.exc.TimeoutError):
    """Caught as this project's error and as SQLAlchemy's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """What a pool does beyond SQLAlchemy's. ``least`` connections stay open; idle ones beyond them are closed after
    ``max_idle`` seconds (0: never). A connection's life ends up to ``jitter`` seconds before its time. ``looks``: dead
    connections are replaced, and with them the whole pool, before they are lent."""

    name: str = "connections"
    least: int = 0
    max_idle: float = 0.0
    jitter: float = 0.0
    looks: bool = False


class Pool(sa.pool.QueuePool):
    """Thread-safe, as its base is."""

    manners = Manners()

    def recreate(self) -> Self:
        made = super().recreate()
        made.manners = self.manners  # type: ignore[attr-defined]
        return made  # type: ignore[return-value]

    def _do_get(self) -> Any:
        record = self._wait_for_one()
        if record.dbapi_connection is None or self._invalidate_time > record.starttime:
            return record  # it is opened anew in any case
        try:
            if self._is_old(record):
                record.close()
            elif self.manners.looks and not self._alive(record):
                log.info("connections of %s had died while they were idle; new ones are opened", self.manners.name)
                record.invalidate()
                self._invalidate_time = time.time()  # those that are as old have died with it
        except BaseException:
            super()._do_return_conn(record)
            raise
        return record

    def _is_old(self, record: Any) -> bool:
        """Whether a connection's life is over, by chance a little before its time: they shall not all end at once."""
        share = record.record_info.setdefault(_SHARE, random.random())
        return bool(-1 < self._recycle < time.time() - record.starttime + share * self.manners.jitter)

    def _alive(self, record: Any) -> bool:
        """Whoever ends a session says so on its socket, and looking there costs no round trip. Only a connection that
        was idle for long is asked, because a router on the way may have forgotten it without a word."""
        since: float | None = record.record_info.get(_SINCE)
        if since is None:
            return True  # it has just been opened
        if time.monotonic() - since < _TRUSTED and _silent(record.dbapi_connection):
            return True
        return bool(self._dialect._do_ping_w_event(record.dbapi_connection))

    def _wait_for_one(self) -> Any:
        try:
            return super()._do_get()
        except Exhausted:
            raise
        except sa.exc.TimeoutError as error:
            raise Exhausted(
                f"the pool of {self.manners.name} is exhausted: all {self.size()} connections were in use for "
                f"{self._timeout:g} s (pool_size={self.size()}, pool_timeout={self._timeout:g}); raise one of them, "
                "or look for sessions that stay open"
            ) from error

    def _do_return_conn(self, record: Any) -> None:
        record.record_info[_SINCE] = time.monotonic()
        super()._do_return_conn(record)

    def open_connections(self) -> int:
        """How many connections there are, lent or idle."""
        return self.checkedin() + self.checkedout()

    def tidy(self) -> None:
        """Close idle connections whose time is over, the longest idle first, and open those that are missing."""
        for record in self._overdue():
            record.close()
            self._dec_overflow()
        while self.open_connections() < self.manners.least and self._inc_overflow():
            try:
                record = self._create_connection()
            except BaseException:
                self._dec_overflow()
                raise
            self._do_return_conn(record)

    def _overdue(self) -> list[Any]:
        """Take idle connections out that shall be closed."""
        now = time.monotonic()
        kept: list[Any] = []
        out: list[Any] = []
        spare = self.open_connections() - self.manners.least
        for record in self._taken():
            idle = now - record.record_info.get(_SINCE, now)
            if self._is_old(record) or (spare > len(out) and 0 < self.manners.max_idle < idle):
                out.append(record)
            else:
                kept.append(record)
        for record in kept:
            super()._do_return_conn(record)
        return out

    def _taken(self) -> list[Any]:
        """All idle connections for a moment, the longest idle first; who needs one meanwhile opens a new one."""
        found: list[Any] = []
        while True:
            try:
                found.append(self._pool.get(False))
            except queue.Empty:
                break
        return sorted(found, key=lambda record: record.record_info.get(_SINCE, 0.0))


def _silent(connection: Any) -> bool:
    """Whether nothing came in on an idle connection; bytes, or their end, are the server's last words."""
    try:
        looking = select.poll()
        looking.register(connection.fileno(), select.POLLIN)
        return not looking.poll(0)
    except Exception:  # there is no such call here, or the driver knows that the connection is closed
        return False


def open_now(engine: sa.Engine) -> None:
    """Open the connections that a pool promises, one at least. Raises what connecting raises."""
    least = engine.pool.manners.least if isinstance(engine.pool, Pool) else 1
    with ExitStack() as stack:
        for _ in range(max(1, least)):
            stack.enter_context(engine.connect())


class Janitor:
    """Tidies the pools of some engines every ``period`` seconds, 0 for never. Thread-safe."""

    def __init__(self, engines: Sequence[sa.Engine], period: float) -> None:
        self._engines = engines
        self._vigil = (
            Vigil("datalayer-pool", engines[0], period, self.turn, at_once=True) if period and engines else None
        )

    def turn(self) -> None:
        """Tidy once. A database that cannot be reached is somebody else's to report."""
        for engine in self._engines:
            pool = engine.pool
            if not isinstance(pool, Pool):
                continue
            try:
                pool.tidy()
            except Exception as error:
                log.debug("the pool of %s cannot be tidied (%s)", pool.manners.name, type(error).__name__)

    def close(self) -> None:
        """Stop the thread. Idempotent."""
        if self._vigil is not None:
            self._vigil.close()

    def reset_after_fork(self) -> None:
        if self._vigil is not None:
            self._vigil.reset_after_fork()

"""The fence table in PostgreSQL: which epoch each shard of the shared tier has, and from which transaction on it is
good. Written only when something fails. Section 2.1 of the protocol.

One row a shard. ``epoch`` only grows; the epoch's id is ``<epoch>.<nonce>``. ``theta`` is the transaction that opened
it: whatever began before may have missed its marks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

T = TypeVar("T")

log = logging.getLogger("datalayer.coherence")

FENCE = """
CREATE TABLE IF NOT EXISTS datalayer_fence (
  shard   integer PRIMARY KEY,
  epoch   bigint NOT NULL,
  nonce   text NOT NULL DEFAULT '',
  st      smallint NOT NULL DEFAULT 0,
  lineage text,
  theta   xid8 NOT NULL DEFAULT '0',
  pgid    text NOT NULL
) WITH (fillfactor = 50)
"""

APPLIED = """
CREATE TABLE IF NOT EXISTS datalayer_wb_applied (
  journal uuid PRIMARY KEY,
  last_id bigint NOT NULL
)
"""

#: The tables by name.
TABLES = {"datalayer_fence": FENCE, "datalayer_wb_applied": APPLIED}

#: NULL on a standby, which has no current position of its own and must never vouch for anything.
PGID = (
    "CASE WHEN pg_is_in_recovery() THEN NULL ELSE (SELECT system_identifier FROM pg_control_system()) || ':' || "
    "left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)

_AT_ONCE = 1.0

MAKING_LOCK = 0x646C_666E  # "dlfn": two processes that both find no table make one

#: For whoever makes the tables in a transaction.
TAKE_TURNS = f"SELECT pg_advisory_xact_lock({MAKING_LOCK})"

_POLL = (
    "SELECT f.shard, f.epoch || '.' || f.nonce, f.st, f.lineage, p.id IS NOT DISTINCT FROM f.pgid, "
    "pg_snapshot_xmin(pg_current_snapshot()) >= f.theta "
    f"FROM datalayer_fence f, (SELECT {PGID} AS id) p WHERE p.id IS NOT NULL"
)


class Line(NamedTuple):
    """A row of the fence as a poll saw it. ``same``: the database is the one that it was written in; ``settled``: no
    transaction from before theta was running."""

    shard: int
    epoch: str
    state: int
    lineage: str | None
    same: bool
    settled: bool


class _Lost(Exception):
    """The connection broke under a statement."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


def _translated(error: BaseException, driver: Any) -> BaseException:
    """The driver's error as SQLAlchemy's: writers get it from their COMMIT."""
    if not isinstance(error, driver.Error):
        return error
    found: BaseException = sa.exc.DBAPIError.instance(None, None, error, driver.Error, hide_parameters=True)
    return found


class Ledger:
    """The fence over connections of its own, on AUTOCOMMIT. Thread-safe. Raises SQLAlchemy's errors."""

    def __init__(self, engine: sa.Engine, watch: Callable[[Any], Any], release: Callable[[Any], Any]) -> None:
        self._engine = engine
        self._watch = watch
        self._release = release
        self._lock = threading.Lock()
        self._made: set[int] = set()

    def read(self, shards: int) -> list[Line]:
        """Every shard's line; the table and missing lines are made on the first call. Empty on a standby."""
        if shards not in self._made:
            with self._lock:
                self._make(shards)
                self._made.add(shards)
        return [Line(*row) for row in self._run(_POLL) if row[0] < shards]

    def _make(self, shards: int) -> None:
        def make(cursor: Any) -> None:
            cursor.execute("SELECT to_regclass('datalayer_fence') IS NOT NULL")
            if cursor.fetchone()[0]:
                cursor.execute("SELECT count(*) FROM datalayer_fence WHERE shard < %s", (shards,))
                if cursor.fetchone()[0] < shards:
                    cursor.execute(lines(shards))  # without CREATE, which this role may not do
                return
            for statement in creation(shards):
                cursor.execute(statement)

        self._do(make)

    def end(self, shard: int, epoch: str) -> bool:
        """REVOKE: nobody may use this epoch any more. False when it had ended before."""
        return self._change(
            "UPDATE datalayer_fence SET st = 0, epoch = epoch + 1, nonce = '', lineage = NULL "
            "WHERE shard = %s AND epoch || '.' || nonce = %s AND st <> 0",
            (shard, epoch),
        )

    def adopt(self, shard: int, epoch: str) -> bool:
        """The database was restored or promoted: end the epoch and note who it is now."""
        return self._change(
            f"UPDATE datalayer_fence SET st = 0, epoch = epoch + 1, nonce = '', lineage = NULL, pgid = {PGID} "
            "WHERE shard = %s AND epoch || '.' || nonce = %s",
            (shard, epoch),
        )

    def begin(self, shard: int, old: str, new: str, lineage: str) -> bool:
        """A: writers mark from now on. False when somebody else was first."""
        number, nonce = new.split(".")
        return self._change(
            "UPDATE datalayer_fence SET st = 1, epoch = %s, nonce = %s, lineage = %s "
            "WHERE shard = %s AND epoch || '.' || nonce = %s AND st = 0",
            (int(number), nonce, lineage, shard, old),
        )

    def open(self, shard: int, epoch: str) -> bool:
        """B, a later transaction than A: readers may use the epoch, and fill once everything before has ended."""
        return self._change(
            "UPDATE datalayer_fence SET st = 2, theta = pg_current_xact_id() "
            "WHERE shard = %s AND epoch || '.' || nonce = %s AND st = 1",
            (shard, epoch),
        )

    def ended(self, xids: Sequence[str]) -> dict[str, bool]:
        """Which of these transactions have ended, whatever their outcome. All False on a standby, which cannot tell."""
        rows = self._run(
            "SELECT m, NOT pg_is_in_recovery() AND pg_visible_in_snapshot(m::xid8, pg_current_snapshot()) "
            "FROM unnest(%s::text[]) m",
            (list(xids),),
        )
        return {xid: bool(ended) for xid, ended in rows}

    def _change(self, statement: str, parameters: tuple[Any, ...]) -> bool:
        def change(cursor: Any) -> bool:
            # A transaction of its own, and durable whatever the session's defaults are.
            cursor.execute("SET synchronous_commit = on")
            cursor.execute(statement, parameters)
            return bool(cursor.rowcount)

        return self._do(change)

    def _run(self, statement: str, parameters: tuple[Any, ...] | None = None) -> list[Any]:
        def run(cursor: Any) -> list[Any]:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())

        return self._do(run)

    def _do(self, work: Callable[[Any], T]) -> T:
        """Once more on a new connection if the first one had died in the pool: every statement here may be repeated."""
        driver: Any = self._engine.dialect.loaded_dbapi
        try:
            try:
                return self._attempt(work)
            except _Lost:
                # The others may have died with it. Not dispose(): what is lent would go back to a pool that is gone.
                self._engine.pool._invalidate(None)  # type: ignore[arg-type]
                return self._attempt(work)
        except _Lost as lost:
            raise _translated(lost.cause, driver) from lost.cause
        except driver.Error as error:
            raise _translated(error, driver) from error

    def _attempt(self, work: Callable[[Any], T]) -> T:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.dbapi_connection
        self._watch(connection)
        began = time.monotonic()
        try:
            return work(pooled.cursor())
        except BaseException as error:
            # What took long did not die in the pool: it hung, and would again.
            lost = isinstance(error, Exception) and connection.closed and time.monotonic() - began < _AT_ONCE
            pooled.invalidate(error if isinstance(error, Exception) else None)
            if lost:
                raise _Lost(error) from error
            raise
        finally:
            self._release(connection)
            pooled.close()

    def close(self) -> None:
        self._engine.dispose()

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._engine.dispose(close=False)


def creation(shards: int) -> tuple[str, ...]:
    """The statements that make the tables and the lines of this many shards. Idempotent."""
    return (
        f"SELECT pg_advisory_lock({MAKING_LOCK})",
        *TABLES.values(),
        lines(shards),
        f"SELECT pg_advisory_unlock({MAKING_LOCK})",
    )


def lines(shards: int) -> str:
    """The statement that makes the lines of this many shards. Idempotent."""
    return (
        f"INSERT INTO datalayer_fence (shard, epoch, pgid) SELECT s, 1, {PGID} FROM generate_series(0, {shards - 1}) s "
        "ON CONFLICT (shard) DO NOTHING"
    )

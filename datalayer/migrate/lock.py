"""One migrator at a time, on one connection: whoever loses the connection loses the lock and the work together.

On PostgreSQL the lock is an advisory one of the session, and it is polled. A session that *waits* inside
``pg_advisory_lock`` holds a snapshot, and CREATE INDEX CONCURRENTLY would wait for that snapshot for ever. A pooler
that gives each transaction another session (PgBouncer in transaction mode) breaks it: migrate past the pooler.
On SQLite it is the write lock of the file, taken with BEGIN IMMEDIATE: the whole migration is one transaction.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from ..errors import MigrationLockedError

_KEY = 0x646C6D67  # "dlmg"


@contextmanager
def only_migrator(engine: sa.Engine, *, wait: float, lock_timeout: float = 3.0) -> Iterator[sa.Connection]:
    """A connection in AUTOCOMMIT that holds the lock. MigrationLockedError if it is not free within ``wait`` seconds.

    No statement time-out is set on it, for building an index takes as long as it takes; waiting for another's lock is
    limited to ``lock_timeout`` seconds.
    """
    postgres = engine.dialect.name == "postgresql"
    own = _own_engine(engine) if postgres else engine
    with own.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if postgres:
            _postgres(connection, wait, lock_timeout)
            try:
                yield connection
            finally:
                _unlock(connection)
        elif engine.dialect.name == "sqlite":
            with _sqlite(connection, wait):
                yield connection
        else:
            yield connection


@contextmanager
def working(engine: sa.Engine, *, lock_timeout: float) -> Iterator[sa.Connection]:
    """A connection in AUTOCOMMIT for work that takes long and needs no lock of ours: no statement time-out."""
    postgres = engine.dialect.name == "postgresql"
    own = _own_engine(engine) if postgres else engine
    with own.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if postgres:
            _patience(connection, lock_timeout)
        yield connection


def _patience(connection: sa.Connection, lock_timeout: float) -> None:
    connection.exec_driver_sql(f"SET lock_timeout = {int(lock_timeout * 1000)}")
    connection.exec_driver_sql("SET statement_timeout = 0")


def _own_engine(engine: sa.Engine) -> sa.Engine:
    """Connects as ``engine`` does, but outside of its pool and of what watches its statements for being too slow."""
    pool = sa.pool.NullPool(engine.pool._creator, _dispatch=engine.pool.dispatch)
    return sa.create_engine(engine.url, pool=pool, hide_parameters=True)


def _postgres(connection: sa.Connection, wait: float, lock_timeout: float) -> None:
    deadline = time.monotonic() + wait
    while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}):
        if time.monotonic() >= deadline:
            raise MigrationLockedError(_held(connection, wait))
        time.sleep(0.05 + 0.1 * random.random())
    _patience(connection, lock_timeout)


_HOLDER = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = :key AND classid = 0 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def migrator(connection: sa.Connection) -> int | None:
    """The backend that migrates this PostgreSQL database now, if there is one."""
    found: int | None = connection.scalar(sa.text(_HOLDER), {"key": _KEY})
    return found


def _held(connection: sa.Connection, wait: float) -> str:
    return (
        f"another process (backend {migrator(connection)}) has been migrating this database for {wait:g} s; "
        "wait for it to end, or look at it in pg_stat_activity"
    )


def _unlock(connection: sa.Connection) -> None:
    # After an error the connection may be gone, and the lock with it: nothing to mask the error with.
    if not connection.invalidated and not connection.closed:
        try:
            connection.scalar(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _KEY})
        except sa.exc.SQLAlchemyError:
            connection.invalidate()


@contextmanager
def _sqlite(connection: sa.Connection, wait: float) -> Iterator[None]:
    _begin_immediate(connection, wait)
    try:
        yield
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


def _begin_immediate(connection: sa.Connection, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        except sa.exc.OperationalError as error:
            if "locked" not in str(error.orig):
                raise
            if time.monotonic() >= deadline:
                raise MigrationLockedError(f"another process has held this SQLite file for {wait:g} s") from error
            time.sleep(0.05 + 0.1 * random.random())

"""The database engines of a layer: one for transactions, one on AUTOCOMMIT for reads outside them.

psycopg forgets its prepared statements at every ROLLBACK, and a read-only transaction ends in one, so reads by key use
connections that never open a transaction. Both engines reach the same database in the same way.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ..errors import ConfigError, MissingDriverError
from .pool import Manners, Pool
from .watchdog import Watchdog

_EXTRA = {"psycopg": "psycopg[binary]", "pymysql": "pymysql", "oracledb": "oracledb", "asyncpg": "asyncpg"}


def open_engine(
    url: str | URL,
    *,
    pool_size: int,
    pool_timeout: float,
    pool_max_lifetime: float,
    pool_max_lifetime_jitter: float,
    pool_min: int,
    pool_max_idle: float,
    pool_pre_ping: bool,
    connect_timeout: float,
    statement_timeout: float,
    lock_timeout: float,
) -> tuple[sa.Engine, tempfile.TemporaryDirectory[str] | None]:
    """An engine with this project's defaults; all times in seconds, 0 for none.

    ``sqlite://`` becomes a private temporary file: connections to one ``:memory:`` database share each other's
    uncommitted rows, and a cache must never see those. The folder is returned for the caller to clean up.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(
            "url cannot be parsed as a database URL; expected dialect+driver://user:password@host/name"
        ) from error
    folder = None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        folder = tempfile.TemporaryDirectory(prefix="datalayer-")
        parsed = parsed.set(database=str(Path(folder.name) / "memory.db"))
    options: dict[str, Any] = {"hide_parameters": True}
    if parsed.get_backend_name() == "postgresql":
        options |= {"poolclass": Pool, "pool_size": pool_size, "max_overflow": 0, "pool_timeout": pool_timeout}
        options |= {"pool_recycle": pool_max_lifetime or -1, "pool_use_lifo": True}
        options["connect_args"] = _postgres_arguments(parsed, statement_timeout, lock_timeout)
        if "connect_timeout" not in parsed.query:
            options["connect_args"]["connect_timeout"] = max(2, round(connect_timeout))  # whole seconds, two at least
    elif parsed.get_backend_name() != "sqlite":
        options["pool_pre_ping"] = pool_pre_ping
    quiet = parsed.drivername == "postgresql+psycopg"
    if quiet:
        options["pool_reset_on_return"] = None
    engine = _create(parsed, options)
    if quiet:
        sa.event.listen(engine, "reset", _roll_back)
    if isinstance(engine.pool, Pool):
        jitter = min(pool_max_lifetime_jitter, pool_max_lifetime / 2)
        engine.pool.manners = Manners(
            name=f"transactions on {parsed.database!r}",
            least=pool_min,
            max_idle=pool_max_idle,
            jitter=jitter,
            looks=pool_pre_ping,
        )
    return engine, folder


def _roll_back(connection: Any, _record: Any, state: Any) -> None:
    """End what a connection that comes back has left open. Most have left nothing, which the driver knows by itself."""
    if not state.terminate_only and connection.pgconn.transaction_status:
        connection.rollback()


def _create(url: URL, options: dict[str, Any]) -> sa.Engine:
    try:
        engine = sa.create_engine(url, **options)
    except ModuleNotFoundError as error:
        package = _EXTRA.get(url.get_driver_name(), error.name or url.get_driver_name())
        raise MissingDriverError(
            f"the driver of {url.drivername!r} is not installed (module {error.name!r}); run: pip install '{package}'"
        ) from error
    except sa.exc.NoSuchModuleError as error:
        raise ConfigError(
            f"url has the unknown dialect {url.drivername!r}; expected for example postgresql+psycopg"
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _postgres_arguments(url: URL, statement_timeout: float, lock_timeout: float) -> dict[str, Any]:
    settings = {"statement_timeout": statement_timeout, "lock_timeout": lock_timeout}
    flags = [f"-c {name}={int(value * 1000)}" for name, value in settings.items() if value]
    own = url.query.get("options")
    return {"options": " ".join([*([own] if isinstance(own, str) else []), *flags])} if flags else {}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def reading_engine(engine: sa.Engine, size: int | None = None) -> sa.Engine:
    """An AUTOCOMMIT engine that connects exactly as ``engine`` does, with a pool of its own, as large unless told.

    No ping before use: a read that meets a dead connection is repeated. No reset after use: nothing was begun.
    """
    theirs = engine.pool
    if size is None:
        size = theirs.size() if isinstance(theirs, sa.pool.QueuePool) else 5
    pool = Pool(
        theirs._creator,
        pool_size=size,
        max_overflow=0,
        timeout=getattr(theirs, "_timeout", 30.0),
        recycle=theirs._recycle,
        use_lifo=True,
        reset_on_return=None,
        _dispatch=theirs.dispatch,
    )
    manners = theirs.manners if isinstance(theirs, Pool) else Manners()
    pool.manners = replace(manners, name=f"reads of {engine.url.database!r}", least=0, looks=False)
    return sa.create_engine(engine.url, pool=pool, isolation_level="AUTOCOMMIT", hide_parameters=True)


def own_pool(engine: sa.Engine, size: int = 2) -> sa.Engine:
    """An engine that is ``engine`` in everything, its listeners included, but for connections of its own.

    For work that must go on when all connections of the application are in use. SQLite: the engine itself.
    """
    theirs = engine.pool
    if not isinstance(theirs, sa.pool.QueuePool) or engine.dialect.name == "sqlite":
        return engine
    pool = sa.pool.QueuePool(
        theirs._creator,
        pool_size=size,
        max_overflow=2,
        timeout=theirs._timeout,
        recycle=theirs._recycle,
        pre_ping=True,
        dialect=engine.dialect,
        _dispatch=theirs.dispatch,
    )
    made = sa.Engine(pool, engine.dialect, engine.url, hide_parameters=True)
    made.dispatch = made.dispatch._join(engine.dispatch)
    made._has_events = True
    return made


def watch_statements(engine: sa.Engine, watchdog: Watchdog) -> None:
    """Put every statement and COMMIT of an engine under the watchdog. PostgreSQL only."""

    def before(connection: Any, *_: Any) -> None:
        watchdog.watch(connection.connection.dbapi_connection)

    def after(connection: Any, *_: Any) -> None:
        if not connection.closed and not connection.invalidated:
            watchdog.release(connection.connection.dbapi_connection)

    def failed(context: Any) -> None:
        if context.connection is not None:
            after(context.connection)

    def returned(dbapi_connection: Any, _record: Any) -> None:
        if dbapi_connection is not None:
            watchdog.release(dbapi_connection)

    for name, listener in (
        ("before_cursor_execute", before),
        ("after_cursor_execute", after),
        ("commit", before),
        ("begin", after),
        ("handle_error", failed),
        ("checkin", returned),
    ):
        sa.event.listen(engine, name, listener)

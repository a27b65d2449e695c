"""Which reads of a session may come from a tier, and how one that may is answered like the SELECT it replaces.

Everything that is not known to be safe goes to the database: the rules are in :func:`may_use_tiers`. A hit still does
what the SELECT would have done to the session: it begins a transaction and flushes what is pending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper, loading
from sqlalchemy.orm import context as orm_context
from sqlalchemy.orm.base import LoaderCallableStatus, PassiveFlag

from ..contracts.coherence import Absent
from ..models.copying import own_row
from ..models.schema import Schema, schema_of
from ..tiers.ladder import Ladder
from ..tiers.needs import Row

if TYPE_CHECKING:
    from .session import Session

#: What ``_identity_lookup`` answers for "known not to exist": ``get`` and the lazy loader both turn it into None.
NO_SUCH_ROW = LoaderCallableStatus.PASSIVE_CLASS_MISMATCH

LOAD_BY_KEY = getattr(loading, "_load_on_pk_identity", None) or vars(loading)["load_on_pk_identity"]

_READ_COMMITTED = frozenset((None, "READ COMMITTED", "READ UNCOMMITTED", "AUTOCOMMIT"))
_UNSAFE_OPTIONS = ("isolation_level", "schema_translate_map")


def is_plain_get(options: dict[str, Any], load: Any) -> bool:
    """Whether a ``get`` carries nothing that its SELECT would have to honour."""
    if load is not LOAD_BY_KEY:
        return False
    for name, value in options.items():
        if not value:
            continue
        if name == "execution_options" and dict(value) == {"populate_existing": False}:
            continue  # what Query.get() of SQLAlchemy 2.1 passes
        return False
    return True


def read_identity(
    session: Session, mapper: Mapper[Any], key: tuple[Any, ...], passive: PassiveFlag, parent: Any
) -> Any:
    """The session's instance under ``key`` by way of the tiers, NO_SUCH_ROW, or None for "ask the database"."""
    schema = schema_of(mapper)
    ladder = _ladder(session, schema)
    if ladder is None or schema.key_problem(key):
        return None
    session._autobegin_t()
    if not (parent is not None and passive & PassiveFlag.NO_AUTOFLUSH) and _has_pending(session):
        session._autoflush()
        found = session._in_identity_map(mapper, key, passive, parent)
        if found is not None:
            return found
    if not may_use_tiers(session, schema):
        return None
    level = session._consistency()
    if level == "database":
        return None
    statement = schema.statement if parent is None else schema.lazy_statement
    row = ladder.read(schema, key, InSession(session, schema, statement), local=level == "cached")
    return NO_SUCH_ROW if isinstance(row, Absent) else instance_of(session, schema, row)


def instance_of(session: Session, schema: Schema, row: Row) -> Any:
    """The session's own instance of a cached row; nothing mutable is shared with the cache."""
    values = own_row(row.values) if schema.mutable else row.values
    instance = session._hydrator.instance(schema, row.projection, values)
    return NO_SUCH_ROW if instance is None else instance


def _ladder(session: Session, schema: Schema) -> Ladder | None:
    caches = session._caches
    return None if caches is None or caches.closed else caches.ladder(schema)


def _has_pending(session: Session) -> bool:
    return bool(session._new or session._deleted or session.identity_map._modified)


def listens(session: Session) -> bool:
    """Whether the application may add criteria to statements: a tenancy filter must see the SELECT."""
    return bool(session.dispatch.do_orm_execute)


def lazy_load_bypasses(parent: Any) -> bool:
    """Loader options, a pending parent, or a ``raise`` relationship: the lazy loader's own checks come later."""
    return bool(parent.load_options) or not parent.key or _has_raise(parent.manager.mapper)


def _has_raise(mapper: Mapper[Any]) -> bool:
    known: bool | None = mapper.__dict__.get("_datalayer_raises")
    if known is None:
        known = any(r.lazy in ("raise", "raise_on_sql") for r in mapper.relationships)
        mapper.__dict__["_datalayer_raises"] = known
    return known


def may_use_tiers(session: Session, schema: Schema) -> bool:
    """Whether this session's transaction may read the schema from a cache, and fill it.

    Not when the session is bound to a connection (somebody else's transaction), when isolation promises more than READ
    COMMITTED, when schemas are translated, or when this transaction has written anything.
    """
    caches = session._caches
    assert caches is not None
    bind = session.get_bind(mapper=schema.mapper, clause=schema.statement)
    if bind is not caches.engine or not plain_engine(bind):
        return False
    connection = connection_of(session, bind)
    return connection is None or _clean(session, connection)


def plain_engine(engine: sa.Engine) -> bool:
    """Whether transactions of this engine are READ COMMITTED and name their tables as they are mapped."""
    options = engine.get_execution_options()
    if options and any(name in options for name in _UNSAFE_OPTIONS):
        return False
    dialect: Any = engine.dialect
    if dialect.name == "sqlite":
        return dialect._on_connect_isolation_level in (None, "SERIALIZABLE", "READ UNCOMMITTED", "AUTOCOMMIT")
    # A dialect that was never connected does not know its default yet.
    default = getattr(dialect, "default_isolation_level", "unknown")
    return dialect._on_connect_isolation_level in _READ_COMMITTED and default in _READ_COMMITTED


def plain_connection(connection: sa.Connection) -> bool:
    """Whether a connection has no options that say otherwise."""
    options = connection.get_execution_options()
    return not (options and any(options.get(name) for name in _UNSAFE_OPTIONS))


def _clean(session: Session, connection: sa.Connection) -> bool:
    """Whether nothing was written, or is seen, in the transaction on a connection that others would not see."""
    if not plain_connection(connection) or connection.closed or connection.invalidated:
        return False
    assert session._caches is not None
    if session._caches.tracker.written(connection) is not None:
        return False
    # An SQLite transaction that is open reads one snapshot until it ends.
    return connection.dialect.name != "sqlite" or not getattr(
        connection.connection.dbapi_connection, "in_transaction", False
    )


def connection_of(session: Session, engine: sa.Engine) -> sa.Connection | None:
    """The connection that the session's transaction holds on an engine, without making one."""
    transaction = session._transaction
    while transaction is not None:
        for entry in transaction._connections.values():
            connection: sa.Connection = entry[0]
            if connection.engine.pool is engine.pool:
                return connection
        transaction = transaction._parent
    return None


class InSession:
    """Reads rows on the session's own connection, which proves nothing about other transactions."""

    __slots__ = ("_schema", "_session", "_statement")

    proves = False

    def __init__(self, session: Session, schema: Schema, statement: Any) -> None:
        self._session = session
        self._schema = schema
        self._statement = statement

    def __call__(self, key: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return load_row(self._session, self._schema, key, self._statement)

    def proved(self, key: tuple[Any, ...], xids: Sequence[str]) -> tuple[bool, tuple[Any, ...] | None]:
        return False, self(key)


def load_row(session: Session, schema: Schema, key: tuple[Any, ...], statement: Any) -> tuple[Any, ...] | None:
    """The row by the statement that SQLAlchemy would emit here, on the session's own connection."""
    rows = _by_driver(session, schema, statement, key)
    if rows is None:
        rows = execute_raw(session, schema, statement, dict(zip(schema.parameters, key, strict=True)))
    if len(rows) > 1:
        raise sa.exc.MultipleResultsFound("Multiple rows were found when exactly one was required")
    return tuple(rows[0]) if rows else None


def _by_driver(session: Session, schema: Schema, statement: Any, key: tuple[Any, ...]) -> list[Any] | None:
    """The rows past SQLAlchemy's own machinery; None when it has to be used."""
    within = session._caches.within if session._caches is not None else None
    if within is None:
        return None
    connection = session.connection(bind_arguments={"mapper": schema.mapper, "clause": statement})
    return within.rows(connection, schema, statement, key) if plain_connection(connection) else None


def locks_row(options: dict[str, Any], load: Any) -> bool:
    """Whether a ``get`` asks for the row's lock, in the plain way, and for nothing else."""
    return options.get("with_for_update") is True and is_plain_get({**options, "with_for_update": None}, load)


def locked_row(session: Session, mapper: Mapper[Any], ident: Any) -> Any:
    """The session's instance of a row, read and locked by the driver: no cache has a say. NO_SUCH_ROW, or None for "let
    SQLAlchemy do it", which also refreshes an instance that the session has already."""
    schema = schema_of(mapper)
    key = ident if type(ident) is tuple else (ident,)
    if len(key) != len(mapper.primary_key) or schema.polymorphic or _ladder(session, schema) is None:
        return None
    if schema.key_problem(key) or listens(session) or getattr(session, "execution_options", None) or session._flushing:
        return None
    session._autobegin_t()
    if _has_pending(session):
        session._autoflush()
    if session._in_identity_map(mapper, key, PassiveFlag.PASSIVE_NO_FETCH, None) is not None:
        return None
    bind = session.get_bind(mapper=mapper, clause=schema.locking_statement)
    assert session._caches is not None
    if bind is not session._caches.engine or not plain_engine(bind):
        return None
    rows = _by_driver(session, schema, schema.locking_statement, key)
    if rows is None:
        return None
    return instance_of(session, schema, Row(rows[0], schema.full, "l3")) if rows else NO_SUCH_ROW


def execute_raw(session: Session, schema: Schema, statement: Any, parameters: dict[str, Any]) -> list[Any]:
    """Rows of an ORM statement as tuples in the order of ``schema.full``."""
    connection = session.connection(bind_arguments={"mapper": schema.mapper, "clause": statement})
    result: Any = connection.execute(statement, parameters, execution_options=orm_context._orm_load_exec_options)
    fetch = getattr(result, "_raw_all_tuples", None) or result._raw_all_rows
    rows = list(fetch())
    if schema.open_rows is None:
        return rows
    rows = [tuple(row) for row in rows]
    return schema.open_rows(rows)

"""Rows as the transaction on a connection is about to leave them, read after its last flush and before its COMMIT.

What a writer may put into the caches is exactly this: rows that it holds the locks of, so that nobody can have changed
them since. On PostgreSQL the statement takes those locks (it has most of them already), leaves out what somebody else
has locked, and tells the transaction's id, which the commit needs anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from ..models.schema import Schema
from .l3 import Statement, array_of, select_any

Values = tuple[Any, ...]

_WITH_XID = (
    "SELECT r.*, o.xid FROM (SELECT pg_current_xact_id()::text AS xid) o "
    "LEFT JOIN ({} FOR NO KEY UPDATE SKIP LOCKED) r ON true"
)

#: Whether the statement may be run: a failure would abort the transaction, and deferred triggers would change the rows
#: after it.
_SUITABLE = (
    "SELECT c.relkind IN ('r', 'p') AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'UPDATE') "
    "AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgdeferrable AND NOT t.tgisinternal) "
    "FROM pg_class c WHERE c.oid = to_regclass(%s)"
)


class PostgresImages:
    """Images of one shape through psycopg. Thread-safe."""

    def __init__(self, engine: sa.Engine, schema: Schema) -> None:
        self._schema = schema
        self._statement = Statement(engine, schema, select_any(schema), ("keys",), around=_WITH_XID)
        self._array = array_of(self._statement, schema)

    def read(self, connection: Any, keys: Sequence[Values]) -> tuple[dict[Values, Values], str]:
        """The rows that exist and are this transaction's to tell, by key, and its id."""
        driver = connection.dialect.loaded_dbapi
        try:
            rows = self._statement.run(connection.connection.dbapi_connection, (self._array([key[0] for key in keys]),))
        except driver.Error as error:  # past SQLAlchemy's own translation, because nobody need see this statement
            raise sa.exc.DBAPIError.instance(None, None, error, driver.Error, hide_parameters=True) from error
        key_of, wanted = self._schema.key_of, set(keys)
        found = {key_of(row): tuple(row[:-1]) for row in rows}
        return {key: row for key, row in found.items() if key in wanted}, str(rows[0][-1])


class SqliteImages:
    """Images of one shape through SQLite, whose writers take turns. Thread-safe."""

    def __init__(self, engine: sa.Engine, schema: Schema) -> None:
        self._schema = schema
        self._statement = Statement(engine, schema, schema.statement, schema.parameters)

    def read(self, connection: Any, keys: Sequence[Values]) -> tuple[dict[Values, Values], None]:
        rows = [self._statement.run_plain(connection.connection.dbapi_connection, key) for key in keys]
        return {self._schema.key_of(row): row for found in rows for row in found}, None


class Images(Protocol):
    """Reads rows on the connection of the transaction that wrote them. Thread-safe."""

    def read(self, connection: Any, keys: Sequence[Values]) -> tuple[Mapping[Values, Values], str | None]:
        """The rows that exist and are this transaction's to tell, by key, and the transaction's id if it is told."""


def images_of(schema: Schema, *, engine: sa.Engine, reading: sa.Engine | None) -> Images | None:
    """How images of a shape are read on this engine; None when they are not. ``reading``: for a look at the catalog."""
    if len(schema.key_types) != 1 or schema.polymorphic or len(schema.tables) != 1 or schema.open_rows is not None:
        return None
    if engine.dialect.name == "sqlite" and engine.dialect.driver == "pysqlite":
        return SqliteImages(engine, schema)
    if reading is not None and _suitable(reading, schema):
        return PostgresImages(engine, schema)
    return None


def _suitable(engine: sa.Engine, schema: Schema) -> bool:
    table: Any = schema.mapper.local_table
    pooled = engine.raw_connection()
    try:
        cursor = pooled.cursor()
        cursor.execute(_SUITABLE, (engine.dialect.identifier_preparer.format_table(table),))
        found = cursor.fetchone()
        cursor.close()
    finally:
        pooled.close()
    return found is not None and bool(found[0])

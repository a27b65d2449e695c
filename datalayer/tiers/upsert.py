"""``INSERT … ON CONFLICT DO UPDATE`` by primary key: only the given columns, never those that are set once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ..crypto.tables import sealed_columns
from ..errors import QueryError


def upsert(
    dialect: str,
    table: Any,
    given: Collection[str],
    *,
    once: Collection[str] = (),
    version: Any = None,
    entity: Any = None,
) -> Any:
    """The statement that inserts rows or updates those that have their primary keys; execute it with the rows.

    ``given`` are the keys of the columns that the rows have; those in ``once`` are written by the insert only. A
    ``version`` column counts up. ``entity``: the mapper, for rows by attribute. QueryError for a dialect without ON
    CONFLICT.
    """
    statement = insert_of(dialect)(entity if entity is not None else table)
    changed = {table.c[name].name: statement.excluded[name] for name in changed_columns(table, given, once=once)}
    if version is not None:
        changed[version.name] = version + 1
    # A row that has nothing but its key is left as it is; setting the key to itself keeps the statement one statement.
    changed = changed or {c.name: statement.excluded[c.key] for c in table.primary_key}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)


def insert_of(dialect: str) -> Any:
    """The dialect's own ``insert``, with ON CONFLICT; QueryError where there is none. A dialect that nobody uses is not
    loaded."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert
    raise QueryError(f"upserts need PostgreSQL or SQLite, not {dialect}; use create() and update()")


def changed_columns(table: sa.Table, given: Collection[str], *, once: Collection[str]) -> list[str]:
    """The keys of the columns that an upsert changes in a row that exists."""
    blind = [c.blind for c in sealed_columns(table) if c.blind is not None and c.key in given]
    keys = {column.key for column in table.primary_key}
    return [name for name in dict.fromkeys([*given, *blind]) if name not in keys and name not in once]

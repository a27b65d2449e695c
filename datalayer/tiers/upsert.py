"""``INSERT … ON CONFLICT DO UPDATE`` of one row: only the given columns, never those that are set once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ..crypto.tables import sealed_columns
from ..errors import QueryError

_INSERTS: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def upsert(dialect: str, table: sa.Table, values: Mapping[str, Any], *, once: Collection[str]) -> Any:
    """The statement that inserts ``values`` (by column key) or updates the row that has their primary key.

    Columns named in ``once`` are written by the insert only. QueryError for a dialect without ON CONFLICT.
    """
    if dialect not in _INSERTS:
        raise QueryError(f"upserts need PostgreSQL or SQLite, not {dialect}; use create() and update()")
    keys = {column.key for column in table.primary_key}
    blind = {c.blind: values[c.key] for c in sealed_columns(table) if c.blind is not None and c.key in values}
    values = {**values, **blind}
    statement = _INSERTS[dialect](table).values({table.c[name]: value for name, value in values.items()})
    changed = {
        table.c[name].name: statement.excluded[table.c[name].key]
        for name in values
        if name not in keys and name not in once
    }
    # A row that has nothing but its key is left as it is; setting the key to itself keeps the statement one statement.
    changed = changed or {c.name: statement.excluded[c.key] for c in table.primary_key}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)

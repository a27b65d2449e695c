"""Asks Alembic what the models have and the database lacks, about the tables of the models only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import ops

from .facts import Facts
from .names import full
from .scope import managed
from .types import differ

# Circles of foreign keys are untied by the planner, indexes on expressions and unproven CHECKs compared by name.
_HANDLED = (
    "Cannot correctly sort tables",
    "Skipped unsupported reflection of expression-based index",
    "autogenerate skipping metadata-specified expression-based index",
    "Can't validate argument 'dialect_options'",
    "Did not recognize type 'xid8' of column 'theta'",  # of our own table, where all tables are read
)


@contextmanager
def handled() -> Iterator[None]:
    """Without the warnings about what the planner takes care of."""
    with warnings.catch_warnings():
        for expected in _HANDLED:
            warnings.filterwarnings("ignore", message=expected)
        yield


IncludeObject = Callable[[Any, str | None, str, bool, Any], bool]


def compare(
    connection: sa.Connection, metadatas: Sequence[sa.MetaData], facts: Facts, tables: dict[str, sa.Table]
) -> list[ops.MigrateOperation]:
    """The differences as Alembic's operations, flat and in its order. Tables that no model names are left out."""
    schemas = {table.schema for table in tables.values()}
    options = {
        "include_object": only(tables),
        "include_name": _only_schemas(schemas, tables),
        "include_schemas": bool(schemas - {None}),
        "compare_type": differ,
        "compare_server_default": False,
    }
    context = MigrationContext.configure(connection, opts=options)
    with handled():
        script = produce_migrations(context, list(metadatas))  # type: ignore[arg-type]  # alembic takes several, too
    assert script.upgrade_ops is not None
    return list(flat(script.upgrade_ops.ops))


def wanted(metadatas: Iterable[sa.MetaData]) -> dict[str, sa.Table]:
    """The tables of the models by full name."""
    return {table.fullname: table for metadata in metadatas for table in metadata.tables.values()}


def managed_tables(tables: dict[str, sa.Table], facts: Facts) -> dict[str, sa.Table]:
    """Those that are ours to create and change."""
    return {name: table for name, table in tables.items() if managed(table, facts)}


def only(tables: dict[str, sa.Table]) -> IncludeObject:
    """Alembic's ``include_object``: these tables and what is on them."""
    return lambda item, _name, kind, _reflected, _other: _table_name(item, kind) in tables


def not_ours(facts: Facts) -> IncludeObject:
    """Alembic's ``include_object`` for an environment of its own: all but our own tables, and partitions."""

    def include(item: Any, _name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        table = item if kind == "table" else item.table
        return managed(table, facts) and table.fullname not in facts.children

    return include


def _table_name(item: Any, kind: str) -> str:
    table = item if kind == "table" else item.table
    return str(table.fullname)


def _only_schemas(schemas: set[str | None], tables: dict[str, sa.Table]) -> Callable[[Any, str, Any], bool]:
    # So that a database with thousands of strangers' tables is not read table by table.
    def include(name: Any, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name in schemas
        return kind != "table" or full(name, parents.get("schema_name")) in tables

    return include


def flat(operations: Sequence[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    """Operations without their containers."""
    for operation in operations:
        if isinstance(operation, ops.OpContainer):
            yield from flat(operation.ops)
        else:
            yield operation

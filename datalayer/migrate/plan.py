"""What a database lacks, step by step, and what it has differently that is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import ops

OWN_TABLES = ("alembic_version", "datalayer_fence", "datalayer_wb_applied", "datalayer_migrations")


@dataclass(frozen=True, slots=True)
class Step:
    """One additive operation. ``concurrently``: outside of a transaction, without blocking writers."""

    text: str
    operation: ops.MigrateOperation
    concurrently: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in order, and one line for each difference that is refused."""

    steps: tuple[Step, ...]
    refused: tuple[str, ...]


def make_plan(connection: sa.Connection, metadatas: Iterable[sa.MetaData]) -> Plan:
    """Compare the live schema with the models. Tables that no model names are nobody's business."""
    metadatas = list(metadatas)
    wanted = {table.fullname for metadata in metadatas for table in metadata.tables.values()}
    schemas = {table.schema for metadata in metadatas for table in metadata.tables.values()}

    def include(item: Any, name: str | None, kind: str, reflected: bool, _other: Any) -> bool:
        table = item if kind == "table" else getattr(item, "table", None)
        return table is None or (table.fullname in wanted and table.name not in OWN_TABLES)

    options = {"include_object": include, "compare_type": True, "include_schemas": schemas - {None} != set()}
    context = MigrationContext.configure(connection, opts=options)
    script = produce_migrations(context, metadatas)  # type: ignore[arg-type]  # alembic takes several, too
    assert script.upgrade_ops is not None
    steps: list[Step] = []
    refused: list[str] = []
    for operation in _flat(script.upgrade_ops.ops):
        step, reason = _judge(operation, connection.dialect.name)
        if step is not None:
            steps.append(step)
        if reason is not None:
            refused.append(reason)
    return Plan(tuple(steps), tuple(refused))


def _flat(operations: Sequence[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    for operation in operations:
        if isinstance(operation, ops.OpContainer):
            yield from _flat(operation.ops)
        else:
            yield operation


def _judge(operation: Any, dialect: str) -> tuple[Step | None, str | None]:
    """The step for an operation, or why it is refused; neither for a difference that is none."""
    if isinstance(operation, ops.CreateTableOp):
        return Step(f"create table {operation.table_name}", operation), None
    if isinstance(operation, ops.AddColumnOp):
        return _add_column(operation)
    if isinstance(operation, ops.CreateIndexOp):
        text = f"create index {operation.index_name} on {operation.table_name}"
        return Step(text, operation, concurrently=dialect == "postgresql"), None
    if dialect == "sqlite":
        # SQLite reports its types by affinity and cannot alter a table: what it says here is noise.
        return None, None
    return None, _refusal(operation)


def _add_column(operation: ops.AddColumnOp) -> tuple[Step | None, str | None]:
    column = operation.column
    name = f"{operation.table_name}.{column.name}"
    if column.nullable or column.server_default is not None:
        return Step(f"add column {name}", operation), None
    return None, (
        f"adding-required-field: {name} is NOT NULL and has no server default, which rows that exist cannot satisfy; "
        "add it nullable, fill it, then set NOT NULL, or give it a server_default"
    )


_RULES: dict[type, tuple[str, str]] = {
    ops.DropTableOp: ("drop-table", "dropping a table loses its rows"),
    ops.DropColumnOp: ("drop-column", "dropping a column loses its values, and running code may still write it"),
    ops.DropIndexOp: ("drop-index", "somebody's queries may need it; drop it by hand when they do not"),
    ops.DropConstraintOp: ("drop-constraint", "rows that break it could appear; drop it by hand"),
    ops.AlterColumnOp: ("alter-column", "changing type or nullability rewrites or rejects rows; do it in safe steps"),
    ops.CreateForeignKeyOp: ("add-foreign-key", "needs NOT VALID and VALIDATE on a table that has rows"),
    ops.CreateUniqueConstraintOp: ("add-unique", "needs a unique index built CONCURRENTLY first"),
    ops.CreateCheckConstraintOp: ("add-check", "needs NOT VALID and VALIDATE on a table that has rows"),
}


def _refusal(operation: Any) -> str:
    rule, reason = _RULES.get(type(operation), ("unknown-change", "it is not known to be additive"))
    table = getattr(operation, "table_name", None) or getattr(operation, "source_table", "?")
    what = next(
        (getattr(operation, n) for n in ("column_name", "constraint_name", "index_name") if hasattr(operation, n)), None
    )
    return f"{rule}: {table}{f'.{what}' if what else ''}: {reason}"

"""The planner: of all that differs, what can be added while old and new code run, in which order, and what cannot.

Each of Alembic's operations becomes steps or a refusal. The database's own catalogue adds what Alembic does not compare
(CHECKs, enum labels, partitions, extensions) and what an earlier run that was killed has left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from . import rules
from .columns import add_column, alter_column, drop_column, leftover_helpers
from .compare import compare, managed_tables, wanted
from .constraints import checks_of, create_foreign_key, create_index, create_unique, fk_name, missing_checks, unproven
from .enums import enum_labels, enum_types
from .extensions import missing_extensions
from .facts import read_facts
from .names import column_names, for_text, full
from .operations import execute
from .options import MigrateOptions
from .own import fence_tables
from .partitions import create_partitions
from .replaced import Replaced
from .scope import Judged, Scope, in_order
from .steps import Plan, Refusal, Step
from .triggers import notifier, triggers
from .types import plain

_COMMENTS = (ops.CreateTableCommentOp, ops.DropTableCommentOp)


def make_plan(
    connection: sa.Connection, metadatas: Iterable[sa.MetaData], options: MigrateOptions | None = None
) -> Plan:
    """Compare the live schema with the models. Reads only. Tables that no model names are nobody's business."""
    metadatas = list(metadatas)
    found = wanted(metadatas)
    facts = read_facts(connection, {table.schema for table in found.values()} or {None})
    tables = managed_tables(found, facts)
    scope = Scope(for_text(connection.dialect), facts, tables, options or MigrateOptions())
    found_plan = plan_of(scope, compare(connection, metadatas, facts, tables))
    return Plan((*fence_tables(connection, scope.options.fence_shards), *found_plan.steps), found_plan.refused)


def partition_plan(
    connection: sa.Connection, metadatas: Iterable[sa.MetaData], options: MigrateOptions | None = None
) -> Plan:
    """The partitions that existing tables will need, whoever versions the schema. Reads only."""
    found = wanted(metadatas)
    facts = read_facts(connection, {table.schema for table in found.values()} or {None})
    tables = managed_tables(found, facts)
    scope = Scope(for_text(connection.dialect), facts, tables, options or MigrateOptions())
    judged = (item for name, table in tables.items() if scope.exists(name) for item in create_partitions(scope, table))
    return Plan(tuple(item for item in judged if isinstance(item, Step)))


def plan_of(scope: Scope, operations: Sequence[ops.MigrateOperation]) -> Plan:
    """The plan for operations that somebody has compared."""
    operations = _with_half_made(scope, operations)
    judged = [*_first(scope), *_Planner(scope, operations).judge(), *_last(scope, operations)]
    steps = in_order(item for item in judged if isinstance(item, Step))
    refused = tuple(dict.fromkeys(item for item in judged if isinstance(item, Refusal)))
    return _leave_to_alembic(scope, Plan(steps, refused))


def _with_half_made(scope: Scope, found: Sequence[ops.MigrateOperation]) -> list[ops.MigrateOperation]:
    """An invalid index is as good as missing, but to Alembic it is there, sometimes even as it should be."""
    invalid = scope.facts.invalid_indexes
    indexes = (index for table in scope.tables.values() for index in table.indexes)
    places = {
        (index.table.fullname, str(scope.names.constraint(index))): index
        for index in indexes
        if index.table is not None
    }
    kept = [op for op in found if not (isinstance(op, ops.DropIndexOp) and _place(op) in invalid & set(places))]
    known = {_place(op) for op in kept if isinstance(op, ops.CreateIndexOp)}
    return kept + [ops.CreateIndexOp.from_index(places[place]) for place in sorted((invalid & set(places)) - known)]


def _place(operation: Any) -> tuple[str, str]:
    return full(operation.table_name, operation.schema), str(operation.index_name)


def _first(scope: Scope) -> Judged:
    if not scope.postgres:
        return []
    schemas = {table.schema for table in scope.tables.values() if table.schema}
    made = [
        Step(f"create schema {name}", execute(f"CREATE SCHEMA {scope.quoted(name)}"))
        for name in sorted(schemas - scope.facts.schemas)
    ]
    return [*missing_extensions(scope), *made, *enum_types(scope), *enum_labels(scope), *notifier(scope)]


def _last(scope: Scope, operations: Sequence[ops.MigrateOperation]) -> Judged:
    inlined = _inlined_checks(scope, operations)
    judged: Judged = []
    for name, table in scope.tables.items():
        judged += create_partitions(scope, table)
        if scope.exists(name):
            judged += missing_checks(scope, table, inlined)
        judged += triggers(scope, table)
    altered = {
        (full(op.table_name, op.schema), op.column_name) for op in operations if isinstance(op, ops.AlterColumnOp)
    }
    return [*judged, *unproven(scope), *leftover_helpers(scope, altered)]


def _leave_to_alembic(scope: Scope, plan: Plan) -> Plan:
    if not plan.steps or scope.facts.alembic_version is None or scope.options.alongside_alembic:
        return plan
    return Plan((), (*(rules.alembic_owns(step.text) for step in plan.steps), *plan.refused))


class _Planner:
    """Judges one operation after the other, knowing all of them."""

    def __init__(self, scope: Scope, operations: Sequence[ops.MigrateOperation]) -> None:
        self._scope = scope
        self._operations = operations
        self._replaced = Replaced(scope, operations)
        self._created: set[str] = set()
        self._inline = _inline_keys(scope, operations)

    def judge(self) -> Iterator[Step | Refusal]:
        for operation in self._operations:
            yield from _undoable(self._one(operation), operation)

    def _one(self, operation: Any) -> Judged:
        if isinstance(operation, _COMMENTS) or id(operation) in self._inline.done:
            return []
        decided = self._replaced.decide(operation)
        if decided is not None:
            return decided
        for kind, judge in self._JUDGES:
            if isinstance(operation, kind):
                return judge(self, operation)
        return [rules.unknown(*_named(operation))]

    def _create_table(self, operation: ops.CreateTableOp) -> Judged:
        scope = self._scope
        name = full(operation.table_name, operation.schema)
        table = scope.tables[name]
        later = self._unreachable(table) if scope.postgres else []
        self._created.add(name)
        judged: Judged = [Step(f"create table {name}", _creation(scope, table, later))]
        for key in later:
            made = ops.CreateForeignKeyOp.from_constraint(key)
            judged += create_foreign_key(scope, made)
        return judged

    def _unreachable(self, table: sa.Table) -> list[sa.ForeignKeyConstraint]:
        """Foreign keys to tables that come later, as tables in a circle have."""
        there = self._scope.facts.tables | self._created | {table.fullname}
        keys = (item for item in table.constraints if isinstance(item, sa.ForeignKeyConstraint))
        return [key for key in keys if key.referred_table.fullname not in there]

    def _add_column(self, operation: ops.AddColumnOp) -> Judged:
        judged = add_column(self._scope, operation, self._inline.text(operation))
        checks = self._inline.checks.get((full(operation.table_name, operation.schema), operation.column.name), [])
        if not checks:
            return judged
        # To drop the column, SQLite's table is copied without it, and so without what was said about it.
        undone = [ops.DropConstraintOp(name, operation.table_name, "check") for name in checks]
        undo = ops.ModifyTableOps(operation.table_name, [*undone, operation.reverse()])
        return [replace(item, undo=undo) if isinstance(item, Step) else item for item in judged]

    def _drop_table(self, operation: ops.DropTableOp) -> Judged:
        return [rules.drop_table(*self._scope.table_of(operation))]

    def _drop_index(self, operation: ops.DropIndexOp) -> Judged:
        table = full(operation.table_name or "?", operation.schema)
        name = str(operation.index_name)
        if (table, name) in self._scope.facts.invalid_indexes:
            return [rules.half_made_index(table, name, self._scope.quoted(operation.schema, name))]
        return [rules.drop_index(table, name, self._scope.quoted(operation.schema, name))]

    def _drop_constraint(self, operation: ops.DropConstraintOp) -> Judged:
        table, quoted = self._scope.table_of(operation)
        name = str(operation.constraint_name or "(no name)")
        return [rules.drop_constraint(table, name, quoted, self._scope.quoted(name))]

    def _rename_table(self, operation: ops.RenameTableOp) -> Judged:
        return [rules.rename(full(operation.table_name, operation.schema), None)]

    _JUDGES: tuple[tuple[type, Callable[..., Judged]], ...] = (
        (ops.CreateTableOp, _create_table),
        (ops.AddColumnOp, _add_column),
        (ops.CreateIndexOp, lambda self, operation: create_index(self._scope, operation)),
        (ops.CreateUniqueConstraintOp, lambda self, operation: create_unique(self._scope, operation)),
        (ops.CreateForeignKeyOp, lambda self, operation: create_foreign_key(self._scope, operation)),
        (ops.AlterColumnOp, lambda self, operation: alter_column(self._scope, operation)),
        (ops.DropColumnOp, lambda self, operation: drop_column(self._scope, operation)),
        (ops.DropTableOp, _drop_table),
        (ops.DropIndexOp, _drop_index),
        (ops.DropConstraintOp, _drop_constraint),
        (ops.RenameTableOp, _rename_table),
        (ops.ExecuteSQLOp, lambda _self, operation: [Step("run SQL", operation)]),
    )


def _undoable(judged: Judged, operation: Any) -> Judged:
    """Alembic's own reversal on the first step that an operation has become."""
    steps = [position for position, item in enumerate(judged) if isinstance(item, Step)]
    if steps and hasattr(operation, "reverse"):
        first = judged[steps[0]]
        assert isinstance(first, Step)
        judged[steps[0]] = replace(first, undo=first.undo or operation.reverse())
    return judged


def _named(operation: Any) -> tuple[str, str]:
    table = getattr(operation, "table_name", None) or getattr(operation, "source_table", "?")
    return str(table), type(operation).__name__


def _creation(scope: Scope, table: sa.Table, later: list[sa.ForeignKeyConstraint]) -> ops.CreateTableOp:
    """CREATE TABLE with column types that exist already, and without the foreign keys that come later."""
    left_out = {tuple(key.column_keys) for key in later}
    clone = table.to_metadata(sa.MetaData(naming_convention=table.metadata.naming_convention))
    clone.info = {}  # what we note there is of no use in a revision file
    for column in clone.columns:
        if scope.postgres:
            column.type = _typed(scope, column)
    for item in list(clone.constraints):
        if isinstance(item, sa.ForeignKeyConstraint) and tuple(item.column_keys) in left_out:
            clone.constraints.discard(item)
    return ops.CreateTableOp.from_table(clone)


def _typed(scope: Scope, column: sa.Column[Any]) -> Any:
    kind = column.type
    bound = isinstance(kind, sa.Enum | sa.Boolean) and kind.create_constraint and not getattr(kind, "native_enum", None)
    return kind if bound else plain(kind, scope.dialect)


class _Inline:
    """On SQLite a constraint can come with a new column, and only then."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.checks: dict[tuple[str, str], list[str]] = {}
        self._texts: dict[tuple[str, str], str] = {}

    def add(self, table: str, column: str, text: str) -> None:
        self._texts[table, column] = self._texts.get((table, column), "") + text

    def text(self, operation: ops.AddColumnOp) -> str:
        return self._texts.get((full(operation.table_name, operation.schema), operation.column.name), "")


def _inline_keys(scope: Scope, operations: Sequence[ops.MigrateOperation]) -> _Inline:
    inline = _Inline()
    if scope.postgres:
        return inline
    added = {(full(op.table_name, op.schema), op.column.name): op for op in _additions(operations)}
    for operation in operations:
        if isinstance(operation, ops.CreateForeignKeyOp) and len(operation.local_cols) == 1:
            where = (operation.source_table, operation.local_cols[0])
            column = added[where].column if where in added else None
            # With foreign_keys=ON SQLite wants NULL as the default of such a column.
            if column is not None and column.nullable and column.server_default is None:
                inline.done.add(id(operation))
                inline.add(*where, _references(scope, operation))
    for table, column_name in added:
        for name, text in checks_of(scope, scope.tables[table], column_name).items():
            inline.add(table, column_name, f" CONSTRAINT {scope.quoted(name)} CHECK ({text})")
            inline.checks.setdefault((table, column_name), []).append(name)
    return inline


def _additions(operations: Sequence[ops.MigrateOperation]) -> list[ops.AddColumnOp]:
    return [operation for operation in operations if isinstance(operation, ops.AddColumnOp)]


def _inlined_checks(scope: Scope, operations: Sequence[ops.MigrateOperation]) -> set[str]:
    if scope.postgres:
        return set()
    added = ((full(op.table_name, op.schema), op.column.name) for op in _additions(operations))
    return {name for table, column in added for name in checks_of(scope, scope.tables[table], column)}


def _references(scope: Scope, operation: ops.CreateForeignKeyOp) -> str:
    name = str(operation.constraint_name or "") or fk_name(
        operation.source_table, operation.local_cols, operation.referent_table
    )
    remote = scope.quoted(*column_names(operation.remote_cols))
    text = f" CONSTRAINT {scope.quoted(name)} REFERENCES {scope.quoted(operation.referent_table)} ({remote})"
    for option in ("ondelete", "onupdate"):
        if operation.kw.get(option):
            text += f" ON {option[2:].upper()} {operation.kw[option]}"
    return text

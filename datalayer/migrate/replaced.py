"""Pairs of a removal and an addition: sometimes the same thing under another kind, otherwise a change: refused.

Alembic says of an index whose definition changed that one is dropped and one created. Creating the new one would fail
on the name, or leave two rules where the models have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alembic.operations import ops

from . import rules
from .facts import ForeignKey
from .names import column_names
from .scope import Judged, Scope

Place = tuple[str, str]
Columns = tuple[str, tuple[str, ...]]


class Replaced:
    """Decides about additions that meet a removal, and about the removals that were met."""

    def __init__(self, scope: Scope, operations: Sequence[ops.MigrateOperation]) -> None:
        self._scope = scope
        self._met: set[int] = set()
        self._indexes: dict[Place, ops.DropIndexOp] = {}
        self._unique_indexes: dict[Columns, ops.DropIndexOp] = {}
        self._constraints: dict[Place, ops.DropConstraintOp] = {}
        self._uniques: dict[Columns, ops.DropConstraintOp] = {}
        self._keys: dict[Columns, ops.DropConstraintOp] = {}
        for operation in operations:
            if isinstance(operation, ops.DropIndexOp):
                self._dropped_index(operation)
            elif isinstance(operation, ops.DropConstraintOp):
                self._dropped_constraint(operation)
        self._decided = {id(op): decided for op in operations if (decided := self._meet(op)) is not None}

    def decide(self, operation: ops.MigrateOperation) -> Judged | None:
        """The verdict on an operation that is half of a pair; None if it is not."""
        return [] if id(operation) in self._met else self._decided.get(id(operation))

    def _dropped_index(self, operation: ops.DropIndexOp) -> None:
        table, _ = self._scope.table_of(operation)
        self._indexes[table, str(operation.index_name)] = operation
        index = operation.to_index()
        if index.unique:
            self._unique_indexes[table, tuple(column.name for column in index.columns)] = operation

    def _dropped_constraint(self, operation: ops.DropConstraintOp) -> None:
        table, _ = self._scope.table_of(operation)
        if operation.constraint_name:
            self._constraints[table, str(operation.constraint_name)] = operation
        constraint: Any = operation.to_constraint()
        kinds = {"foreignkey": self._keys, "unique": self._uniques}
        if operation.constraint_type in kinds:
            columns = tuple(column.name for column in constraint.columns)
            kinds[operation.constraint_type][table, columns] = operation

    def _meet(self, operation: Any) -> Judged | None:
        if isinstance(operation, ops.CreateIndexOp):
            return self._index(operation)
        if isinstance(operation, ops.CreateUniqueConstraintOp):
            return self._unique(operation)
        if isinstance(operation, ops.CreateForeignKeyOp):
            return self._foreign_key(operation)
        return None

    def _index(self, operation: ops.CreateIndexOp) -> Judged | None:
        table, _ = self._scope.table_of(operation)
        columns = _columns_of(operation)
        if operation.unique and self._forget(self._uniques.get((table, columns))):
            return []  # a unique constraint does what the unique index would
        if self._forget(self._indexes.get((table, str(operation.index_name)))):
            return [rules.index_differs(table, str(operation.index_name))]
        return None

    def _unique(self, operation: ops.CreateUniqueConstraintOp) -> Judged | None:
        table, quoted = self._scope.table_of(operation)
        columns = column_names(operation.columns)
        name = str(operation.constraint_name)
        met = self._unique_indexes.get((table, columns))
        if met is not None:
            self._forget(met)
            # On PostgreSQL an index of that name was built to become the constraint; any other does the same work.
            return None if self._scope.postgres and met.index_name == name else []
        if self._forget(self._constraints.get((table, name))):
            return [rules.constraint_differs(table, name, quoted)]
        return None

    def _foreign_key(self, operation: ops.CreateForeignKeyOp) -> Judged | None:
        table, quoted = self._scope.table_of(operation)
        name = str(operation.constraint_name)
        met = self._keys.get((table, tuple(operation.local_cols))) or self._constraints.get((table, name))
        if not self._forget(met):
            return None
        if _acts_as(operation, table) in self._scope.facts.foreign_keys:
            return []
        return [rules.constraint_differs(table, str((met and met.constraint_name) or name), quoted)]

    def _forget(self, met: Any) -> bool:
        if met is not None:
            self._met.add(id(met))
        return met is not None


def _acts_as(operation: ops.CreateForeignKeyOp, table: str) -> ForeignKey:
    actions = (str(operation.kw.get(name) or "NO ACTION").upper() for name in ("ondelete", "onupdate"))
    return ForeignKey(table, tuple(operation.local_cols), operation.referent_table, *actions)


def _columns_of(operation: ops.CreateIndexOp) -> tuple[str, ...]:
    return tuple(column.name for column in operation.to_index().columns)

"""Indexes and constraints: built without blocking writers, promised first and proven afterwards."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from . import rules
from .names import column_names, full, made_up
from .operations import ConcurrentIndexOp, execute
from .partitions import index_on_partitions
from .scope import Judged, Scope
from .steps import Phase, Step


def create_index(scope: Scope, operation: ops.CreateIndexOp) -> Judged:
    """An index: plain on a new table and on SQLite, concurrently elsewhere."""
    table, _ = scope.table_of(operation)
    name = operation.index_name
    assert name is not None
    text = f"create index {name} on {table}"
    if not scope.exists(table):
        return [Step(text, operation, follows=True)]
    half_made = (table, name) in scope.facts.invalid_indexes
    if (table, name) in scope.facts.indexes and not half_made:
        return []  # an index on an expression, which is compared by name only
    if not scope.postgres:
        return [Step(text, operation)]
    if table in scope.facts.partitioned:
        return list(index_on_partitions(scope, operation))
    return [_concurrently(scope, operation, text)]


def _concurrently(scope: Scope, operation: ops.CreateIndexOp, text: str) -> Step:
    table, _ = scope.table_of(operation)
    name = operation.index_name
    replaces = scope.quoted(operation.schema, name) if (table, name) in scope.facts.invalid_indexes else None
    made = ConcurrentIndexOp.like(operation)
    return Step(text, made, concurrently=True, replaces=replaces, scans=True)


def create_unique(scope: Scope, operation: ops.CreateUniqueConstraintOp) -> Judged:
    """A unique index first, which does not block, and then the constraint that takes it over."""
    table, quoted = scope.table_of(operation)
    columns = column_names(operation.columns)
    name = str(operation.constraint_name or "") or made_up("uq", operation.table_name, *columns)
    options = {key: value for key, value in operation.kw.items() if key.startswith("postgresql_")}
    index = ops.CreateIndexOp(name, operation.table_name, columns, schema=operation.schema, unique=True, **options)
    if not scope.postgres:
        return [Step(f"create unique index {name} on {table}", index, undo=index.reverse())]
    if table in scope.facts.partitioned:
        return [rules.on_partitioned(table, name, "a unique constraint")]
    judged: Judged = []
    if (table, name) not in scope.facts.indexes - scope.facts.invalid_indexes:
        judged.append(_concurrently(scope, index, f"create unique index {name} on {table}"))
    key = scope.quoted(name)
    sql = f"ALTER TABLE {quoted} ADD CONSTRAINT {key} UNIQUE USING INDEX {key}{_deferral(operation.kw)}"
    return [*judged, Step(f"add unique constraint {name} on {table}", execute(sql), Phase.VALIDATE)]


def _deferral(options: dict[str, Any]) -> str:
    text = " DEFERRABLE" if options.get("deferrable") else ""
    return text + (f" INITIALLY {options['initially']}" if options.get("initially") else "")


def create_foreign_key(scope: Scope, operation: ops.CreateForeignKeyOp) -> Judged:
    """A foreign key that holds for new rows at once, and is then proven for the old ones without blocking writers."""
    name = str(operation.constraint_name or "")
    name = name or fk_name(operation.source_table, operation.local_cols, operation.referent_table)
    operation.constraint_name = name
    table = full(operation.source_table, operation.kw.get("source_schema"))
    quoted = scope.quoted(operation.kw.get("source_schema"), operation.source_table)
    text = f"add foreign key {name} on {table}"
    if not scope.postgres:
        return [rules.sqlite_rebuild(table, ",".join(operation.local_cols), "add a foreign key")]
    if not scope.exists(table):
        return [Step(text, operation, Phase.CONSTRAIN)]
    if table in scope.facts.partitioned:
        return [rules.on_partitioned(table, name, "a foreign key")]
    declared_unproven = operation.kw.get("postgresql_not_valid")
    operation.kw["postgresql_not_valid"] = True
    step = Step(text, operation, Phase.CONSTRAIN)
    return [step] if declared_unproven else [step, validate(scope, table, quoted, name)]


def fk_name(table: str, columns: Any, referred: str) -> str:
    """The name of a foreign key to which the models give none."""
    return made_up("fk", table, *column_names(columns), referred)


def validate(scope: Scope, table: str, quoted: str, name: str) -> Step:
    """Prove a constraint for the rows that were there before it."""
    sql = f"ALTER TABLE {quoted} VALIDATE CONSTRAINT {scope.quoted(name)}"
    return Step(f"validate constraint {name} on {table}", execute(sql), Phase.VALIDATE, scans=True)


def missing_checks(scope: Scope, table: sa.Table, inlined: set[str]) -> Judged:
    """The CHECKs of a table that exists. Alembic does not compare them, so they are compared by name."""
    wanted = {name: check for check in _checks(table) if (name := scope.names.constraint(check)) is not None}
    found = scope.facts.checks.get(table.fullname, {})
    judged: Judged = []
    for name, check in wanted.items():
        if name not in found and name not in inlined:
            judged += _add_check(scope, table, name, check)
    nameless = sum(1 for check in _checks(table) if scope.names.constraint(check) is None)
    if nameless > len(set(found) - set(wanted)):
        judged.append(rules.unnamed_check(table.fullname))
    return judged + _stale_labels(scope, table, found)


def _checks(table: sa.Table) -> list[sa.CheckConstraint]:
    of_columns = [item for column in table.columns for item in column.constraints]
    return [item for item in [*table.constraints, *of_columns] if isinstance(item, sa.CheckConstraint)]


def checks_of(scope: Scope, table: sa.Table, column: str) -> dict[str, str]:
    """The named CHECKs on this column alone, as SQL: what SQLite can take along with a new column."""
    found = {}
    for check in _checks(table):
        name = scope.names.constraint(check)
        alone = check in table.columns[column].constraints or [c.name for c in check.columns] == [column]
        if name is not None and alone:
            found[name] = scope.expression(check.sqltext)
    return found


def _add_check(scope: Scope, table: sa.Table, name: str, check: sa.CheckConstraint) -> Judged:
    if not scope.postgres:
        return [rules.sqlite_rebuild(table.fullname, name, "add a CHECK")]
    quoted = scope.quoted(table.schema, table.name)
    text = scope.expression(check.sqltext)
    sql = f"ALTER TABLE {quoted} ADD CONSTRAINT {scope.quoted(name)} CHECK ({text}) NOT VALID"
    undo = execute(f"ALTER TABLE {quoted} DROP CONSTRAINT {scope.quoted(name)}")
    step = Step(f"add check {name} on {table.fullname}", execute(sql), Phase.CONSTRAIN, undo=undo)
    return [step] if _declared_unproven(check) else [step, validate(scope, table.fullname, quoted, name)]


def _stale_labels(scope: Scope, table: sa.Table, found: dict[str, str]) -> Judged:
    """Enums that are text with a CHECK: a label that is new in the models is not in the CHECK of the database."""
    judged: Judged = []
    for column in table.columns:
        kind = column.type
        if not (isinstance(kind, sa.Enum) and kind.create_constraint) or (scope.postgres and kind.native_enum):
            continue
        text = " ".join(found.values())
        missing = [label for label in kind.enums if f"'{label}'" not in text]
        if missing and len(missing) < len(kind.enums):
            judged += [rules.enum_check(table.fullname, column.name, label) for label in missing]
    return judged


def unproven(scope: Scope) -> list[Step]:
    """What an earlier run promised and did not live to prove."""
    steps = []
    for table in scope.tables.values():
        quoted = scope.quoted(table.schema, table.name)
        for name in _promised(scope, table):
            if (table.fullname, name) in scope.facts.unproven:
                steps.append(validate(scope, table.fullname, quoted, name))
    return steps


def _promised(scope: Scope, table: sa.Table) -> list[str]:
    names = []
    for item in [*table.foreign_key_constraints, *_checks(table)]:
        if _declared_unproven(item):
            continue
        name = scope.names.constraint(item)
        if isinstance(item, sa.ForeignKeyConstraint) and name is None:
            name = fk_name(table.name, item.column_keys, item.referred_table.name)
        if name is not None and isinstance(item, sa.ForeignKeyConstraint | sa.CheckConstraint):
            names.append(name)
    return names


def _declared_unproven(item: sa.Constraint) -> bool:
    return bool(item.dialect_kwargs.get("postgresql_not_valid"))

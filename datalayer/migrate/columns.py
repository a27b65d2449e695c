"""Adding and altering columns: what PostgreSQL and SQLite do without touching the rows, and the rest refused."""

from __future__ import annotations

import logging
import re
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from . import rules
from .names import made_up
from .operations import execute
from .scope import Judged, Scope
from .steps import Batches, Phase, Step
from .types import ddl, plain, widens

log = logging.getLogger("datalayer.migrate")

HELPER = "datalayer_nn"

_VOLATILE = re.compile(
    r"\b(gen_random_uuid|uuidv[47]|uuid_generate_v\d\w*|random\w*|clock_timestamp|timeofday|statement_timestamp"
    r"|nextval|currval|txid_current|pg_current_xact_id)\s*\(",
    re.IGNORECASE,
)
_CONSTANT = re.compile(r"\s*\(?\s*('(?:[^']|'')*'|[-+]?\d+(\.\d*)?(e[-+]?\d+)?|null|true|false|x'\w*')\s*\)?\s*$", re.I)


def add_column(scope: Scope, operation: ops.AddColumnOp, inline: str = "") -> Judged:
    """Add a column, ``inline`` being constraints that SQLite can only take together with it."""
    column = operation.column
    table, quoted = scope.table_of(operation)
    default = scope.default_of(column)
    refused = _rewriting(scope, table, quoted, column, default)
    if refused:
        return refused
    clean = _clean(scope, column)
    if not column.nullable and default is None and _generated(column) is None:
        return _required(scope, operation, clean)
    if not scope.postgres and default is not None and not _CONSTANT.match(default):
        if not column.nullable:
            return [rules.sqlite_default(table, column.name, default)]
        log.warning("%s.%s is added without its default %s, which SQLite does not allow", table, column.name, default)
        clean.server_default = None
    return [_adding(scope, operation, clean, inline)]


def _rewriting(scope: Scope, table: str, quoted: str, column: sa.Column[Any], default: str | None) -> Judged:
    generated = _generated(column)
    if column.primary_key:
        return [rules.rewriting_column(table, column.name, "a primary key")]
    if column.identity is not None or column.autoincrement is True or isinstance(column.default, sa.Sequence):
        return [rules.rewriting_column(table, column.name, "an identity")]
    if generated is not None and generated.persisted is not False and (scope.postgres or generated.persisted):
        return [rules.rewriting_column(table, column.name, "stored generated")]
    if scope.postgres and default is not None and _VOLATILE.search(default):
        spec = f"{scope.quoted(column.name)} {ddl(column.type, scope.dialect)}"
        return [rules.volatile_default(table, column.name, quoted, spec, default)]
    return []


def _generated(column: sa.Column[Any]) -> sa.Computed | None:
    return column.computed


def _clean(scope: Scope, column: sa.Column[Any]) -> sa.Column[Any]:
    """The column alone: its index, constraints and database types are steps of their own."""
    extra: list[Any] = [sa.Computed(column.computed.sqltext, column.computed.persisted)] if column.computed else []
    default = None if column.computed is not None else _default_clause(column)
    return sa.Column(
        column.name,
        plain(column.type, scope.dialect),
        *extra,
        nullable=column.nullable,
        server_default=default,
        comment=column.comment,
        quote=column.name.quote if isinstance(column.name, sa.sql.quoted_name) else None,
    )


def _default_clause(column: sa.Column[Any]) -> Any:
    found = column.server_default
    if not isinstance(found, sa.DefaultClause):
        return None
    argument: Any = found.arg
    return argument


def _adding(scope: Scope, operation: ops.AddColumnOp, clean: sa.Column[Any], inline: str = "") -> Step:
    table, quoted = scope.table_of(operation)
    text = f"add column {table}.{clean.name}"
    if inline:
        sa.Table(operation.table_name, sa.MetaData(), clean, schema=operation.schema)
        spec = sa.schema.CreateColumn(clean).compile(dialect=scope.dialect)
        return Step(text, execute(f"ALTER TABLE {quoted} ADD COLUMN {spec}{inline}"))
    return Step(text, ops.AddColumnOp(operation.table_name, clean, schema=operation.schema))


def _required(scope: Scope, operation: ops.AddColumnOp, clean: sa.Column[Any]) -> Judged:
    table, quoted = scope.table_of(operation)
    value = _scalar(scope, operation.column)
    if scope.options.not_null == "refuse" or value is None:
        spec = f"{scope.quoted(clean.name)} {ddl(clean.type, scope.dialect)}"
        return [rules.required_field(table, clean.name, quoted, spec)]
    if not scope.postgres:
        # The value that the others fill in by batches is SQLite's constant default, which costs nothing.
        clean.server_default = sa.DefaultClause(sa.text(value.replace(":", r"\:")))
        return [_adding(scope, operation, clean)]
    clean.nullable = True
    return [_adding(scope, operation, clean), *_multistep(scope, operation, clean.name, value)]


def _scalar(scope: Scope, column: sa.Column[Any]) -> str | None:
    """The SQL of what rows without a value get: the default of the models if it is plain."""
    default = scope.default_of(column)
    if default is not None:
        return None if _VOLATILE.search(default) else default
    if column.default is None or not column.default.is_scalar:
        return None
    value = sa.literal(getattr(column.default, "arg", None), column.type)
    try:
        return str(value.compile(dialect=scope.dialect, compile_kwargs={"literal_binds": True}))
    except sa.exc.CompileError:  # a type without literals, such as bytes
        return None


def _multistep(scope: Scope, operation: Any, column: str, value: str) -> list[Step]:
    table, quoted = scope.table_of(operation)
    name = scope.quoted(column)
    helper = made_up(HELPER, operation.table_name, column)
    check = scope.quoted(helper)
    where = f"{table}.{column}"
    alter = f"ALTER TABLE {quoted}"
    key = tuple(c.name for c in scope.tables[table].primary_key.columns)
    batches = Batches(fullname=table, table=quoted, column=name, value=value, key=tuple(map(scope.quoted, key)))
    update = execute(f"UPDATE {quoted} SET {name} = {value} WHERE {name} IS NULL")
    steps = [
        Step(f"set default of {where}", execute(f"{alter} ALTER COLUMN {name} SET DEFAULT {value}")),
        Step(f"fill {where}", update, Phase.BACKFILL, batches=batches),
    ]
    if helper not in scope.facts.checks.get(table, {}):
        sql = f"{alter} ADD CONSTRAINT {check} CHECK ({name} IS NOT NULL) NOT VALID"
        steps.append(Step(f"promise that {where} is not null", execute(sql), Phase.VALIDATE))
    validate = execute(f"{alter} VALIDATE CONSTRAINT {check}")
    return [
        *steps,
        Step(f"prove that {where} is not null", validate, Phase.VALIDATE, scans=True),
        Step(f"set not null {where}", execute(f"{alter} ALTER COLUMN {name} SET NOT NULL"), Phase.VALIDATE),
        drop_helper(scope, table, quoted, helper),
    ]


def drop_helper(scope: Scope, table: str, quoted: str, helper: str) -> Step:
    """The CHECK that proved a NOT NULL has done its work."""
    sql = f"ALTER TABLE {quoted} DROP CONSTRAINT IF EXISTS {scope.quoted(helper)}"
    return Step(f"drop the helper {helper} of {table}", execute(sql), Phase.VALIDATE)


def leftover_helpers(scope: Scope, altered: set[tuple[str, str]]) -> list[Step]:
    """Helpers of a run that was killed after SET NOT NULL."""
    steps = []
    for table in scope.tables.values():
        checks = scope.facts.checks.get(table.fullname, {})
        for column in table.columns:
            helper = made_up(HELPER, table.name, column.name)
            if helper in checks and not column.nullable and (table.fullname, column.name) not in altered:
                steps.append(drop_helper(scope, table.fullname, scope.quoted(table.schema, table.name), helper))
    return steps


def alter_column(scope: Scope, operation: ops.AlterColumnOp) -> Judged:
    """A type that PostgreSQL widens without reading a row, or the multistep NOT NULL; the rest is refused."""
    judged: Judged = []
    table, _ = scope.table_of(operation)
    column = scope.tables[table].columns.get(operation.column_name) if table in scope.tables else None
    if operation.modify_name:
        judged.append(rules.rename(table, operation.column_name))
    if operation.modify_type is not None:
        judged += _alter_type(scope, operation)
    if operation.modify_nullable is not None and not (column is not None and column.primary_key):
        judged += _alter_nullable(scope, operation, column)
    return judged


def _alter_type(scope: Scope, operation: ops.AlterColumnOp) -> Judged:
    table, quoted = scope.table_of(operation)
    assert operation.modify_type is not None
    assert operation.existing_type is not None
    found, wanted = (ddl(kind, scope.dialect) for kind in (operation.existing_type, operation.modify_type))
    name = scope.quoted(operation.column_name)
    if scope.postgres and widens(found, wanted):
        sql = f"ALTER TABLE {quoted} ALTER COLUMN {name} TYPE {wanted}"
        return [Step(f"widen column {table}.{operation.column_name} to {wanted}", execute(sql))]
    if not scope.postgres:
        return [rules.sqlite_rebuild(table, operation.column_name, f"change the type {found} to {wanted}")]
    if widens(wanted, found):
        return [rules.narrower(table, operation.column_name, found, wanted)]
    return [rules.change_type(table, operation.column_name, quoted, name, found, wanted)]


def _alter_nullable(scope: Scope, operation: ops.AlterColumnOp, column: sa.Column[Any] | None) -> Judged:
    table, quoted = scope.table_of(operation)
    name = scope.quoted(operation.column_name)
    if not scope.postgres:
        what = "allow NULL" if operation.modify_nullable else "forbid NULL"
        return [rules.sqlite_rebuild(table, operation.column_name, what)]
    if operation.modify_nullable:
        return [rules.drop_not_null(table, operation.column_name, quoted, name)]
    value = _scalar(scope, column) if column is not None else None
    if scope.options.not_null == "refuse" or value is None:
        return [rules.set_not_null(table, operation.column_name, quoted, name)]
    return list(_multistep(scope, operation, operation.column_name, value))


def drop_column(scope: Scope, operation: ops.DropColumnOp) -> Judged:
    """Refused; whether inserts of the new models fail meanwhile is said."""
    table, quoted = scope.table_of(operation)
    column = operation.to_column()
    required = not column.nullable and column.server_default is None and column.computed is None
    required = required and column.identity is None and not column.primary_key
    name = scope.quoted(operation.column_name)
    return [rules.drop_column(table, operation.column_name, quoted, name, required=required)]

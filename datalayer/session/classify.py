"""What a compiled statement writes, worked out once per compiled object.

A statement that pins the primary key by literals changes known rows; any other UPDATE or DELETE may change every row
of its table; a plain INSERT changes no row that exists, but may bring one back that was deleted. If unsure, the answer
is the larger one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

_MEMO = "_datalayer_writes"

_READS = re.compile(
    r"^\s*(?:/\*.*?\*/|--[^\n]*\n|\s|\()*"
    r"(select|show|explain|pragma|values|savepoint|release|rollback|begin|commit|set|reset|fetch|declare|close|table"
    r"|listen|unlisten|notify|discard|deallocate)\b",
    re.IGNORECASE | re.DOTALL,
)
_SCHEMA = re.compile(r"^\s*(alter|create|drop|comment|grant|revoke|reassign)\b", re.IGNORECASE)
_ISOLATION = re.compile(
    r"\bset\s+((session|local)\s+)?(characteristics|transaction|default_transaction|role|authorization|search_path)"
    r"|\bisolation\b|\bset_config\b.*\b(role|session_authorization|search_path|transaction_isolation)\b",
    re.IGNORECASE | re.DOTALL,
)


class Write(NamedTuple):
    """One table that a statement writes. ``pins``: the bind parameter that holds its primary key, if one does.
    ``gives``: an INSERT that names keys; those that the database or a default makes are new."""

    kind: str  # "insert" | "update" | "delete" | "upsert"
    table: str | None
    pins: str | None
    rekeys: bool
    gives: bool = False


def writes_of(compiled: Any) -> Sequence[Write]:
    """The tables that a compiled statement writes. The first call costs microseconds, later ones a dict look-up."""
    found: Sequence[Write] | None = compiled.__dict__.get(_MEMO)
    if found is None:
        found = compiled.__dict__[_MEMO] = tuple(_classify(compiled))
    return found


def reads_only(text: str) -> bool:
    """Whether SQL text is known to write nothing. Functions that write are not seen: see the caveats."""
    match = _READS.match(text)
    if match is None:
        return False
    return match.group(1).lower() != "select" or " into " not in f" {text.lower()} "


def changes_isolation(text: str) -> bool:
    """Whether a statement makes the rest of its transaction see other rows than everybody else: another isolation,
    role or search path."""
    return _ISOLATION.search(text) is not None


def changes_schema(text: str) -> bool:
    return _SCHEMA.match(text) is not None


def is_text(statement: Any) -> bool:
    return isinstance(statement, sa.TextClause) or isinstance(getattr(statement, "element", None), sa.TextClause)


def _classify(compiled: Any) -> Iterator[Write]:
    if not (compiled.isinsert or compiled.isupdate or compiled.isdelete or getattr(compiled, "ctes", None)):
        return
    for element in visitors.iterate(compiled.statement):
        if isinstance(element, UpdateBase):
            yield _write(element, compiled if element is compiled.statement else None)


def _write(statement: UpdateBase, compiled: Any) -> Write:
    table = statement.table
    if not isinstance(table, sa.Table):
        return Write("update", None, None, True)
    pins = _pinned(statement, table, compiled.bind_names) if compiled is not None else None
    if isinstance(statement, Insert):
        plain = getattr(statement, "_post_values_clause", None) is None and not statement._prefixes
        if not plain:
            return Write("upsert", table.fullname, None, False)
        pins, gives = _given(statement, table, compiled)
        return Write("insert", table.fullname, pins, False, gives)
    if isinstance(statement, Delete):
        return Write("delete", table.fullname, pins, False)
    assert isinstance(statement, Update)
    rekeys = _sets_key(statement, table)
    return Write("update", table.fullname, None if rekeys else pins, rekeys)


def _given(statement: Any, table: sa.Table, compiled: Any) -> tuple[str | None, bool]:
    """The bind parameter that holds the key of a new row, if one does, and whether keys are given at all."""
    keys = {column.key for column in table.primary_key}
    if compiled is None or statement._multi_values:
        return None, True
    if statement._select_names:
        return None, not keys.isdisjoint(statement._select_names)
    values = {getattr(column, "key", column): value for column, value in (statement._values or {}).items()}
    if keys.isdisjoint([*values, *(compiled.column_keys or ())]):
        return None, False
    (name, *more) = keys
    literal = name not in values or isinstance(values[name], BindParameter)
    return (name if literal and not more else None), True


def _sets_key(statement: Update, table: sa.Table) -> bool:
    values = statement._values
    if values is None:  # SET comes from the parameters of each execution
        return True
    names = {getattr(column, "key", column) for column in values}
    return any(column.key in names or column.name in names for column in table.primary_key)


def _pinned(statement: Any, table: sa.Table, names: Mapping[Any, str]) -> str | None:
    """The compiled name of the bind parameter in ``pk = :param`` or ``pk IN (:param)`` among ANDed criteria."""
    if len(table.primary_key.columns) != 1:
        return None
    (key,) = table.primary_key.columns
    for criterion in _conjuncts(getattr(statement, "_where_criteria", ())):
        if not isinstance(criterion, BinaryExpression) or not isinstance(criterion.right, BindParameter):
            continue
        same = getattr(criterion.left, "table", None) is not None and _is_column(criterion.left, key)
        if same and criterion.operator in (operators.eq, operators.in_op):
            return names.get(criterion.right)
    return None


def _conjuncts(criteria: Any) -> Iterator[Any]:
    for criterion in criteria:
        if isinstance(criterion, BooleanClauseList) and criterion.operator is operators.and_:
            yield from _conjuncts(criterion.clauses)
        else:
            yield criterion


def _is_column(expression: Any, column: sa.Column[Any]) -> bool:
    return expression is column or (
        isinstance(expression, sa.Column) and expression.compare(column) and expression.table.compare(column.table)
    )


def pinned_keys(write: Write, parameters: Sequence[Mapping[str, Any]], kind: type) -> set[tuple[Any, ...]] | None:
    """The keys that the executions of a pinned statement name, or None when one is not exactly of the key's type."""
    assert write.pins is not None
    keys: set[tuple[Any, ...]] = set()
    for row in parameters:
        value = row.get(write.pins)
        for item in value if isinstance(value, list | tuple) else (value,):
            if type(item) is not kind:
                return None
            keys.add((item,))
    return keys

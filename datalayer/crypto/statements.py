"""What an engine with keys does to each statement that touches encrypted columns.

*Before it is compiled* every value for a column with a blind index is given to the index column, too, whoever writes:
the unit of work, bulk statements or Core. Values that are SQL expressions are refused, the database would compute
readable text. *Before it is run* ciphertext that is bound to its row is made, because only now the row's key is known
(defaults have been filled in), and a compiled statement that uses ciphertext as if it were text is refused, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    Case,
    Cast,
    Null,
    Over,
    UnaryExpression,
)
from sqlalchemy.sql.functions import FunctionElement, count

from .column import BlindMatch, EncryptedColumnError, EncryptedText
from .tables import SealedColumn, sealed_columns
from .unique import Guard
from .writes import RowBinder

_MEMO = "_datalayer_sealed"


class StatementRules:
    """The listeners of one engine. Install once per layer; twice does no harm, they find their work done."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._listeners: list[tuple[str, Callable[..., Any], bool]] = [
            ("before_execute", _complete, True),
            ("before_cursor_execute", _check_and_bind, True),
            ("handle_error", _forget_parameters, False),
        ]

    def install(self) -> None:
        for name, listener, returns in self._listeners:
            event.listen(self._engine, name, listener, retval=returns)

    def remove(self) -> None:
        for name, listener, _ in self._listeners:
            if event.contains(self._engine, name, listener):
                event.remove(self._engine, name, listener)


# -- before it is compiled -----------------------------------------------------------------------------------------


def _complete(connection: Any, element: Any, many: Any, one: Any, options: Any) -> tuple[Any, Any, Any]:
    """Give the blind index columns their values."""
    if not isinstance(element, Insert | Update) or not sealed_columns(element.table):
        return element, many, one
    columns = sealed_columns(element.table)
    element, renamed = _complete_statement(element, columns)
    twins = [(c.key, c.blind) for c in columns if c.blind is not None] + renamed
    if many:
        return element, [_with_twins(row, twins) for row in many], one
    return element, many, _with_twins(one, twins) if one else one


def _with_twins(row: Mapping[str, Any], twins: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {**row, **{blind: row[key] for key, blind in twins if key in row}}


def _complete_statement(element: Any, columns: Sequence[SealedColumn]) -> tuple[Any, list[tuple[str, str]]]:
    """The statement with values for the index columns, and which parameters must be given under a second name."""
    if getattr(element, "_select_names", None):
        _refuse_select(element, columns)
    if getattr(element, "_post_values_clause", None) is not None:
        _check_upsert(element, columns)
    if element._multi_values:
        return _complete_rows(element, columns), []
    added: dict[Any, Any] = {}
    renamed: list[tuple[str, str]] = []
    for column, value in _values_of(element, columns):
        twin = _twin(element.table, column, value, renamed)
        if column.blind is not None:
            added[element.table.c[column.blind]] = twin
    if not added:
        return element, renamed
    if getattr(element, "_ordered_values", None) or getattr(element, "_maintain_values_ordering", False):
        raise EncryptedColumnError(
            f"{element.table.fullname}: an encrypted column with a blind index cannot be set by ordered_values(); "
            "use values()"
        )
    return element.values(added), renamed


def _values_of(element: Any, columns: Sequence[SealedColumn]) -> Iterator[tuple[SealedColumn, Any]]:
    values = element._values or getattr(element, "_ordered_values", None)
    if not values:
        return
    known = {column.key: column for column in columns}
    for key, value in values.items() if isinstance(values, Mapping) else values:
        column = known.get(_column_key(element, key))
        if column is not None:
            yield column, value


def _column_key(element: Any, key: Any) -> str:
    """The key in its table of what a statement calls a column: a Column, its key, or the name of an attribute."""
    if not isinstance(key, str):
        return str(getattr(key, "key", key)) if getattr(key, "table", None) is not None else str(key)
    subject = element._propagate_attrs.get("plugin_subject") if element._propagate_attrs else None
    attribute = subject.mapper.column_attrs.get(key) if subject is not None else None
    return attribute.columns[0].key if attribute is not None else key


def _twin(table: Any, column: SealedColumn, value: Any, renamed: list[tuple[str, str]]) -> Any:
    """What the index column is given for a value of the encrypted one."""
    if isinstance(value, Null) or value is None:
        return sa.null()
    if not isinstance(value, sa.ClauseElement):
        return value
    if not isinstance(value, BindParameter):
        raise EncryptedColumnError(
            f"{table.fullname}.{column.key} is encrypted and cannot be set to an SQL expression: the database would "
            "compute readable text; compute the value in Python"
        )
    if not value.required:
        return value.effective_value
    if column.blind is None:
        return None
    name = f"{value.key}__bidx"
    renamed.append((value.key, name))
    return sa.bindparam(name, type_=table.c[column.blind].type)


def _complete_rows(element: Any, columns: Sequence[SealedColumn]) -> Any:
    known = {column.key: column for column in columns}
    groups = []
    for group in element._multi_values:
        rows = []
        for row in group:
            if not isinstance(row, Mapping):
                raise EncryptedColumnError(
                    f"{element.table.fullname} has encrypted columns: give rows as dicts, not as tuples"
                )
            row = dict(row)
            for key, value in list(row.items()):
                column = known.get(_column_key(element, key))
                if column is not None:
                    twin = _twin(element.table, column, value, [])
                    if column.blind is not None:
                        row[element.table.c[column.blind]] = twin
            rows.append(row)
        groups.append(rows)
    made = element._clone()
    made._multi_values = tuple(groups)
    return made


def _refuse_select(element: Any, columns: Sequence[SealedColumn]) -> None:
    names = {_column_key(element, name) for name in element._select_names}
    for column in columns:
        if column.key in names:
            raise EncryptedColumnError(
                f"{element.table.fullname}.{column.key} is encrypted and cannot be filled by INSERT ... SELECT; "
                "read the rows and insert them"
            )


def _check_upsert(element: Any, columns: Sequence[SealedColumn]) -> None:
    clause = element._post_values_clause
    values = dict(getattr(clause, "update_values_to_set", ()))  # a mapping or pairs, by release
    updates: dict[str, Any] = {str(getattr(key, "key", key)): value for key, value in values.items()}
    for column in columns:
        if column.key not in updates:
            continue
        place = f"{element.table.fullname}.{column.key}"
        if not _is_own_or_plain(updates[column.key], column.key):
            raise EncryptedColumnError(f"{place} is encrypted; ON CONFLICT may set it to excluded.{column.key} only")
        if column.blind is not None and column.blind not in updates:
            raise EncryptedColumnError(
                f"{place}: ON CONFLICT DO UPDATE sets it without its blind index; "
                f"add {column.blind}=statement.excluded.{column.blind}"
            )
        if column.by_row and not _conflicts_on_key(element.table, clause):
            raise EncryptedColumnError(
                f"{place} is bound to its row: ON CONFLICT must be about the primary key, "
                "else the value of a new row would land in another one"
            )


def _is_own_or_plain(value: Any, key: str) -> bool:
    """Whether a value is no SQL expression, or ``excluded.<the same column>``."""
    if not isinstance(value, sa.ClauseElement) or isinstance(value, BindParameter | Null):
        return True
    return isinstance(value, sa.ColumnClause) and isinstance(value.type, EncryptedText) and value.key == key


def _conflicts_on_key(table: Any, clause: Any) -> bool:
    targets = clause.inferred_target_elements or ()
    keys = {column.key for column in table.primary_key}
    return {str(getattr(target, "key", target)) for target in targets} == keys


# -- before it is run ----------------------------------------------------------------------------------------------


def _check_and_bind(
    connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    compiled = getattr(context, "compiled", None)
    if compiled is None:
        return text, parameters
    plan: Plan | None = compiled.__dict__.get(_MEMO, _UNKNOWN)
    if plan is _UNKNOWN:
        try:
            plan = compiled.__dict__[_MEMO] = _planned(compiled)
        except EncryptedColumnError:
            del parameters  # a text that somebody compared with, perhaps
            raise
    if plan is None:
        return text, parameters
    return text, plan.apply(connection, parameters, context)


class Plan:
    """What each execution of a compiled INSERT or UPDATE still needs."""

    def __init__(self, binder: RowBinder | None, guard: Guard | None) -> None:
        self._binder = binder
        self._guard = guard

    def apply(self, connection: Any, parameters: Any, context: Any) -> Any:
        if self._guard is not None:
            self._guard.check(connection, context)
        return parameters if self._binder is None else self._binder.bound(parameters, context)


_UNKNOWN: Any = object()


def _planned(compiled: Any) -> Plan | None:
    statement = compiled.statement
    if not isinstance(statement, sa.ClauseElement) or isinstance(statement, sa.TextClause):
        return None
    _check(statement)
    table = getattr(statement, "table", None) if isinstance(statement, Insert | Update) else None
    columns = sealed_columns(table) if table is not None else ()
    if not columns:
        return None
    binder = RowBinder(compiled, columns) if any(c.by_row for c in columns) else None
    guard = Guard.of(compiled, columns)
    return Plan(binder, guard) if binder is not None or guard is not None else None


#: type_coerce() says that ciphertext is meant.
_BOUNDARIES = (sa.SelectBase, sa.ScalarSelect, sa.TableClause, sa.TypeCoerce)
_OPERATIONS = (BinaryExpression, UnaryExpression, FunctionElement, Cast, Case, Over)


def _check(statement: Any) -> None:
    """EncryptedColumnError when ciphertext is ordered, grouped, compared or computed with."""
    for node in visitors.iterate(statement):
        if isinstance(node, sa.Select):
            for clause in (*node._order_by_clauses, *node._group_by_clauses, *(node._distinct_on or ())):
                _refuse_inside(clause, "ORDER BY, GROUP BY or DISTINCT")
        elif isinstance(node, _OPERATIONS) and not _is_allowed(node):
            for child in node.get_children():
                _refuse_inside(child, _named(node))
        elif isinstance(node, Insert | Update) and node is not statement and sealed_columns(node.table):
            raise EncryptedColumnError(
                f"{node.table} has encrypted columns and cannot be written inside of another statement"
            )


def _is_allowed(node: Any) -> bool:
    if isinstance(node, BlindMatch | count):
        return True
    return isinstance(node, BinaryExpression) and node.operator in (operators.is_, operators.is_not)


def _refuse_inside(node: Any, what: str) -> None:
    stack = [node]
    while stack:
        found = stack.pop()
        if isinstance(found, sa.Column) and isinstance(found.type, EncryptedText):
            raise EncryptedColumnError(
                f"{found.type.place} is encrypted: {what} on ciphertext means nothing; do it in Python on loaded rows"
            )
        if not isinstance(found, _BOUNDARIES) and not _is_allowed(found):
            stack.extend(found.get_children())


def _named(node: Any) -> str:
    if isinstance(node, FunctionElement):
        return f"{getattr(node, 'name', 'a function')}()"
    operator = getattr(node, "operator", None) or getattr(node, "modifier", None)
    return getattr(operator, "__name__", type(node).__name__).strip("_")


# -- when it fails -------------------------------------------------------------------------------------------------


def _forget_parameters(context: Any) -> None:
    """A statement that failed before its values were encrypted: its exception must not carry them about."""
    error = context.sqlalchemy_exception
    if context.execution_context is None and isinstance(error, sa.exc.StatementError):
        error.params = None

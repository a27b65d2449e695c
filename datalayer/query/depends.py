"""What the result of a SELECT depends on: its tables, and the values that it asks declared columns for.

Only a statement whose every part is known to be a function of its tables and parameters has a plan. Text, functions
that this module does not know (``now()``, ``random()``), locks, loader options and the like have none, and say why.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import hashlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, Grouping
from sqlalchemy.sql.functions import FunctionElement

from ..crypto.column import BlindMatch
from ..models.schema import Schema
from ..models.tagged import tagged_columns

_PURE = frozenset(
    [
        "abs",
        "ceil",
        "char_length",
        "coalesce",
        "concat",
        "count",
        "floor",
        "greatest",
        "least",
        "length",
        "lower",
        "ltrim",
        "max",
        "min",
        "mod",
        "nullif",
        "replace",
        "round",
    ]
) | frozenset(("row_number", "rank", "rtrim", "sign", "substr", "substring", "sum", "trim", "upper", BlindMatch.name))

_PLAIN = (str, bytes, int, float, bool, type(None), decimal.Decimal, uuid.UUID, dt.date, dt.time, dt.timedelta)

#: Clauses of a SELECT that its list of keys could not keep the meaning of.
_CLAUSES = (
    *("_for_update_arg", "_with_options", "_execution_options", "_group_by_clauses", "_having_criteria", "_distinct"),
    *("_distinct_on", "_prefixes", "_suffixes", "_hints", "_statement_hints", "_independent_ctes", "_correlate"),
)


class Reason(str):
    """Why a result is not cached."""

    __slots__ = ()


class Plan(NamedTuple):
    """``tables``: everything that is read. ``values``: (table, column, value), each of which every row of the result
    has, if the declared columns allow such a narrowing and one table is all there is. ``keys``: the SELECT of primary
    keys instead of rows. ``text``: the statement and its parameters, different for different results."""

    tables: tuple[str, ...]
    values: tuple[tuple[str, str, Any], ...]
    keys: sa.Select[Any]
    text: bytes


def plan(statement: sa.Select[Any], schema: Schema, dialect: Any, known: Iterable[sa.MetaData]) -> Plan | Reason:
    """How the rows of ``statement``, which selects ``schema.cls`` alone, may be cached. Costs a compilation."""
    for clause in _CLAUSES:
        value = getattr(statement, clause, None)
        if isinstance(value, sa.ClauseElement) or value:
            return Reason(f"it has {clause.strip('_').replace('_', ' ')}")
    if statement.column_descriptions[0]["expr"] is not schema.cls:
        return Reason(f"it selects something else than {schema.cls.__name__}")
    names = [schema.mapper.get_property_by_column(c).key for c in schema.mapper.primary_key]
    keys = statement.with_only_columns(*(getattr(schema.cls, n) for n in names), maintain_column_froms=True)
    compiled: Any = keys.compile(dialect=dialect)
    resolved = compiled.compile_state.statement
    found = _tables(resolved, known)
    if isinstance(found, Reason):
        return found
    parameters = [_parameter(name, value) for name, value in sorted(compiled.params.items())]
    if None in parameters:
        return Reason("it has parameters of a type whose text does not tell them apart")
    values = tuple(_asked(resolved, schema, found)) if dialect.name in ("postgresql", "sqlite") else ()
    text = "\n".join((str(compiled), *map(str, parameters))).encode("utf-8", "surrogatepass")
    return Plan(tuple(sorted(table.fullname for table in found)), values, keys, text)


def _tables(statement: Any, known: Iterable[sa.MetaData]) -> frozenset[sa.Table] | Reason:
    tables: set[sa.Table] = set()
    for element in _elements(statement):
        if isinstance(element, sa.Table):
            tables.add(element)
        elif isinstance(element, FunctionElement):
            if element.name.lower() not in _PURE:
                return Reason(f"it calls {element.name}()")
        elif isinstance(element, sa.TextClause) or (getattr(element, "is_literal", False) and str(element) not in "1*"):
            return Reason("it has conditions in text")
        elif type(element).__name__ in _UNKNOWN_SOURCES:
            return Reason(f"it reads a {type(element).__name__}")
    metadata = set(map(id, known))
    strangers = sorted(table.fullname for table in tables if id(table.metadata) not in metadata)
    return Reason(f"it reads {', '.join(strangers)}, which no model has") if strangers else frozenset(tables)


_UNKNOWN_SOURCES = frozenset(("TableClause", "TextualSelect", "TextAsFrom", "TableSample", "Values", "Sequence"))


def _elements(statement: Any) -> Iterator[Any]:
    """Every element of a statement, and the tables of the columns that it names without a FROM."""
    seen: set[int] = set()
    waiting = [statement, *statement.get_final_froms()]
    while waiting:
        for element in visitors.iterate(waiting.pop()):
            if id(element) in seen:
                continue
            seen.add(id(element))
            yield element
            waiting += _hidden(element)


def _hidden(element: Any) -> list[Any]:
    """What an element stands for that iteration does not reach."""
    table = getattr(element, "table", None) if isinstance(element, sa.ColumnElement) else None
    inner = getattr(element, "element", None) if isinstance(element, sa.FromClause) else None
    return [one for one in (table, inner) if isinstance(one, sa.ClauseElement)]


def _asked(statement: Any, schema: Schema, tables: frozenset[sa.Table]) -> Iterator[tuple[str, str, Any]]:
    """The declared columns that every row of the result has one value in."""
    declared = {(t.table, t.column): t.kind for t in tagged_columns(schema.mapper, schema.policy.query_tags)}
    if not declared or len(tables) != 1 or statement.whereclause is None:
        return
    for condition in _conjuncts(statement.whereclause):
        if type(condition) is not BinaryExpression or condition.operator is not operators.eq:
            continue
        left, right = condition.left, condition.right
        if not isinstance(left, sa.Column) or not isinstance(right, BindParameter):
            continue
        table = getattr(left.table, "fullname", None)
        kind = declared.get((str(table), left.name))
        if kind is not None and type(right.effective_value) is kind and isinstance(left.table, sa.Table):
            yield str(table), left.name, right.effective_value


def _conjuncts(condition: Any) -> Iterator[Any]:
    if isinstance(condition, Grouping):
        yield from _conjuncts(condition.element)
    elif isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for part in condition.clauses:
            yield from _conjuncts(part)
    else:
        yield condition


def _parameter(name: str, value: Any) -> str | None:
    """A parameter as text that no other value of it has; None for a type that this is not known of."""
    if isinstance(value, list | tuple | set | frozenset):
        parts = [
            _parameter("", part) for part in (value if isinstance(value, list | tuple) else sorted(value, key=repr))
        ]
        return None if None in parts else f"{name}=[{','.join(map(str, parts))}]"
    if isinstance(value, enum.Enum):
        return f"{name}={type(value).__qualname__}.{value.name}"
    return f"{name}={type(value).__name__}:{value!r}" if type(value) in (*_PLAIN, dt.datetime) else None


def digest_of(plan: Plan, *, fingerprint: bytes, scope: str | None, secret: bytes) -> str:
    """The name of a result: a keyed hash, so that a value in a parameter cannot be guessed from it."""
    state = hashlib.blake2b(plan.text, digest_size=20, key=hashlib.sha256(secret).digest())
    state.update(b"\0" + fingerprint + (b"-" if scope is None else b"+" + scope.encode("utf-8", "surrogatepass")))
    return state.hexdigest()

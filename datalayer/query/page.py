"""Keyset pagination: a page continues after the last row of the one before, so page 10,000 costs what page 1 does.

The order is made total by the primary key, in the direction of the last column, so that one index can serve both. NULLs
have a place of their own in the order: the database's default (last ascending, first descending in PostgreSQL; the
other way round in SQLite) unless the query says NULLS FIRST or LAST. "After a row" is a comparison of rows,
``(score, id) < (?, ?)``, where the directions agree, which an index answers from where the row lies. Where they do not,
one statement asks for what is equal in the columns before the turn and another one for what comes after, if the page is
not full yet; and where NULLs come after the values of the first column, one more for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import TextClause, UnaryExpression

from ..errors import QueryError
from .cursor import digest_of, seal, unseal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows in order, and the cursor of the page after them; None at the end."""

    items: list[T]
    next: str | None


class Raw(sa.types.UserDefinedType[Any]):
    """A value as the driver has it: what comes from a column goes back to it unchanged, whatever its type does."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "RAW"


class Key(NamedTuple):
    """One column of the order. ``nulls_first`` None means that the column holds no NULLs."""

    expression: Any
    descending: bool
    nulls_first: bool | None
    cast: Any = None

    def value(self, value: Any) -> Any:
        bound = sa.bindparam(None, value, type_=Raw(), unique=True)
        return bound if self.cast is None else sa.cast(bound, self.cast)

    def stored(self) -> Any:
        return sa.type_coerce(self.expression, Raw())

    def ordering(self) -> Any:
        ordered = self.expression.desc() if self.descending else self.expression.asc()
        if self.nulls_first is None:
            return ordered
        return ordered.nulls_first() if self.nulls_first else ordered.nulls_last()


@dataclass(frozen=True, slots=True)
class Keyset:
    """The statements of one page, in order: a later one is for what an earlier one leaves to be read."""

    statements: tuple[sa.Select[Any], ...]
    keys: tuple[Key, ...]
    size: int
    joins: bool
    seal: Callable[[Sequence[Any]], str]

    def read(self, execute: Callable[[sa.Select[Any]], Any]) -> Page[sa.Row[Any]]:
        """A page of rows, without the columns that only the cursor needs. One row more is read, to see if one is."""
        rows: list[Any] = []
        for statement in self.statements:
            if len(rows) <= self.size:
                rows += self._rows(execute(statement.limit(self.size + 1 - len(rows))))
        shown, width = rows[: self.size], len(self.keys)
        items = [row[:-width] for row in shown]
        return Page(items, self.seal(shown[-1][-width:]) if len(rows) > self.size else None)

    def _rows(self, result: Any) -> Sequence[Any]:
        if getattr(result, "_unique_filter_state", None) is None:
            found: Sequence[Any] = result.all()
            return found
        if self.joins:
            raise QueryError(
                "page() of a select() with joins cannot load collections with joinedload(): which rows belong "
                "together is not known; use selectinload()"
            )
        return list(result.unique().all())


def keyset(
    statement: sa.Select[Any], model: type[Any], *, size: int, after: str | None, secret: bytes, dialect: str
) -> Keyset:
    """The page of ``statement`` that follows the cursor ``after``. QueryError for a cursor that is not this query's."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise QueryError(f"size is {size!r}; expected a whole number of rows, 1 or more")
    if statement._limit_clause is not None or statement._offset_clause is not None:
        raise QueryError("the query has a limit or an offset; page(size=) decides how many rows a page has")
    keys = tuple(_keys(statement, model, dialect))
    ordered = statement.order_by(None).order_by(*(key.ordering() for key in keys))
    digest = digest_of(ordered, secret)
    ordered = ordered.add_columns(*(key.stored().label(f"cursor_{i}") for i, key in enumerate(keys)))
    parts: tuple[sa.Select[Any], ...] = (ordered,)
    if after is not None:
        values = unseal(after, digest, secret, len(keys))
        parts = tuple(ordered.where(criterion) for criterion in _segments(keys, values))
    joins = bool(statement._setup_joins or statement._from_obj)
    return Keyset(parts, keys, size, joins, lambda values: seal(values, digest, secret))


# -- the order -------------------------------------------------------------------------------------------------------


def _keys(statement: sa.Select[Any], model: type[Any], dialect: str) -> Iterator[Key]:
    mapper: Any = inspect(model)
    seen: set[Any] = set()
    descending = False
    for clause in statement._order_by_clauses:
        key = _key(clause, mapper, dialect)
        name = _name(key.expression)
        if name is None or name not in seen:
            seen.add(name)
            descending = key.descending
            yield key
    for column in mapper.primary_key:
        expression = getattr(model, mapper.get_property_by_column(column).key)
        if _name(expression) not in seen:
            yield Key(expression, descending, None, _cast(expression, dialect))


def _key(clause: Any, mapper: Any, dialect: str) -> Key:
    descending, nulls_first, inner = False, None, clause
    while isinstance(inner, UnaryExpression) and inner.modifier is not None:
        if inner.modifier is operators.desc_op:
            descending = True
        elif inner.modifier is operators.nulls_first_op:
            nulls_first = True
        elif inner.modifier is operators.nulls_last_op:
            nulls_first = False
        inner = inner.element
    if isinstance(inner, TextClause) or not isinstance(inner, sa.ColumnElement):
        raise QueryError(f"page() cannot continue after {clause}; order by columns of {mapper.class_.__name__}")
    if not _may_be_null(inner, mapper):
        return Key(inner, descending, None, _cast(inner, dialect))
    if nulls_first is None:
        nulls_first = descending if dialect == "postgresql" else not descending
    return Key(inner, descending, nulls_first, _cast(inner, dialect))


def _may_be_null(expression: Any, mapper: Any) -> bool:
    """A column of another table may be NULL whatever it declares: an outer join makes it so."""
    table = getattr(expression, "table", None)
    return getattr(expression, "nullable", True) or table not in mapper.tables


def _name(expression: Any) -> Any:
    clause = expression.__clause_element__() if hasattr(expression, "__clause_element__") else expression
    table = getattr(clause, "table", None)
    return None if table is None else (getattr(table, "fullname", getattr(table, "name", None)), clause.key)


def _cast(expression: Any, dialect: str) -> Any:
    """What a value must be made first: PostgreSQL would compare a real with a double, and find 0.1 greater than 0.1."""
    kind = expression.type
    return kind if dialect == "postgresql" and isinstance(kind, sa.Float | sa.ARRAY) else None


# -- what comes after a row ------------------------------------------------------------------------------------------


def _segments(keys: Sequence[Key], values: Sequence[Any]) -> Iterator[Any]:
    """Criteria for the rows after ``values``, in the order of the rows; an index can answer each from its start."""
    first, value = keys[0], values[0]
    if value is None:
        yield sa.and_(first.expression.is_(None), _beyond(keys[1:], values[1:]))
        if first.nulls_first:
            yield first.expression.is_not(None)
        return
    keys = (first._replace(nulls_first=True), *keys[1:])
    count = _together(keys, values)
    if count < len(keys):
        equal = (_equal(key, value) for key, value in zip(keys[:count], values[:count], strict=True))
        yield sa.and_(*equal, _beyond(keys[count:], values[count:]))
    yield _compared(keys[:count], values[:count])
    if first.nulls_first is False:
        yield first.expression.is_(None)


def _beyond(keys: Sequence[Key], values: Sequence[Any]) -> Any:
    """Rows after ``values``: beyond in the first columns, or equal there and beyond in the rest."""
    if not keys:
        return sa.false()
    together = _together(keys, values)
    if together == len(keys):
        return _compared(keys, values)
    count = together or 1
    equal = [_equal(key, value) for key, value in zip(keys[:count], values[:count], strict=True)]
    later = _compared(keys[:count], values[:count]) if together else _later(keys[0], values[0])
    return sa.or_(later, sa.and_(*equal, _beyond(keys[count:], values[count:])))


def _together(keys: Sequence[Key], values: Sequence[Any]) -> int:
    """How many of the first columns can be compared as one row: one direction, values, and no NULLs after them."""
    count = 0
    for key, value in zip(keys, values, strict=True):
        if value is None or key.nulls_first is False or key.descending != keys[0].descending:
            break
        count += 1
    return count


def _compared(keys: Sequence[Key], values: Sequence[Any]) -> Any:
    bound = [key.value(value) for key, value in zip(keys, values, strict=True)]
    left = keys[0].expression if len(keys) == 1 else sa.tuple_(*(key.expression for key in keys))
    right = bound[0] if len(keys) == 1 else sa.tuple_(*bound)
    return left < right if keys[0].descending else left > right


def _equal(key: Key, value: Any) -> Any:
    return key.expression.is_(None) if value is None else key.expression == key.value(value)


def _later(key: Key, value: Any) -> Any:
    """For a column that cannot be part of a row: NULL in either place."""
    if value is None:
        return key.expression.is_not(None) if key.nulls_first else sa.false()
    later = _compared((key,), (value,))
    return sa.or_(later, key.expression.is_(None)) if key.nulls_first is False else later

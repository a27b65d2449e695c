"""Keyset pagination: a page continues after the last row of the one before, so page 10,000 costs what page 1 does.

The order is made total by the primary key. A cursor holds the last row's values in that order, a digest of the
statement it belongs to, and a MAC, so that it can neither be forged nor used with another query. NULLs have a place of
their own in the order: the database's default (last ascending, first descending in PostgreSQL; the other way round in
SQLite) unless the query says NULLS FIRST or LAST.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from ..codecs.registry import codec_named
from ..codecs.row import compile_row
from ..contracts.codec import Field
from ..errors import DecodeError, EncodeError, QueryError

T = TypeVar("T")

_MAC = 16
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows in order, and the cursor of the page after them; None at the end."""

    items: list[T]
    next: str | None


class Key(NamedTuple):
    """One column of the order. ``nulls_first`` None means that the column holds no NULLs."""

    expression: Any
    name: str
    descending: bool
    nulls_first: bool | None


@dataclass(frozen=True, slots=True)
class Keyset:
    """A statement for one page, and how to make the page of its rows."""

    statement: sa.Select[Any]
    keys: tuple[Key, ...]
    size: int
    secret: bytes
    digest: bytes

    def page(self, rows: Sequence[T]) -> Page[T]:
        """A page of at most ``size`` of the rows, which were fetched with one more to see whether others follow."""
        items = list(rows[: self.size])
        if len(rows) <= self.size:
            return Page(items, None)
        values = [getattr(items[-1], key.name) for key in self.keys]
        return Page(items, _seal(values, self.digest, self.secret))


def keyset(
    statement: sa.Select[Any], model: type[Any], *, size: int, after: str | None, secret: bytes, dialect: str
) -> Keyset:
    """The page of ``statement`` that follows the cursor ``after``. QueryError for a cursor that is not this query's."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise QueryError(f"size is {size!r}; expected a whole number of rows, 1 or more")
    if statement._limit_clause is not None or statement._offset_clause is not None:
        raise QueryError("the query has a limit or an offset; page(size=) decides how many rows a page has")
    keys = tuple(_keys(statement, model, dialect))
    ordered = statement.order_by(None).order_by(*(_ordering(key) for key in keys)).limit(size + 1)
    digest = _digest(statement, keys)
    if after is not None:
        ordered = ordered.where(_beyond(keys, _unseal(after, digest, secret, len(keys))))
    return Keyset(ordered, keys, size, secret, digest)


def _keys(statement: sa.Select[Any], model: type[Any], dialect: str) -> Any:
    mapper: Any = inspect(model)
    seen: set[str] = set()
    for clause in statement._order_by_clauses:
        key = _key(clause, mapper, dialect)
        if key.name not in seen:
            seen.add(key.name)
            yield key
    for column in mapper.primary_key:
        name = mapper.get_property_by_column(column).key
        if name not in seen:
            yield Key(getattr(model, name), name, False, None)


def _key(clause: Any, mapper: Any, dialect: str) -> Key:
    descending, nulls_first, inner = False, None, clause
    while isinstance(inner, UnaryExpression):
        if inner.modifier is operators.desc_op:
            descending = True
        elif inner.modifier is operators.nulls_first_op:
            nulls_first = True
        elif inner.modifier is operators.nulls_last_op:
            nulls_first = False
        inner = inner.element
    name = getattr(inner, "_annotations", {}).get("proxy_key") or getattr(inner, "key", None)
    if name is None or name not in mapper.column_attrs:
        raise QueryError(f"page() cannot continue after {clause}; order by columns of {mapper.class_.__name__}")
    column = mapper.column_attrs[name].columns[0]
    if not column.nullable:
        return Key(getattr(mapper.class_, name), name, descending, None)
    if nulls_first is None:
        nulls_first = descending if dialect == "postgresql" else not descending
    return Key(getattr(mapper.class_, name), name, descending, nulls_first)


def _ordering(key: Key) -> Any:
    ordered = key.expression.desc() if key.descending else key.expression.asc()
    if key.nulls_first is None:
        return ordered
    return ordered.nulls_first() if key.nulls_first else ordered.nulls_last()


def _beyond(keys: Sequence[Key], values: Sequence[Any]) -> Any:
    """Rows after ``values``: beyond in the first column, or equal there and beyond in the second, and so on."""
    alternatives = []
    for depth, key in enumerate(keys):
        later = _later(key, values[depth])
        if later is not None:
            equal = [k.expression.is_not_distinct_from(v) for k, v in zip(keys[:depth], values[:depth], strict=True)]
            alternatives.append(sa.and_(*equal, later))
    return sa.or_(*alternatives) if alternatives else sa.false()


def _later(key: Key, value: Any) -> Any:
    if value is None:
        return key.expression.is_not(None) if key.nulls_first else None
    later = key.expression < value if key.descending else key.expression > value
    return sa.or_(later, key.expression.is_(None)) if key.nulls_first is False else later


def _digest(statement: sa.Select[Any], keys: Sequence[Key]) -> bytes:
    compiled = statement.order_by(None).compile()
    order = [(key.name, key.descending, key.nulls_first) for key in keys]
    text = f"{compiled}|{sorted((name, repr(value)) for name, value in compiled.params.items())}|{order}"
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest()


def _codec(count: int) -> Any:
    return compile_row([Field(str(i), "any") for i in range(count)], codec_named("msgpack"))


def _seal(values: Sequence[Any], digest: bytes, secret: bytes) -> str:
    try:
        body = digest + _codec(len(values)).encode(values)
    except EncodeError as error:
        raise QueryError("a column of this order cannot be part of a cursor; order by others") from error
    return base64.urlsafe_b64encode(_mac(body, secret) + body).rstrip(b"=").decode()


def _unseal(cursor: str, digest: bytes, secret: bytes, count: int) -> tuple[Any, ...]:
    try:
        raw = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
    except (ValueError, AttributeError) as error:
        raise QueryError("after= is not a cursor; pass the .next of a page as it is") from error
    mac, body = raw[:_MAC], raw[_MAC:]
    if not hmac.compare_digest(mac, _mac(body, secret)):
        raise QueryError("after= is not a cursor of this layer, or it was changed; pass the .next of a page as it is")
    if body[:_DIGEST] != digest:
        raise QueryError("after= is a cursor of another query; use it with the query that it came from")
    try:
        values: tuple[Any, ...] = _codec(count).decode(body[_DIGEST:])
    except DecodeError as error:
        raise QueryError("after= cannot be read; start again from the first page") from error
    return values


def _mac(body: bytes, secret: bytes) -> bytes:
    key = hashlib.blake2b(secret, digest_size=32).digest()
    return hashlib.blake2b(body, digest_size=_MAC, key=key, person=b"dl-cursor").digest()

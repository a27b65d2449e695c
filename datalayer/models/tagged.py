"""Columns that cached queries ask by, and what is written to them: ``CachePolicy(query_tags=("region",))``.

A write then invalidates only the cached queries that ask for the row's old or new value, or for none. That needs values
whose equality in Python is equality in the database, so only such types are accepted.
"""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.orm.state import InstanceState

from ..errors import ConfigError

_EXACT: dict[type[Any], type] = {
    **dict.fromkeys((sa.Integer, sa.BigInteger, sa.SmallInteger, sa.INTEGER, sa.BIGINT, sa.SMALLINT), int),
    **dict.fromkeys((sa.String, sa.Text, sa.Unicode, sa.UnicodeText, sa.VARCHAR, sa.TEXT), str),
    **dict.fromkeys((sa.Boolean, sa.BOOLEAN), bool),
    **dict.fromkeys((sa.Date, sa.DATE), dt.date),
    **dict.fromkeys((sa.Uuid, sa.UUID), uuid.UUID),
}


class Tagged(NamedTuple):
    """A declared column: its table's full name, its own, its attribute, the exact type of its values, and what a new
    row has in it that was given nothing (NO_VALUE: the database decides)."""

    table: str
    column: str
    key: str
    kind: type
    initial: Any


def tagged_columns(mapper: Mapper[Any], names: tuple[str, ...]) -> tuple[Tagged, ...]:
    """The declared columns of a model; ConfigError for an attribute that cannot be one."""
    known: tuple[Tagged, ...] | None = mapper.__dict__.get("_datalayer_tagged")
    if known is None:
        known = mapper.__dict__["_datalayer_tagged"] = tuple(_tagged(mapper, name) for name in names)
    return known


def _tagged(mapper: Mapper[Any], name: str) -> Tagged:
    prop = mapper.column_attrs.get(name)
    column = prop.columns[0] if prop is not None else None
    if not isinstance(column, sa.Column) or not isinstance(column.table, sa.Table):
        raise ConfigError(f"{mapper.class_.__name__}: query_tags names {name!r}, expected an attribute with a column")
    kind = value_type(column.type)
    if kind is None:
        raise ConfigError(
            f"{mapper.class_.__name__}: query_tags names {name!r} of type {type(column.type).__name__}; expected "
            "integers, text without a collation of its own, booleans, UUIDs, dates or enums"
        )
    initial = None if column.server_default is None and column.default is None else NO_VALUE
    return Tagged(column.table.fullname, column.name, name, kind, initial)


def value_type(column_type: Any) -> type | None:
    """The Python type whose equality is that of the column, or None when there is no such type."""
    if isinstance(column_type, sa.Enum):
        found = column_type.enum_class
        return found if isinstance(found, type) and issubclass(found, enum.Enum) else None
    if isinstance(column_type, sa.Uuid) and not column_type.as_uuid:
        return None
    return None if getattr(column_type, "collation", None) else _EXACT.get(type(column_type))


def written_values(state: InstanceState[Any], columns: tuple[Tagged, ...]) -> Iterator[tuple[str, str, Any] | None]:
    """What a flushed state had and has in the declared columns, as (table, column, value); None for "not known"."""
    for table, column, key, kind, initial in columns:
        for value in _before_and_after(state, key, initial if state.key is None else NO_VALUE):
            if value is not None:  # NULL equals nothing: no query by equality finds the row
                yield (table, column, value) if type(value) is kind else None


def _before_and_after(state: InstanceState[Any], key: str, unset: Any) -> Iterator[Any]:
    """Values of one attribute; NO_VALUE when it is not known. A new row has no value before."""
    after = state.dict.get(key, unset)
    yield after
    if state.key is not None:
        before = state.committed_state.get(key, after)
        if before is not after:
            yield before

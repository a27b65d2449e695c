"""Which column type carries a Python value or annotation where SQL is text and no column is known.

The types are those of :class:`datalayer.Model`, so that a moment, a UUID or a dict is read and written as its columns
do. Text and NULL go untyped: the database then takes them for what they are compared with, an enum or a date.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import NullType, TypeEngine

from ..errors import QueryError
from ..models.base import Model, UTCDateTime


class Moment(UTCDateTime):
    """A moment that is read: in UTC if the database knows zones or is SQLite, as it is from a column without one."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:
        if dialect.name == "sqlite":
            return super().result_processor(dialect, coltype)
        return lambda value: value if value is None or value.tzinfo is None else value.astimezone(dt.UTC)


def type_for(value: Any) -> TypeEngine[Any] | None:
    """The type that a value is bound with; None to let SQLAlchemy find it."""
    if isinstance(value, enum.Enum):
        return sa.Enum(type(value), native_enum=False, length=255)
    if value is None or isinstance(value, str):
        return NullType()
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return UTCDateTime()
    return made(dict) if isinstance(value, dict) else None


def type_of(annotation: Any) -> TypeEngine[Any] | None:
    """The type that reads a column for an annotation such as ``datetime | None``; None for what the driver gives."""
    kind = without_none(annotation)
    if kind is dt.datetime:
        return Moment()
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return sa.Enum(kind, native_enum=False, length=255)
    return made(kind)


def made(kind: Any) -> TypeEngine[Any] | None:
    found = Model.registry.type_annotation_map.get(kind)
    type_: TypeEngine[Any] | None = found() if callable(found) else found
    return type_


def without_none(annotation: Any) -> Any:
    """``X`` of ``X | None``; anything else as it is."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else Any
    return annotation


_NAMED: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool, "bytes": bytes, "dict": dict, "list": list,
    "datetime": dt.datetime, "date": dt.date, "time": dt.time, "timedelta": dt.timedelta,
    "Decimal": decimal.Decimal, "UUID": uuid.UUID, "Any": Any,
}  # fmt: skip


def named_type(text: str, what: str) -> Any:
    """The annotation that a header means: ``int``, ``datetime?`` for one that may be None."""
    name, optional = text.removesuffix("?").strip(), text.endswith("?")
    if name not in _NAMED:
        raise QueryError(f"{what}: the type {name!r} is not known; expected one of {', '.join(_NAMED)}")
    return _NAMED[name] | None if optional and name != "Any" else _NAMED[name]

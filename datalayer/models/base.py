"""A ready declarative base, so that ``Mapped[datetime]`` or ``Mapped[dict[str, int]]`` means the right column type.

========================================  =========================  ==================
Python                                    PostgreSQL                 SQLite
========================================  =========================  ==================
``str``                                   TEXT                       TEXT
``int``                                   BIGINT                     INTEGER
``float``                                 DOUBLE PRECISION           DOUBLE
``bool``                                  BOOLEAN                    BOOLEAN
``datetime`` (aware, see UTCDateTime)     TIMESTAMP WITH TIME ZONE   DATETIME, in UTC
``date``, ``time``, ``timedelta``         DATE, TIME, INTERVAL       DATE, TIME, DATETIME
``Decimal``, ``UUID``, ``bytes``          NUMERIC, UUID, BYTEA       NUMERIC, CHAR(32), BLOB
``dict``, ``list``, ``TypedDict`` and
generics such as ``dict[str, list[int]]`` JSONB                      JSON
``Enum`` classes, ``Literal``             VARCHAR(255) of names      VARCHAR(255)
========================================  =========================  ==================

Enums are stored by name in a text column and not as a database type: a new member then needs no migration.
A ``None`` in a JSON column is SQL NULL, never JSON ``null``.
"""

from __future__ import annotations

import enum
import hashlib
import uuid
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NewType, get_origin, is_typeddict

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Dialect,
    Double,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    inspect,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.orm import DeclarativeBase, registry
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

from datalayer.errors import EncodeError


class NaiveDateTimeError(EncodeError, DontWrapMixin):
    """A value without a time zone was sent to a :class:`UTCDateTime` column."""


class UTCDateTime(TypeDecorator[datetime]):
    """An instant: aware datetimes go in, aware UTC datetimes come out.

    PostgreSQL keeps TIMESTAMP WITH TIME ZONE; SQLite has no zones and keeps the UTC wall clock. A naive datetime (or
    anything else) raises :class:`NaiveDateTimeError` before the statement is sent. Reading costs one identity test
    per value when the connection's time zone is UTC, and one conversion otherwise.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def process_bind_param(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        _require_aware(value)
        result: datetime = value.astimezone(UTC)
        return result

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        inner = self.impl_instance.result_processor(dialect, coltype)
        return _to_utc if inner is None else lambda value: _to_utc(inner(value))

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> Any:
        # `column + timedelta` would otherwise bind the timedelta as an instant.
        return Interval() if isinstance(value, timedelta) else self


def _require_aware(value: Any) -> None:
    if isinstance(value, datetime) and value.tzinfo is not None and value.utcoffset() is not None:
        return
    found = "a datetime without a time zone" if isinstance(value, datetime) else f"a {type(value).__name__}"
    raise NaiveDateTimeError(
        f"UTCDateTime column: found {found}, expected an aware datetime; "
        "use datetime.now(UTC), or value.replace(tzinfo=UTC) if the value is known to be UTC"
    )


def _to_utc(value: datetime | None) -> datetime | None:
    if value is None or value.tzinfo is UTC:
        return value
    # Only SQLite hands out naive values, and what it stores is UTC.
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def json_type() -> TypeEngine[Any]:
    """A new JSON type: JSONB on PostgreSQL.

    New each time: MutableDict and MutableList listen to a type *object*, and would otherwise watch every JSON column.
    """
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _integer() -> TypeEngine[Any]:
    # SQLite numbers rows by itself only for a column that is spelt INTEGER.
    return BigInteger().with_variant(Integer(), "sqlite")


def _enum() -> TypeEngine[Any]:
    return Enum(enum.Enum, native_enum=False, length=255)


_TYPES: dict[Any, Callable[[], TypeEngine[Any]]] = {
    str: Text,
    int: _integer,
    float: Double,
    bool: Boolean,
    datetime: UTCDateTime,
    date: Date,
    time: Time,
    timedelta: Interval,
    Decimal: Numeric,
    uuid.UUID: Uuid,
    bytes: LargeBinary,
    dict: json_type,
    list: json_type,
    enum.Enum: _enum,
    Literal: _enum,
}
_JSON_ORIGINS = frozenset({dict, list, Mapping, MutableMapping, Sequence, MutableSequence})


class TypeMap(dict[Any, Any]):
    """A ``type_annotation_map`` that also knows every generic, TypedDict, NewType and ``type`` alias of what it holds.

    SQLAlchemy looks generics up as exact keys, so ``dict[str, int]`` would have to be listed beside ``dict``.
    Values are factories: each column gets a type object of its own.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key)
        return self._derive(key, default) if found is None else found

    def _derive(self, key: Any, default: Any) -> Any:
        origin = get_origin(key) or key
        if origin in _JSON_ORIGINS or is_typeddict(origin):
            return json_type
        if isinstance(key, NewType):
            return self.get(key.__supertype__, default)
        # A `type X = ...` alias (Python 3.12); nothing else has a __value__ and is looked up here.
        alias = getattr(key, "__value__", None) if not isinstance(key, type) else None
        return default if alias is None else self.get(alias, default)


def _check_name(constraint: CheckConstraint, table: Table) -> str:
    # With the literals: `level != 1` and `level != 2` are two constraints.
    text = str(constraint.sqltext.compile(compile_kwargs={"literal_binds": True}))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


NAMING_CONVENTION: dict[str, Any] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(check_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
    "check_name": _check_name,
}


def _registry() -> registry:
    made = registry(metadata=MetaData(naming_convention=NAMING_CONVENTION))
    made.type_annotation_map = TypeMap(_TYPES)
    return made


class Model(DeclarativeBase):
    """Declarative base with the type map above and a name for every constraint. Optional: any mapped class will do."""

    registry = _registry()

    def __repr__(self) -> str:
        """The class and its key; no other value, and never a query."""
        identity = inspect(self).identity
        return f"<{type(self).__name__} {'(no key yet)' if identity is None else ', '.join(map(repr, identity))}>"

"""Column types as DDL has them: which need a database type of their own first, and when two mean the same column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine


def native_enum(kind: TypeEngine[Any], dialect: sa.Dialect) -> postgresql.ENUM | None:
    """The PostgreSQL enum behind a type, through decorators, variants and arrays; None if there is none."""
    concrete = _concrete(kind, dialect)
    if isinstance(concrete, sa.ARRAY):
        return native_enum(concrete.item_type, dialect)
    return concrete if isinstance(concrete, postgresql.ENUM) else None


def _concrete(kind: TypeEngine[Any], dialect: sa.Dialect) -> TypeEngine[Any]:
    found: TypeEngine[Any] = kind.dialect_impl(dialect)
    while isinstance(found, TypeDecorator):
        found = found.impl_instance.dialect_impl(dialect)
    return found


def plain(kind: TypeEngine[Any], dialect: sa.Dialect) -> TypeEngine[Any]:
    """The type for a column in DDL: it brings no CREATE TYPE and no CHECK of its own, which are steps of their own."""
    concrete = _concrete(kind, dialect)
    if isinstance(concrete, sa.ARRAY):
        inner = native_enum(concrete, dialect)
        if inner is None:
            return kind
        return postgresql.ARRAY(_existing(inner), dimensions=concrete.dimensions)
    if isinstance(concrete, postgresql.ENUM):
        return _existing(concrete)
    if isinstance(concrete, sa.Enum) and concrete.create_constraint:
        return sa.String(concrete.length)
    if isinstance(concrete, sa.Boolean) and concrete.create_constraint:
        return sa.Boolean()
    return kind


def _existing(found: postgresql.ENUM) -> postgresql.ENUM:
    return postgresql.ENUM(*found.enums, name=found.name, schema=found.schema, create_type=False)


def create_type(found: postgresql.ENUM, dialect: sa.Dialect) -> str:
    """The CREATE TYPE of an enum."""
    return str(postgresql.CreateEnumType(found).compile(dialect=dialect)).strip()


def enums_of(tables: list[sa.Table], dialect: sa.Dialect) -> Iterator[tuple[sa.Column[Any], postgresql.ENUM]]:
    """Every column that is of a PostgreSQL enum, with it."""
    for table in tables:
        for column in table.columns:
            found = native_enum(column.type, dialect)
            if found is not None and found.name:
                yield column, found


def ddl(kind: TypeEngine[Any], dialect: sa.Dialect) -> str:
    """A type's text in DDL."""
    return str(kind.compile(dialect=dialect))


def differ(context: Any, _found_column: Any, wanted_column: Any, found: Any, wanted: Any) -> bool | None:
    """For Alembic's ``compare_type``: whether two types differ; None leaves it to Alembic.

    SQLite has no types but affinities, so two names of one affinity are no difference there.
    """
    dialect = context.dialect
    found_text, wanted_text = ddl(found, dialect), ddl(wanted_column.type, dialect)
    if found_text.upper() == wanted_text.upper():
        return False
    if dialect.name == "sqlite":
        return affinity(found_text) != affinity(wanted_text)
    return None


def affinity(text: str) -> str:
    """SQLite's affinity of a type name. The rules are of section 3.1 of its document "Datatypes in SQLite"."""
    name = text.upper()
    for found, parts in _AFFINITIES:
        if any(part in name for part in parts):
            return found
    return "BLOB" if not name else "NUMERIC"


_AFFINITIES = (
    ("INTEGER", ("INT",)),
    ("TEXT", ("CHAR", "CLOB", "TEXT")),
    ("BLOB", ("BLOB",)),
    ("REAL", ("REAL", "FLOA", "DOUB")),
)

_TEXT = re.compile(r"(?:VARCHAR(?:\((\d+)\))?|TEXT)$")
_NUMERIC = re.compile(r"NUMERIC(?:\((\d+)(?:, ?(\d+))?\))?$")


def widens(found: str, wanted: str) -> bool:
    """Whether PostgreSQL changes a column of one type to the other without reading a row, and no value can be lost."""
    old, new = _TEXT.match(found), _TEXT.match(wanted)
    if old and new:
        return _limit(new[1]) >= _limit(old[1])
    old, new = _NUMERIC.match(found), _NUMERIC.match(wanted)
    if not (old and new):
        return False
    return new[1] is None or (old[1] is not None and int(new[1]) >= int(old[1]) and (old[2] or "0") == (new[2] or "0"))


def _limit(digits: str | None) -> float:
    return int(digits) if digits else float("inf")

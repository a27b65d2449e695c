"""Names as SQL and as the catalogue has them: quoted, qualified, shortened, and made up where the models give none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

_LIMIT = 63  # bytes of a name in PostgreSQL; SQLite has no limit


class Names:
    """Names in the SQL of one dialect."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._preparer = dialect.identifier_preparer

    def quoted(self, *parts: str | None) -> str:
        """``"schema"."table"``, each part quoted if it must be; None is left out."""
        return ".".join(self._preparer.quote(part) for part in parts if part)

    def constraint(self, item: sa.Constraint | sa.Index) -> str | None:
        """The final name of a constraint or index, after naming convention and shortening; None if it has none."""
        name = None if item.name is None else self._preparer.format_constraint(item)
        return None if name is None else _unquoted(name)


def for_text(dialect: sa.Dialect) -> sa.Dialect:
    """A dialect whose SQL is the text itself. The driver's own doubles each %, as it wants statements to have them."""
    if dialect.paramstyle not in ("format", "pyformat"):
        return dialect
    kind: Any = type(dialect)
    made: sa.Dialect = kind(paramstyle="named")
    return made


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def full(table: str, schema: str | None) -> str:
    """A table's name as ``sqlalchemy.Table.fullname`` has it."""
    return f"{schema}.{table}" if schema else table


def made_up(prefix: str, *parts: str) -> str:
    """A name for what has none: the same for the same parts, and never too long."""
    name = "_".join((prefix, *parts))
    if len(name.encode()) <= _LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _LIMIT - 9].decode(errors="ignore") + "_" + digest


def literal(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def column_names(columns: Iterable[Any]) -> tuple[str, ...]:
    """Names of columns that are given as names or as objects with one."""
    return tuple(item if isinstance(item, str) else str(item.name) for item in columns)

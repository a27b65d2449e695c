"""Rows into a PostgreSQL table by COPY, and from there over existing rows by ON CONFLICT. The psycopg driver only.

COPY is binary when the types of all columns have one binary form that the driver writes from the Python value itself;
else it is text. Which types the columns have is asked of the server: what a model calls BIGINT may be an INTEGER there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..errors import EncodeError

Row = tuple[Any, ...]

#: bool, bytea, int8/2/4, text, json, float4/8, char, varchar, date, time, timestamp(tz), interval, numeric, uuid, jsonb.
_BINARY = frozenset((16, 17, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802))

_COLUMNS = """
SELECT a.attname, a.atttypid, c.relkind, c.relrowsecurity FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.oid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""

_numbers = count(1)


class Target(NamedTuple):
    """A table as the server has it. ``copies``: COPY may write to it."""

    name: str
    types: dict[str, int]
    copies: bool


def target_of(connection: sa.Connection, table: sa.Table) -> Target:
    """Ask the server, over the driver: the application's statement listeners have no part in this."""
    name = connection.dialect.identifier_preparer.format_table(table)
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(_COLUMNS, (name,))
        found = cursor.fetchall()
    finally:
        cursor.close()
    # A view or a foreign table may have rules of its own, and COPY refuses tables with row-level security.
    copies = bool(found) and found[0][2] in ("r", "p") and not found[0][3]
    return Target(name, {row[0]: row[1] for row in found}, copies)


class CopyIn:
    """COPY of batches of rows into some columns of one table, each batch one statement.

    ``watching`` frees the connection if the server does not answer. Not thread-safe, like the connection.
    """

    def __init__(
        self,
        connection: sa.Connection,
        into: str,
        columns: Sequence[str],
        types: Sequence[int],
        watching: Callable[..., Any],
    ) -> None:
        quote = connection.dialect.identifier_preparer.quote
        self.driver: Any = connection.connection.dbapi_connection
        self._types = list(types) if all(kind in _BINARY for kind in types) else None
        how = " WITH (FORMAT BINARY)" if self.binary else ""
        self._sql = f"COPY {into} ({', '.join(map(quote, columns))}) FROM STDIN{how}"
        self._watching = watching

    @property
    def binary(self) -> bool:
        return self._types is not None

    def write(self, rows: Sequence[Row]) -> None:
        """Send one batch."""
        with self._watching(self.driver), self.driver.cursor() as cursor, cursor.copy(self._sql) as copy:
            if self._types is not None:
                copy.set_types(self._types)
            write = copy.write_row
            for row in rows:
                write(row)


class Staged:
    """Batches of rows by way of a temporary table into one whose rows may exist. Dropped by ``close()``.

    ``changed`` are the columns that are set in a row that exists; none: it is left alone. ``version`` counts up.
    """

    def __init__(
        self,
        connection: sa.Connection,
        target: Target,
        columns: Sequence[str],
        types: Sequence[int],
        watching: Callable[..., Any],
        *,
        keys: Sequence[str],
        changed: Sequence[str] | None,
        version: str | None = None,
    ) -> None:
        quote = connection.dialect.identifier_preparer.quote
        self._stage = f"pg_temp.datalayer_load_{next(_numbers)}"
        names = ", ".join(map(quote, columns))
        self._watching = watching
        self._copy = CopyIn(connection, self._stage, columns, types, watching)
        self._driver = self._copy.driver
        self._run(
            f"CREATE TEMPORARY TABLE {self._stage[8:]} ON COMMIT DROP AS SELECT {names} FROM {target.name} WITH NO DATA"
        )
        action = "DO NOTHING"
        if changed is not None:
            sets = [f"{quote(name)} = excluded.{quote(name)}" for name in changed]
            sets += [f"{quote(version)} = {target.name}.{quote(version)} + 1"] if version else []
            sets = sets or [f"{quote(name)} = excluded.{quote(name)}" for name in keys]
            action = f"({', '.join(map(quote, keys))}) DO UPDATE SET {', '.join(sets)}"
        self._move = f"INSERT INTO {target.name} ({names}) SELECT {names} FROM {self._stage} ON CONFLICT {action}"

    @property
    def driver(self) -> Any:
        return self._driver

    def write(self, rows: Sequence[Row]) -> int:
        """Send one batch, in which no key comes twice; how many rows were inserted or changed."""
        self._copy.write(rows)
        moved = self._run(self._move)
        self._run(f"TRUNCATE {self._stage}")
        return moved

    def close(self) -> None:
        self._run(f"DROP TABLE IF EXISTS {self._stage}")

    def _run(self, text: str) -> int:
        with self._watching(self._driver), self._driver.cursor() as cursor:
            cursor.execute(text)
            return int(cursor.rowcount)


def blamed(table: sa.Table, columns: Sequence[sa.Column[Any]], rows: Sequence[Row], error: Exception) -> EncodeError:
    """Which value of a batch the driver could not write; never the value itself."""
    for row in rows:
        for column, value in zip(columns, row, strict=False):
            kind = _python_type(column)
            if value is not None and kind is not None and not isinstance(value, kind):
                return EncodeError(
                    f"{table.fullname}.{column.name} takes {kind.__name__}, found a value of type "
                    f"{type(value).__name__!r}; convert it before it is loaded"
                )
    return EncodeError(
        f"a row of {table.fullname} cannot be written by the driver ({type(error).__name__}); "
        "see the chained exception for its words"
    )


def _python_type(column: sa.Column[Any]) -> type | None:
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return None
    return kind if isinstance(kind, type) else None

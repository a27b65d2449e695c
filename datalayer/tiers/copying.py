"""Rows into a PostgreSQL table by COPY, and from there over existing rows by ON CONFLICT. The psycopg driver only.

COPY is binary when the types of all columns have one binary form that the driver writes from the Python value itself;
else it is text. Which types the columns have is asked of the server: what a model calls BIGINT may be an INTEGER there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import count
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..errors import EncodeError, NotFoundError

Row = Sequence[Any]
Watching = Callable[[Any], AbstractContextManager[object]]

#: Rows of one COPY: a refused one is noticed after at most so many.
_ROWS = 20_000
#: Rows of one turn of the temporary table.
_STAGED = 50_000

#: bool, bytea, int8/2/4, text, json, float4/8, char, varchar, date, time, timestamp(tz), interval, numeric, uuid, jsonb
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
    """COPY of batches of rows into some columns of one table. Not thread-safe, like the connection.

    ``patient``: one COPY takes many batches, so that the server stores one while the next is being made; the
    connection is of no other use until :meth:`flush`. Else each batch is a COPY of its own. ``watching`` frees the
    connection if the server does not answer.
    """

    def __init__(
        self,
        connection: sa.Connection,
        into: str,
        columns: Sequence[str],
        types: Sequence[int],
        watching: Watching,
        *,
        patient: bool,
    ) -> None:
        quote = connection.dialect.identifier_preparer.quote
        self.driver: Any = connection.connection.dbapi_connection
        self._types = list(types) if all(kind in _BINARY for kind in types) else None
        how = " WITH (FORMAT BINARY)" if self.binary else ""
        self._sql = f"COPY {into} ({', '.join(map(quote, columns))}) FROM STDIN{how}"
        self._watching = watching
        self._most = _ROWS if patient else 1
        self._sent = 0
        self._open: ExitStack | None = None
        self._copy: Any = None

    @property
    def binary(self) -> bool:
        return self._types is not None

    def write(self, rows: Sequence[Row], keys: Collection[Any] = ()) -> int:
        """Send one batch; how many rows it has."""
        try:
            with self._watching(self.driver):
                write = (self._copy or self._begin()).write_row
                for row in rows:
                    write(row)
            self._sent += len(rows)
            if self._sent >= self._most:
                self.flush()
        except BaseException as error:
            self._abandon(error)
            raise
        return len(rows)

    def _begin(self) -> Any:
        self._open, self._sent = ExitStack(), 0
        cursor = self._open.enter_context(self.driver.cursor())
        self._copy = self._open.enter_context(cursor.copy(self._sql))
        if self._types is not None:
            self._copy.set_types(self._types)
        return self._copy

    def flush(self) -> int:
        """End the COPY that is open. What the server refuses is raised here at the latest."""
        opened, self._open, self._copy = self._open, None, None
        if opened is not None:
            with self._watching(self.driver):
                opened.close()
        return 0

    def close(self) -> None:
        """Nothing is left behind by a COPY that was ended."""

    def _abandon(self, error: BaseException) -> None:
        opened, self._open, self._copy = self._open, None, None
        if opened is not None:
            with suppress(Exception), self._watching(self.driver):
                opened.__exit__(type(error), error, None)


class Staged:
    """Batches of rows by way of a temporary table into one whose rows may exist.

    ``changed`` are the columns that are set in a row that exists, None leaves it alone. ``version`` counts up. With
    ``exists`` no row is inserted, and NotFoundError raised if one is missing.
    """

    def __init__(
        self,
        connection: sa.Connection,
        target: Target,
        columns: Sequence[str],
        types: Sequence[int],
        watching: Watching,
        *,
        patient: bool,
        keys: Sequence[str],
        changed: Sequence[str] | None,
        version: str | None = None,
        exists: bool = False,
    ) -> None:
        quote = connection.dialect.identifier_preparer.quote
        names, table = ", ".join(map(quote, columns)), f"datalayer_load_{next(_numbers)}"
        self._stage = f"pg_temp.{table}"
        self._watching = watching
        self._copy = CopyIn(connection, self._stage, columns, types, watching, patient=patient)
        self._seen: set[Any] = set()
        self._staged = 0
        self._run(f"CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS SELECT {names} FROM {target.name} WITH NO DATA")
        sets = _sets(quote, keys, changed or (), version)
        self._complete = not exists
        if exists:
            same = " AND ".join(f"t.{quote(name)} = excluded.{quote(name)}" for name in keys)
            self._move = f"UPDATE {target.name} AS t SET {sets} FROM {self._stage} AS excluded WHERE {same}"
        else:
            action = "NOTHING" if changed is None else f"UPDATE SET {sets}"
            on = "" if changed is None else f" ({', '.join(map(quote, keys))})"
            rows = f"({names}) SELECT {names} FROM {self._stage}"
            self._move = f"INSERT INTO {target.name} AS t {rows} ON CONFLICT{on} DO {action}"

    def write(self, rows: Sequence[Row], keys: Collection[Any]) -> int:
        """Send one batch; how many rows were inserted or changed by now, of this batch and earlier ones.

        ``keys``: those that may not come a second time before the rows are in the table.
        """
        moved = 0 if self._seen.isdisjoint(keys) else self.flush()
        self._seen.update(keys)
        self._copy.write(rows)
        self._staged += len(rows)
        return moved + (self.flush() if self._staged >= _STAGED else 0)

    def flush(self) -> int:
        """Bring what is staged into the table; how many rows were inserted or changed."""
        self._copy.flush()
        if not self._staged:
            return 0
        staged, self._staged, self._seen = self._staged, 0, set()
        moved = self._run(self._move)
        if moved != staged and not self._complete:
            raise NotFoundError(f"{staged - moved} of {staged} rows do not exist")
        self._run(f"TRUNCATE {self._stage}")
        return moved

    def close(self) -> None:
        """Drop the temporary table, unless the transaction has failed and takes it along."""
        if self._copy.driver.info.transaction_status.name == "INTRANS":
            self._run(f"DROP TABLE IF EXISTS {self._stage}")

    def _run(self, text: str) -> int:
        driver = self._copy.driver
        with self._watching(driver), driver.cursor() as cursor:
            cursor.execute(text)
            return int(cursor.rowcount)


def _sets(quote: Callable[[str], str], keys: Sequence[str], changed: Sequence[str], version: str | None) -> str:
    sets = [f"{quote(name)} = excluded.{quote(name)}" for name in changed]
    sets += [f"{quote(version)} = t.{quote(version)} + 1"] if version else []
    # A row that has nothing but its key is left as it is: setting the key to itself changes nothing.
    return ", ".join(sets or [f"{quote(name)} = excluded.{quote(name)}" for name in keys])


def unlimited(connection: sa.Connection) -> None:
    """Lift the limit of a statement for the rest of the transaction: a COPY waits for its rows, however slow."""
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute("SET LOCAL statement_timeout = 0")
    finally:
        cursor.close()


def blamed(columns: Sequence[sa.Column[Any]], rows: Sequence[Row], error: Exception) -> EncodeError:
    """Which value of a batch the driver could not write; never the value itself."""
    for row in rows:
        for column, value in zip(columns, row, strict=False):
            kind = _python_type(column)
            if value is not None and kind is not None and not isinstance(value, kind):
                return EncodeError(
                    f"{column.table}.{column.name} takes {kind.__name__}, found a value of type "
                    f"{type(value).__name__!r}; convert it before it is loaded"
                )
    return EncodeError(
        f"a row of {columns[0].table} cannot be written by the driver ({type(error).__name__}); "
        "see the chained exception for its words"
    )


def _python_type(column: sa.Column[Any]) -> type | None:
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return None
    return kind if isinstance(kind, type) else None

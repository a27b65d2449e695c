"""Fills a column in batches of rows, in key order, each in a transaction of its own: stop it, run it again, it goes on.

A row that is done is not NULL any more, so a second run passes it by. No batch waits for another's rows longer than the
lock time-out, and none holds more than its own rows, for about a tenth of a second: batches shrink where rows are slow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import ConfigError
from .lock import working
from .names import Names, for_text
from .options import MigrateOptions
from .patience import patiently
from .steps import Batches

log = logging.getLogger("datalayer.migrate")

Key = Sequence[Any]

_FIRST = 500
_LONGEST = 0.1  # seconds


def backfill(engine: sa.Engine, attribute: Any, value: Any, options: MigrateOptions) -> int:
    """Fill a mapped column where it is NULL and return how many rows were. Costs one look at each row by its key.

    ConfigError for what is no column of a table with a primary key. MigrationError if a batch fails; those before stay.
    """
    column = _column(attribute)
    table, names = column.table, Names(engine.dialect)
    what = Batches(
        fullname=table.fullname,
        table=names.quoted(table.schema, table.name),
        column=names.quoted(column.name),
        value=_rendered(value, column, for_text(engine.dialect)),
        key=tuple(names.quoted(part.name) for part in table.primary_key.columns),
    )
    with working(engine, lock_timeout=options.lock_timeout) as connection:
        return fill(connection, what, options, f"fill {table.fullname}.{column.name}")


def _column(attribute: Any) -> sa.Column[Any]:
    found = attribute.property.columns[0] if hasattr(attribute, "property") else attribute
    if not isinstance(found, sa.Column) or not isinstance(found.table, sa.Table) or not found.table.primary_key.columns:
        raise ConfigError(f"backfill: {attribute} is no column of a table with a primary key; expected Model.column")
    return found


def _rendered(value: Any, column: sa.Column[Any], dialect: sa.Dialect) -> str:
    clause = value if isinstance(value, sa.ClauseElement) else sa.literal(value, column.type)
    compiler: Any = dialect.ddl_compiler(dialect, None)  # type: ignore[arg-type]  # as a DEFAULT: no parameters
    return str(compiler.sql_compiler.process(clause, include_table=False, literal_binds=True))


def fill(connection: sa.Connection, what: Batches, options: MigrateOptions, text: str) -> int:
    """Fill what is NULL and return how many rows were. The connection is in AUTOCOMMIT."""
    total = _estimate(connection, what.table) if options.progress else 0
    after: Key | None = None
    seen = filled = 0
    size = min(options.batch_size, _FIRST)
    while keys := _keys(connection, what, after, size):
        began = time.monotonic()
        filled += _patient_update(connection, what, (keys[0], keys[-1]), options, text)
        after, seen = keys[-1], seen + len(keys)
        size = _next_size(size, time.monotonic() - began, options.batch_size)
        if options.progress is not None:
            options.progress(text, seen, max(total, seen))
    log.info("%s: %d of %d rows", text, filled, seen)
    return filled


def _next_size(size: int, took: float, largest: int) -> int:
    """As many rows as are filled in about ``_LONGEST`` seconds: writers of those rows wait that long."""
    if took > _LONGEST:
        return max(size // 2, 1)
    return min(size * 2, largest) if took < _LONGEST / 3 else size


def _keys(connection: sa.Connection, what: Batches, after: Key | None, size: int) -> list[Key]:
    key = ", ".join(what.key)
    beyond = f"WHERE ({key}) > ({_places('k', after)})" if after is not None else ""
    span = f"SELECT {key} FROM {what.table} {beyond} ORDER BY {key} LIMIT {size}"
    return [tuple(row) for row in connection.execute(sa.text(span), _bound("k", after or ()))]


def _patient_update(
    connection: sa.Connection, what: Batches, ends: tuple[Key, Key], options: MigrateOptions, text: str
) -> int:
    done: list[int] = []
    patiently(lambda: done.append(_update(connection, what, *ends)), text, options.retries)
    if done[0] and options.written is not None:
        options.written(what.fullname)
    return done[0]


def _update(connection: sa.Connection, what: Batches, first: Key, last: Key) -> int:
    key = ", ".join(what.key)
    update = (
        f"UPDATE {what.table} SET {what.column} = {_escaped(what.value)} "
        f"WHERE ({key}) >= ({_places('a', first)}) AND ({key}) <= ({_places('z', last)}) AND {what.column} IS NULL"
    )
    return connection.execute(sa.text(update), _bound("a", first) | _bound("z", last)).rowcount


def _escaped(sql: str) -> str:
    return sql.replace(":", r"\:")


def _places(letter: str, key: Key) -> str:
    return ", ".join(f":{letter}{position}" for position in range(len(key)))


def _bound(letter: str, key: Key) -> dict[str, Any]:
    return {f"{letter}{position}": value for position, value in enumerate(key)}


def _estimate(connection: sa.Connection, table: str) -> int:
    if connection.dialect.name != "postgresql":
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())
    rows = connection.scalar(sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table})
    return max(int(rows or 0), 0)

"""Fills a column in batches of rows, in key order, each in a transaction of its own: stop it, run it again, it goes on.

A row that is done is not NULL any more, so a second run passes it by. No batch waits for another's rows longer than the
lock time-out, and none holds more than its own rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from .options import Progress
from .steps import Batches

log = logging.getLogger("datalayer.migrate")


def fill(connection: sa.Connection, what: Batches, *, size: int, progress: Progress | None, text: str) -> int:
    """Fill what is NULL and return how many rows were. The connection is in AUTOCOMMIT.

    Costs one look at each row by its key, and one update for each row that is NULL.
    """
    total = _estimate(connection, what.table) if progress else 0
    after: Sequence[Any] | None = None
    seen = filled = 0
    while (batch := _batch(connection, what, after, size)) is not None:
        last, rows, done = batch
        after, seen, filled = last, seen + rows, filled + done
        if progress is not None:
            progress(text, seen, max(total, seen))
    log.info("%s: %d of %d rows", text, filled, seen)
    return filled


def _batch(
    connection: sa.Connection, what: Batches, after: Sequence[Any] | None, size: int
) -> tuple[Sequence[Any], int, int] | None:
    """One batch: the last key of it, its rows, and how many were filled. None after the last row."""
    key = ", ".join(what.key)
    names = [f"k{i}" for i in range(len(what.key))]
    beyond = f"WHERE ({key}) > ({', '.join(f':{n}' for n in names)})" if after is not None else ""
    span = f"SELECT {key} FROM {what.table} {beyond} ORDER BY {key} LIMIT {size}"
    keys = connection.execute(sa.text(span), dict(zip(names, after or (), strict=False))).all()
    if not keys:
        return None
    bounds = {f"a{i}": v for i, v in enumerate(keys[0])} | {f"z{i}": v for i, v in enumerate(keys[-1])}
    first, last = (", ".join(f":{letter}{i}" for i in range(len(what.key))) for letter in "az")
    value = what.value.replace(":", r"\:")
    update = (
        f"UPDATE {what.table} SET {what.column} = {value} "
        f"WHERE ({key}) >= ({first}) AND ({key}) <= ({last}) AND {what.column} IS NULL"
    )
    done = connection.execute(sa.text(update), bounds).rowcount
    return tuple(keys[-1]), len(keys), done


def _estimate(connection: sa.Connection, table: str) -> int:
    if connection.dialect.name != "postgresql":
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())
    rows = connection.scalar(sa.text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table})
    return max(int(rows or 0), 0)

"""Tables that PostgreSQL splits by a range of dates: the partitions that come next, and indexes on all of them.

A table is partitioned if its policy says ``partition_by="created_at"`` or its ``__table_args__`` say
``{"postgresql_partition_by": "RANGE (created_at)"}``. One partition holds a month, or what
``info={"datalayer": {"partition_interval": "day" | "week" | "month" | "year"}}`` of the table says. Rows that belong
nowhere go to the partition ``<table>_default``, so an insert never fails for want of a partition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from ..errors import ConfigError
from .names import full, literal, made_up
from .operations import ConcurrentIndexOp, execute
from .scope import Judged, Scope
from .steps import Phase, Step

_RANGE = re.compile(r'RANGE\s*\(\s*"?(\w+)"?\s*\)\s*$', re.IGNORECASE)
_NAMES = {"day": "%Y%m%d", "week": "%Yw%V", "month": "%Y%m", "year": "%Y"}


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: ``start`` belongs to it, ``end`` to the next."""

    name: str
    start: date
    end: date


def coming(table: str, interval: str, today: date, ahead: int) -> list[Partition]:
    """The partition of ``today`` and the ``ahead`` ones after it. ConfigError for an unknown interval."""
    if interval not in _NAMES:
        raise ConfigError(f"{table}: partition_interval is {interval!r}, expected one of {', '.join(_NAMES)}")
    start, found = _floor(today, interval), []
    for _ in range(ahead + 1):
        end = _next(start, interval)
        # The year of a week is that of its Thursday.
        label = start + timedelta(days=3) if interval == "week" else start
        found.append(Partition(made_up(table, f"p{label.strftime(_NAMES[interval])}"), start, end))
        start = end
    return found


def _floor(day: date, interval: str) -> date:
    if interval == "week":
        return day - timedelta(days=day.weekday())
    return {"day": day, "month": day.replace(day=1), "year": day.replace(month=1, day=1)}[interval]


def _next(start: date, interval: str) -> date:
    far = {"day": 1, "week": 7, "month": 32, "year": 367}[interval]
    return _floor(start + timedelta(days=far), interval)


def create_partitions(scope: Scope, table: sa.Table) -> Judged:
    """The partitions that a partitioned table lacks. None for keys that are not dates: only the default one."""
    clause = table.kwargs.get("postgresql_partition_by")
    if not (scope.postgres and clause) or (scope.exists(table.fullname) and not _partitioned(scope, table)):
        return []
    if not scope.coming and scope.facts.partitions_of(table.fullname):
        return []
    quoted = scope.quoted(table.schema, table.name)
    judged: Judged = []
    for part in _wanted(scope, table, str(clause)):
        if full(part.name, table.schema) not in scope.facts.tables:
            bounds = f"FROM ({literal(_bound(part.start))}) TO ({literal(_bound(part.end))})"
            sql = f"CREATE TABLE {scope.quoted(table.schema, part.name)} PARTITION OF {quoted} FOR VALUES {bounds}"
            judged.append(Step(f"create partition {part.name} of {table.fullname}", execute(sql)))
    default = made_up(table.name, "default")
    if full(default, table.schema) not in scope.facts.tables:
        sql = f"CREATE TABLE {scope.quoted(table.schema, default)} PARTITION OF {quoted} DEFAULT"
        judged.append(Step(f"create partition {default} of {table.fullname}", execute(sql)))
    return judged


def _partitioned(scope: Scope, table: sa.Table) -> bool:
    return table.fullname in scope.facts.partitioned


def _wanted(scope: Scope, table: sa.Table, clause: str) -> list[Partition]:
    found = _RANGE.match(clause.strip())
    column = table.columns.get(found[1]) if found else None
    if column is None or scope.facts.today is None or not _is_date(column):
        return []
    interval = table.info.get("datalayer", {}).get("partition_interval", "month")
    return coming(table.name, interval, scope.facts.today, scope.options.partitions_ahead)


def _is_date(column: sa.Column[Any]) -> bool:
    try:
        return issubclass(column.type.python_type, date)
    except NotImplementedError:
        return False


def _bound(day: date) -> str:
    # With its zone, so that it does not depend on the session's; a plain date or timestamp ignores it.
    return f"{day.isoformat()} 00:00:00+00"


def index_on_partitions(scope: Scope, operation: ops.CreateIndexOp) -> Iterator[Step]:
    """Partitioned tables take no CONCURRENTLY: on the parent alone, concurrently on each partition, then attached."""
    table, _ = scope.table_of(operation)
    name = operation.index_name
    assert name is not None
    if (table, name) not in scope.facts.indexes:
        only = ops.CreateIndexOp(
            name, operation.table_name, operation.columns, schema=operation.schema, unique=operation.unique,
            **{**operation.kw, "postgresql_only": True},
        )  # fmt: skip
        yield Step(f"create index {name} on {table} alone", _only(scope, only))
    for child in sorted(scope.facts.partitions_of(table)):
        yield from _on_child(scope, operation, child, name)


def _only(scope: Scope, operation: ops.CreateIndexOp) -> ops.ExecuteSQLOp:
    options = {key: value for key, value in operation.kw.items() if key != "postgresql_only"}
    made = ops.CreateIndexOp(
        operation.index_name, operation.table_name, operation.columns, schema=operation.schema,
        unique=operation.unique, **options,
    )  # fmt: skip
    text = str(sa.schema.CreateIndex(made.to_index()).compile(dialect=scope.dialect))
    return execute(text.replace(" ON ", " ON ONLY ", 1))


def _on_child(scope: Scope, operation: ops.CreateIndexOp, child: str, name: str) -> Iterator[Step]:
    schema, _, bare = child.rpartition(".")
    part = made_up(name, bare)
    if (child, part) in scope.facts.attached:
        return
    half_made = (child, part) in scope.facts.invalid_indexes
    if half_made or (child, part) not in scope.facts.indexes:
        made = ConcurrentIndexOp.like(operation)
        made.index_name, made.table_name, made.schema = part, bare, schema or None
        replaces = scope.quoted(schema, part) if half_made else None
        text = f"create index {part} on {child}"
        yield Step(text, made, concurrently=True, replaces=replaces, scans=True)
    parent = scope.quoted(operation.schema, name)
    sql = f"ALTER INDEX {parent} ATTACH PARTITION {scope.quoted(schema, part)}"
    yield Step(f"attach index {part} to {name}", execute(sql), Phase.CONSTRAIN)

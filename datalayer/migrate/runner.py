"""Runs a plan: one migrator at a time, each step in a short transaction of its own.

On PostgreSQL the lock is polled. A session that *waits* inside ``pg_advisory_lock`` holds a snapshot, and CREATE INDEX
CONCURRENTLY would wait for that snapshot for ever.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops

from ..errors import MigrationError
from .plan import Plan, Step, make_plan

log = logging.getLogger("datalayer.migrate")

_LOCK = 0x646C6D67  # "dlmg"
_LOCK_WAIT = 120.0
_TRIES = 6
_BUSY = ("55P03", "40P01")

_in_process = threading.Lock()


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What was done, and what was left out with the rule, table, column and reason of each."""

    applied: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"applied: {text}" for text in self.applied] + [f"refused: {text}" for text in self.refused]
        return "\n".join(lines) or "nothing to do"


def create_missing(engine: sa.Engine, metadatas: Iterable[sa.MetaData]) -> MigrationReport:
    """Create the tables, columns and indexes that the models have and the database lacks. Idempotent.

    Safe to call in every process at start-up: one works, the others wait and find nothing to do. MigrationError when a
    step fails or the lock is not free within two minutes.
    """
    metadatas = list(metadatas)
    with _in_process, _one_migrator(engine):
        with engine.connect() as connection:
            plan = make_plan(connection, metadatas)
        for step in plan.steps:
            _apply(engine, step)
        if plan.steps:
            log.info("migrated: %d steps", len(plan.steps))
        return _report(plan)


def _report(plan: Plan) -> MigrationReport:
    return MigrationReport(tuple(step.text for step in plan.steps), plan.refused)


@contextmanager
def _one_migrator(engine: sa.Engine) -> Iterator[None]:
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deadline = time.monotonic() + _LOCK_WAIT
        while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"another process has been migrating this database for {_LOCK_WAIT:.0f} s; try again"
                )
            time.sleep(0.05 + 0.1 * random.random())
        try:
            yield
        finally:
            connection.scalar(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})


def _apply(engine: sa.Engine, step: Step) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            (_concurrently if step.concurrently else _in_transaction)(engine, step)
            return
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _BUSY or attempt == _TRIES:
                raise MigrationError(
                    f"step {step.text!r} failed ({type(error.orig).__name__}); see the chained exception"
                ) from error
            time.sleep(0.1 * 2**attempt * (0.5 + random.random()))


def _in_transaction(engine: sa.Engine, step: Step) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL lock_timeout = '3s'"))
        Operations(MigrationContext.configure(connection)).invoke(step.operation)


def _concurrently(engine: sa.Engine, step: Step) -> None:
    assert isinstance(step.operation, ops.CreateIndexOp)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        index = step.operation.to_index()
        index.dialect_options["postgresql"]["concurrently"] = True
        _drop_invalid(connection, index)
        connection.execute(sa.schema.CreateIndex(index))


def _drop_invalid(connection: sa.Connection, index: sa.Index) -> None:
    """A CREATE INDEX CONCURRENTLY that was killed leaves an invalid index behind, under the name that we need."""
    quoted = connection.dialect.identifier_preparer.format_index(index)
    half_made = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    if connection.scalar(half_made, {"name": quoted}):
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {quoted}")

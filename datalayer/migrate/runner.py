"""Takes the steps of a plan: each in a short transaction of its own, again if somebody held the table too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops

from .additive import make_plan, partition_plan
from .backfill import fill
from .compare import flat
from .history import History
from .lock import only_migrator
from .names import Names
from .options import MigrateOptions
from .patience import in_transaction, patiently
from .steps import Plan, Refusal, Step

log = logging.getLogger("datalayer.migrate")


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What was done, and what was left out: each refusal is text with rule, table, column, reason and safe steps.

    ``rewritten``: the tables whose rows were filled, so what is cached of them is old.
    """

    applied: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    rewritten: tuple[str, ...] = ()

    @property
    def blocked(self) -> tuple[Refusal, ...]:
        """The refusals because of which the models do not fit the database; the others are leftovers."""
        return tuple(refusal for refusal in self.refused if refusal.blocking)

    def __str__(self) -> str:
        lines = [f"applied: {text}" for text in self.applied] + [f"refused: {text}" for text in self.refused]
        return "\n".join(lines) or "nothing to do"


def plan(engine: sa.Engine, metadatas: Iterable[sa.MetaData], options: MigrateOptions | None = None) -> Plan:
    """What :func:`create_missing` would do now. Reads only, and waits for nobody."""
    with engine.connect() as connection:
        found = make_plan(connection, metadatas, options)
        connection.rollback()
    return found


def create_missing(
    engine: sa.Engine, metadatas: Iterable[sa.MetaData], options: MigrateOptions | None = None
) -> MigrationReport:
    """Add what the models have and the database lacks. Idempotent.

    Safe to call in every process at start-up: one works, the others wait and find nothing to do. Killed at any step,
    the next run finishes. MigrationLockedError if another migrator does not end in ``options.wait`` seconds,
    MigrationError if a step fails; the steps before it stay.
    """
    return _run(engine, metadatas, options or MigrateOptions(), make_plan)


def create_coming(
    engine: sa.Engine, metadatas: Iterable[sa.MetaData], options: MigrateOptions | None = None
) -> MigrationReport:
    """Create only the partitions that existing tables will need, also where Alembic versions the schema. Idempotent.

    For a daily job. Errors as for :func:`create_missing`.
    """
    return _run(engine, metadatas, options or MigrateOptions(), partition_plan)


_Planner = Callable[[sa.Connection, Iterable[sa.MetaData], MigrateOptions], Plan]


def _run(
    engine: sa.Engine, metadatas: Iterable[sa.MetaData], options: MigrateOptions, planner: _Planner
) -> MigrationReport:
    history = History(options.table)
    with only_migrator(engine, wait=options.wait, lock_timeout=options.lock_timeout) as connection:
        found = planner(connection, list(metadatas), options)
        history.forget_interrupted(connection)
        if found.steps:
            history.prepare(connection)
        for step in found.steps:
            _recorded(connection, step, options, history)
    for refusal in found.refused:
        log.warning("not migrated: %s", refusal)
    return _report(found)


def _report(found: Plan) -> MigrationReport:
    rewritten = tuple(dict.fromkeys(step.batches.fullname for step in found.steps if step.batches))
    return MigrationReport(tuple(step.text for step in found.steps), found.refused, rewritten)


def _recorded(connection: sa.Connection, step: Step, options: MigrateOptions, history: History) -> None:
    """Take a step and note it; what is not atomic also before it is begun, so that a kill can be seen."""
    begun = None if step.atomic else history.record_step(connection, step.text, dirty=True)
    took = timed(lambda: apply(connection, step, options))
    if begun is None:
        history.record_step(connection, step.text, took)
    else:
        history.end_step(connection, begun, took)
    log.info("migrated: %s (%.0f ms)", step.text, took * 1000)


def timed(work: Callable[[], None]) -> float:
    """The seconds that the work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def apply(connection: sa.Connection, step: Step, options: MigrateOptions) -> None:
    """Take one step. The connection is in AUTOCOMMIT; on SQLite it is in the migration's one transaction."""
    patiently(lambda: _take(connection, step, options), step.text, options.retries)


def _take(connection: sa.Connection, step: Step, options: MigrateOptions) -> None:
    if step.batches is not None:
        fill(connection, step.batches, options, step.text)
    elif step.concurrently:
        _concurrently(connection, step, options)
    else:
        in_transaction(connection, lambda: _invoke(connection, step))


def _concurrently(connection: sa.Connection, step: Step, options: MigrateOptions) -> None:
    """Nobody queues behind a statement that waits like this, so it may wait for the longest transaction there is."""
    connection.exec_driver_sql("SET lock_timeout = 0")
    try:
        _drop_half_made(connection, step)
        _invoke(connection, step)
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql(f"SET lock_timeout = {int(options.lock_timeout * 1000)}")


def _drop_half_made(connection: sa.Connection, step: Step) -> None:
    """An index that a killed CREATE INDEX CONCURRENTLY has left has the name that we need."""
    if not isinstance(step.operation, ops.CreateIndexOp):
        return
    name = Names(connection.dialect).quoted(step.operation.schema, step.operation.index_name)
    half_made = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    if connection.scalar(half_made, {"name": name}):
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")


def _invoke(connection: sa.Connection, step: Step) -> None:
    operations = Operations(MigrationContext.configure(connection))
    for operation in flat([step.operation]):
        operations.invoke(operation)

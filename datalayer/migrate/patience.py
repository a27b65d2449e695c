"""Short transactions that give way: what cannot have its lock in time lets others pass and tries again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import sqlalchemy as sa

from ..errors import MigrationError

log = logging.getLogger("datalayer.migrate")

_BUSY = ("55P03", "40P01")  # lock_not_available, deadlock_detected
_LONGEST_PAUSE = 5.0


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Whether the database says that others held a lock too long."""
    return getattr(error.orig, "sqlstate", None) in _BUSY


def patiently(work: Callable[[], None], what: str, retries: int) -> None:
    """Run ``work``; again, after a pause that grows, if the database says that others held the lock too long."""
    for attempt in range(retries + 1):
        try:
            work()
            return
        except sa.exc.DBAPIError as error:
            if not is_busy(error) or attempt == retries:
                raise _failed(what, attempt, error) from error
            log.info("%s: others hold the table, try %d of %d follows", what, attempt + 2, retries + 1)
            time.sleep(min(0.1 * 2**attempt, _LONGEST_PAUSE) * (0.5 + random.random()))


def _failed(what: str, attempt: int, error: sa.exc.DBAPIError) -> MigrationError:
    tries = f" after {attempt + 1} tries" if attempt else ""
    return MigrationError(
        f"step {what!r} failed{tries} ({type(error.orig).__name__}); see the chained exception. "
        "The steps before it are done; run migrate() again when the cause is gone"
    )


def in_transaction(connection: sa.Connection, work: Callable[[], None]) -> None:
    """Run ``work`` between BEGIN and COMMIT. SQLite's migration is in its one transaction already."""
    if connection.dialect.name == "sqlite":
        work()
        return
    connection.exec_driver_sql("BEGIN")
    try:
        work()
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")
        raise

"""A plan as SQL text, for those who let somebody else run it: the same operations, rendered instead of executed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from .compare import flat
from .steps import Step

_PATIENCE = "SET lock_timeout = '{0:g}s';\nSET statement_timeout = 0;\n"


def render(dialect: sa.Dialect, steps: Iterable[Step], *, lock_timeout: float = 3.0) -> str:
    """The SQL of the steps, each in a transaction of its own where the database allows it."""
    buffer = io.StringIO()
    # The live dialect knows the server's version; Alembic makes one of its own, which only needs to be of that kind.
    options: Any = {"as_sql": True, "output_buffer": buffer, "literal_binds": True}
    operations = Operations(MigrationContext.configure(dialect_name=dialect.name, opts=options))
    postgres = dialect.name == "postgresql"
    if postgres:
        buffer.write(_PATIENCE.format(lock_timeout))
    found = list(steps)
    for step, after in zip_longest(found, found[1:]):
        buffer.write(f"\n-- {step.text}{' (in batches)' if step.batches else ''}\n")
        if step.replaces is not None:
            buffer.write(f"DROP INDEX CONCURRENTLY IF EXISTS {step.replaces};\n")
        transaction = postgres and not step.concurrently
        buffer.write("BEGIN;\n" if transaction and not step.follows else "")
        _write(buffer, operations, step)
        buffer.write("COMMIT;\n" if transaction and not (after and after.follows) else "")
    return buffer.getvalue()


def _write(buffer: io.StringIO, operations: Operations, step: Step) -> None:
    at = buffer.tell()
    for operation in flat([step.operation]):
        operations.invoke(operation)
    written = buffer.getvalue()[at:]
    buffer.seek(at)
    buffer.truncate()
    buffer.write("\n".join(line for line in written.splitlines() if line.strip()) + "\n")

"""Alembic operations that Alembic does not have: SQL that is safe from bind parameters, an index without a lock.

Rendered into a revision file they are plain ``op.*`` calls, so that revisions never depend on this package.
"""

from __future__ import annotations

import re
from typing import Any

from alembic.autogenerate import render, renderers
from alembic.operations import ops

_COLON = re.compile(r"(?<![:\w\x5c]):(\w+)(?!:)")


def execute(sql: str) -> ops.ExecuteSQLOp:
    """An operation that runs SQL as it is. Alembic makes a ``text()`` of it, where ``:name`` would be a parameter."""
    return ops.ExecuteSQLOp(_COLON.sub(r"\\:\1", sql))


class ConcurrentIndexOp(ops.CreateIndexOp):
    """CREATE INDEX CONCURRENTLY IF NOT EXISTS, outside of a transaction."""

    @classmethod
    def like(cls, found: ops.CreateIndexOp) -> ConcurrentIndexOp:
        options = {**found.kw, "postgresql_concurrently": True}
        return cls(
            found.index_name,
            found.table_name,
            found.columns,
            schema=found.schema,
            unique=found.unique,
            if_not_exists=True,
            **options,
        )


class OutsideOp(ops.ExecuteSQLOp):
    """SQL that must be committed before what follows can use it: a revision runs it outside of its transaction."""


def outside(sql: str) -> OutsideOp:
    """As :func:`execute`, in a revision outside of its transaction."""
    return OutsideOp(execute(sql).sqltext)


def _outside(lines: str) -> str:
    body = lines.replace("\n", "\n    ")
    return f"with op.get_context().autocommit_block():\n    {body}"


@renderers.dispatch_for(ConcurrentIndexOp)
def _render_index(context: Any, op: ConcurrentIndexOp) -> str:
    return _outside(str(render._add_index(context, op)))


@renderers.dispatch_for(OutsideOp)
def _render_outside(_context: Any, op: OutsideOp) -> str:
    return _outside(f"op.execute({op.sqltext!r})")

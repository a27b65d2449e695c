"""The tables of the coherence protocol itself, made with the schema: the application's role then needs no CREATE.

No comparison sees them: drift, autogenerate and ``alembic check`` leave out every table whose name begins with
``datalayer_``. Who never migrates has them made by the first process that needs them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import ops

from ..coherence.ledger import TABLES, TAKE_TURNS, lines
from .operations import execute
from .steps import Step

_THERE = "SELECT name FROM unnest(CAST(:names AS text[])) name WHERE to_regclass(name) IS NOT NULL"
_MAY_CREATE = "SELECT has_schema_privilege(current_schema(), 'CREATE')"


def fence_tables(connection: sa.Connection, shards: int) -> list[Step]:
    """The steps that make the fence with a line for each shard. None without shards, and on other databases."""
    if connection.dialect.name != "postgresql" or shards == 0:
        return []
    there = set(connection.scalars(sa.text(_THERE), {"names": list(TABLES)}))
    if set(TABLES) - there and not connection.scalar(sa.text(_MAY_CREATE)):
        return []  # left to whoever may: no reason for the models' migration to fail
    steps = [Step(f"create table {name}", _alone(ddl)) for name, ddl in TABLES.items() if name not in there]
    if "datalayer_fence" not in there or _lacks_lines(connection, shards):
        steps.append(Step(f"add the lines of {shards} shards to datalayer_fence", _alone(lines(shards))))
    return steps


def _alone(sql: str) -> ops.MigrateOperation:
    # IF NOT EXISTS is no protection from a process that starts at this moment and makes the same table.
    return ops.UpgradeOps([execute(TAKE_TURNS), execute(sql)])


def _lacks_lines(connection: sa.Connection, shards: int) -> bool:
    if not connection.scalar(sa.text("SELECT has_table_privilege('datalayer_fence', 'SELECT')")):
        return False  # a role that cannot read the fence does not use it
    found = connection.scalar(sa.text("SELECT count(*) FROM datalayer_fence WHERE shard < :shards"), {"shards": shards})
    return int(found or 0) < shards

"""Triggers that tell of every write to a table, whoever wrote: psql, another service, a cascade, COPY, TRUNCATE.

A model asks for them with ``CachePolicy(external_writes=True)``. They are statement-level and notify the channel
``datalayer_writes`` when the transaction commits, and never if it rolls back. The payload is a JSON object::

    {"schema": "public", "table": "players", "xid": "4711", "keys": [[1], [2]]}

``keys`` are the primary keys that rows had before and have after, the values in the order of the key's columns as
``to_jsonb`` writes them; null stands for the whole table: after TRUNCATE, for more than 100 rows, and where the payload
would exceed PostgreSQL's 8000 bytes. ``xid`` is the writing transaction's, so that a listener knows its own writes.

A commit that notifies takes a lock of the whole server for a moment: tables that are written a lot pay for it. What is
written to a partition by its own name is not heard.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import ops

from . import rules
from .names import literal
from .operations import execute
from .scope import Judged, Scope
from .steps import Phase, Step

#: What listeners listen to.
CHANNEL = "datalayer_writes"

FUNCTION = "datalayer_notify"

_KEYS = (
    "SELECT (SELECT jsonb_agg(to_jsonb(r) -> name ORDER BY place) FROM unnest(TG_ARGV) WITH ORDINALITY a(name, place)) "
    "AS key FROM {0} r LIMIT 101"
)

BODY = f"""
DECLARE
  found jsonb;
  message jsonb := jsonb_build_object('schema', TG_TABLE_SCHEMA, 'table', TG_TABLE_NAME,
    'xid', pg_current_xact_id()::text, 'keys', NULL);
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT jsonb_agg(key) INTO found FROM ({_KEYS.format("new_rows")}) n;
  ELSIF TG_OP = 'DELETE' THEN
    SELECT jsonb_agg(key) INTO found FROM ({_KEYS.format("old_rows")}) o;
  ELSIF TG_OP = 'UPDATE' THEN
    SELECT jsonb_agg(key) INTO found FROM (
      ({_KEYS.format("old_rows")})
      UNION ({_KEYS.format("new_rows")})) both_rows;
  END IF;
  IF found IS NULL AND TG_OP <> 'TRUNCATE' THEN
    RETURN NULL;
  END IF;
  IF jsonb_array_length(found) <= 100 AND octet_length(found::text) <= 7500 THEN
    message := jsonb_set(message, '{{keys}}', found);
  END IF;
  PERFORM pg_notify('{CHANNEL}', message::text);
  RETURN NULL;
END
"""

_EVENTS = {
    "insert": " REFERENCING NEW TABLE AS new_rows",
    "update": " REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": " REFERENCING OLD TABLE AS old_rows",
    "truncate": "",
}
NAMES = tuple(f"datalayer_{event}" for event in _EVENTS)


def is_told(table: sa.Table) -> bool:
    """Whether writes to a table are to be told."""
    return bool(table.info.get("datalayer", {}).get("external_writes"))


def notifier(scope: Scope) -> list[Step]:
    """The function of all triggers, where a table needs it and it is not there or is an older one."""
    if scope.facts.notifier == BODY or not any(is_told(table) for table in scope.tables.values()):
        return []
    sql = f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $datalayer${BODY}$datalayer$"
    undo = None if scope.facts.notifier else execute(f"DROP FUNCTION IF EXISTS {FUNCTION}()")
    return [Step(f"create function {FUNCTION}", execute(sql), undo=undo)]


def triggers(scope: Scope, table: sa.Table) -> Judged:
    """The triggers that a table lacks. Those that no policy asks for any more are left and reported."""
    if not scope.postgres:
        return []
    found = scope.facts.triggers.get(table.fullname, frozenset())
    quoted = scope.quoted(table.schema, table.name)
    if not is_told(table):
        return [rules.drop_trigger(table.fullname, name, quoted) for name in NAMES if name in found]
    missing = [event for event in _EVENTS if f"datalayer_{event}" not in found]
    if not missing:
        return []
    key = ", ".join(literal(column.name) for column in table.primary_key.columns)
    made = [execute(_creation(event, quoted, key)) for event in missing]
    undone = [execute(f"DROP TRIGGER IF EXISTS datalayer_{event} ON {quoted}") for event in missing]
    text = f"create triggers that tell of {', '.join(missing)} on {table.fullname}"
    return [Step(text, ops.UpgradeOps(made), Phase.CONSTRAIN, undo=ops.UpgradeOps(undone))]


def _creation(event: str, quoted: str, key: str) -> str:
    return (
        f"CREATE TRIGGER datalayer_{event} AFTER {event.upper()} ON {quoted}{_EVENTS[event]} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}({key})"
    )

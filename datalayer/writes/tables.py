"""The tables that write-behind keeps in the database, beside the rows: made with the first queued write.

``datalayer_wb_applied``: how far each journal has been applied, changed in the very transaction that applies it.
``datalayer_wb_gone``: the sequence numbers of deleted rows, which have no row to keep theirs in.
``datalayer_wb_state``: how sequence numbers are made now, so that they never repeat when that changes.
``datalayer_dead_letters``: writes that failed. Bodies are as they were in the journal, secrets encrypted.
"""

from __future__ import annotations

import sqlalchemy as sa

from ..coherence.ledger import MAKING_LOCK
from ..tiers.engines import reading_engine

metadata = sa.MetaData()

applied = sa.Table(
    "datalayer_wb_applied",
    metadata,
    sa.Column("journal", sa.Uuid, primary_key=True),
    sa.Column("last_id", sa.BigInteger, nullable=False),
)

gone = sa.Table(
    "datalayer_wb_gone",
    metadata,
    sa.Column("space", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
)

state = sa.Table(
    "datalayer_wb_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("layout", sa.Text, nullable=False),
    sa.Column("base", sa.BigInteger, nullable=False),
    sa.Column("counter", sa.BigInteger, nullable=False),
)

letters = sa.Table(
    "datalayer_dead_letters",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("space", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("first_at", sa.Float, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Index("ix_datalayer_dead_letters_due", "state", "next_at"),
)


def make_tables(engine: sa.Engine) -> None:
    """Make what is missing. Several processes may do it at once."""
    if engine.dialect.name != "postgresql":
        metadata.create_all(engine)
        return
    # Not through the layer's engine, whose listeners would announce a changed schema to everybody.
    plain = reading_engine(engine, size=1)
    try:
        with plain.connect() as connection:
            _make(connection)
    finally:
        plain.dispose()


def _make(connection: sa.Connection) -> None:
    if all(sa.inspect(connection).has_table(name) for name in metadata.tables):
        return
    connection.execute(sa.select(sa.func.pg_advisory_lock(MAKING_LOCK)))
    try:
        metadata.create_all(connection)
    finally:
        connection.execute(sa.select(sa.func.pg_advisory_unlock(MAKING_LOCK)))

"""The tables of the coherence protocol: which epoch the shared cache has, and how far write-behind journals got.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# As the library makes them where nobody did. Lines of further shards are added by the processes that use them.
_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS datalayer_fence (
        shard integer PRIMARY KEY,
        epoch bigint NOT NULL,
        nonce text NOT NULL DEFAULT '',
        st smallint NOT NULL DEFAULT 0,
        lineage text,
        theta xid8 NOT NULL DEFAULT '0',
        pgid text NOT NULL
    ) WITH (fillfactor = 50)
    """,
    "CREATE TABLE IF NOT EXISTS datalayer_wb_applied (journal uuid PRIMARY KEY, last_id bigint NOT NULL)",
    """
    INSERT INTO datalayer_fence (shard, epoch, pgid)
    SELECT 0, 1, (SELECT system_identifier FROM pg_control_system()) || ':' ||
        left(pg_walfile_name(pg_current_wal_lsn()), 8)
    ON CONFLICT (shard) DO NOTHING
    """,
)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        for statement in _TABLES:
            op.execute(statement)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TABLE IF EXISTS datalayer_wb_applied")
        op.execute("DROP TABLE IF EXISTS datalayer_fence")

"""Teams and their players.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("id", _integer, primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", _moment, nullable=False),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "players",
        sa.Column("id", _integer, primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text()),
        sa.Column("team_id", _integer),
        sa.Column("level", _integer, server_default=sa.text("1"), nullable=False),
        sa.Column("score", sa.Double(), server_default=sa.text("0.0"), nullable=False),
        sa.Column("profile", sa.JSON().with_variant(postgresql.JSONB(), "postgresql")),
        sa.Column("created_at", _moment, server_default=sa.func.current_timestamp(), nullable=False),
        sa.Column("updated_at", _moment, server_default=sa.func.current_timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_players_team_id_teams"), ondelete="SET NULL"),
        sa.UniqueConstraint("email", name=op.f("uq_players_email")),
    )
    op.create_index(op.f("ix_players_team_id"), "players", ["team_id"])


def downgrade() -> None:
    op.drop_table("players")
    op.drop_table("teams")

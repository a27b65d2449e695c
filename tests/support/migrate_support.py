"""What the tests of migrations share: small schemas, and questions to a database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from datalayer.migrate.options import MigrateOptions
from datalayer.migrate.runner import MigrationReport, create_missing
from datalayer.models.base import NAMING_CONVENTION


def metadata() -> sa.MetaData:
    """An empty schema with a naming convention."""
    return sa.MetaData(naming_convention=NAMING_CONVENTION)


def things(*extra: Any, into: sa.MetaData | None = None) -> sa.MetaData:
    """A schema with the table ``things (id, name)`` and what else it should have."""
    found = metadata() if into is None else into
    sa.Table("things", found, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), *extra)
    return found


def migrate(engine: sa.Engine, *schemas: sa.MetaData, **options: Any) -> MigrationReport:
    """Migrate, and see that a second run finds nothing to do."""
    report = create_missing(engine, schemas, MigrateOptions(**options))
    again = create_missing(engine, schemas, MigrateOptions(**options))
    assert again.applied == (), str(again)
    return report


def rows(engine: sa.Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql))]


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def valid(engine: sa.Engine, index: str) -> bool:
    """Whether an index is there and valid."""
    found = rows(engine, f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')")
    return found == [(True,)]


def rich() -> sa.MetaData:
    """``things`` with something of everything that can be added."""
    found = things(
        sa.Column("level", sa.Integer, server_default="7", nullable=False),
        sa.Column("must", sa.Text, nullable=False, default="said"),
        sa.Column("code", sa.Text, unique=True),
        sa.Column("owner_id", sa.Integer, sa.ForeignKey("owners.id")),
        sa.Column("size", sa.Integer, sa.CheckConstraint("size > 0", name="size")),
        sa.Column("mood", sa.Enum("good", "bad", name="mood")),
        sa.Index("ix_things_name", "name"),
    )
    sa.Table("owners", found, sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", sa.Text, index=True))
    return found

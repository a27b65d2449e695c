"""The table ``datalayer_migrations``: every step that was taken and every SQL file that was run, when and by whom.

Beside Alembic's own table, which keeps the current revisions only: no history, no checksum, no half-done state.
"""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa

Kind = Literal["sql", "models", "alembic"]
State = Literal["applied", "pending", "dirty", "edited", "missing", "out-of-order"]

TABLE = sa.Table(
    "datalayer_migrations",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Column("dirty", sa.Boolean, nullable=False),
    sa.Column("applied_by", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "version", name="uq_datalayer_migrations_kind_version"),
)


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """One migration. ``kind``: an SQL file, a step for the models, or a revision of Alembic.

    ``state``: ``applied``; ``pending``; ``dirty`` (begun outside of a transaction and not ended); ``edited`` (the file
    is not what was run); ``missing`` (run, and there is no such file); ``out-of-order`` (pending, and a later one has
    been applied). ``version`` has the digits of the file name or the revision. ``duration_ms`` is None if unknown.
    """

    kind: Kind
    version: str
    name: str
    checksum: str
    state: State
    applied_at: datetime | None
    duration_ms: int | None


def exists(connection: sa.Connection) -> bool:
    """Whether anything was ever recorded here."""
    return sa.inspect(connection).has_table(TABLE.name)


def prepare(connection: sa.Connection) -> None:
    """Create the table if it is not there. The caller holds the migration lock."""
    TABLE.create(connection, checkfirst=True)


def record_step(connection: sa.Connection, text: str, seconds: float) -> None:
    """Note a step that was taken for the models."""
    prepare(connection)
    last = sa.select(sa.func.coalesce(sa.func.max(TABLE.c.version), 0)).where(TABLE.c.kind == "models")
    insert(connection, "models", int(connection.scalar(last) or 0) + 1, text, "", seconds=seconds)


def insert(
    connection: sa.Connection,
    kind: Kind,
    version: int,
    name: str,
    checksum: str,
    *,
    seconds: float = 0.0,
    dirty: bool = False,
) -> None:
    """Note one migration."""
    row = {
        "kind": kind,
        "version": version,
        "name": name,
        "checksum": checksum,
        "applied_at": datetime.now(UTC),
        "duration_ms": round(seconds * 1000),
        "dirty": dirty,
        "applied_by": _whoami(),
    }
    connection.execute(sa.insert(TABLE), row)


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def settle(connection: sa.Connection, version: int, seconds: float) -> None:
    """A file that ran outside of a transaction has ended well."""
    here = (TABLE.c.kind == "sql") & (TABLE.c.version == version)
    connection.execute(sa.update(TABLE).where(here).values(dirty=False, duration_ms=round(seconds * 1000)))


def forget(connection: sa.Connection, version: int) -> None:
    """A file was taken back."""
    connection.execute(sa.delete(TABLE).where((TABLE.c.kind == "sql") & (TABLE.c.version == version)))


def soil(connection: sa.Connection, version: int) -> None:
    """A file is being taken back outside of a transaction."""
    here = (TABLE.c.kind == "sql") & (TABLE.c.version == version)
    connection.execute(sa.update(TABLE).where(here).values(dirty=True))


def rows(
    connection: sa.Connection, kind: Kind
) -> list[sa.Row[tuple[int, str, str, str, str, datetime, int, bool, str]]]:
    """What was recorded of one kind, by version."""
    if not exists(connection):
        return []
    return list(connection.execute(sa.select(TABLE).where(TABLE.c.kind == kind).order_by(TABLE.c.version)).all())

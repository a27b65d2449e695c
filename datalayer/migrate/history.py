"""The table of migrations: every step that was taken and every SQL file that was run, when and by whom.

Beside Alembic's own table, which keeps the current revisions only: no history, no checksum, no half-done state.
"""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from ..errors import MigrationError
from .names import Names, full

Kind = Literal["sql", "models", "alembic"]
DEFAULT_TABLE = "schema_migrations"

State = Literal["applied", "pending", "dirty", "edited", "missing", "out-of-order", "running", "interrupted"]


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """One migration. ``kind``: an SQL file, a step for the models, or a revision of Alembic.

    ``state``: ``applied``; ``pending``; ``dirty`` (begun outside of a transaction and not ended); ``edited`` (the file
    is not what was run); ``missing`` (run, and there is no such file); ``out-of-order`` (pending, and a later one has
    been applied); of steps for the models ``running`` and ``interrupted`` (begun outside of a transaction, and a
    process is at it, or none is any more: the next run does it again).

    ``version`` has the digits of the file name or the revision. ``duration_ms`` is None if unknown.
    """

    kind: Kind
    version: str
    name: str
    checksum: str
    state: State
    applied_at: datetime | None
    duration_ms: int | None

    def __str__(self) -> str:
        when = f" {self.applied_at:%Y-%m-%d %H:%M:%S} in {self.duration_ms} ms" if self.applied_at else ""
        return f"{self.kind} {self.version} {self.name}: {self.state}{when}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the moment is a datetime."""
        return asdict(self)


class History:
    """Reads and writes one table, ``name`` or ``schema.name``. Every method is one short statement."""

    def __init__(self, name: str = DEFAULT_TABLE) -> None:
        schema, _, bare = name.rpartition(".")
        self.table = _table(bare, schema or None)

    def exists(self, connection: sa.Connection) -> bool:
        """Whether anything was ever recorded. MigrationError if the table is somebody else's."""
        inspector = sa.inspect(connection)
        if not inspector.has_table(self.table.name, schema=self.table.schema):
            return False
        found = {column["name"] for column in inspector.get_columns(self.table.name, schema=self.table.schema)}
        if missing := [column.name for column in self.table.columns if column.name not in found]:
            raise MigrationError(
                f"the table {full(self.table.name, self.table.schema)} has no column {', '.join(missing)}: another "
                "tool keeps its migrations there; choose another table with the setting migrations_table"
            )
        return True

    def prepare(self, connection: sa.Connection) -> None:
        """Create the table if it is not there. The caller holds the migration lock."""
        if not self.exists(connection):
            self.table.create(connection)

    def rows(self, connection: sa.Connection, kind: Kind) -> list[sa.Row[Any]]:
        """What was recorded of one kind, by version."""
        if not self.exists(connection):
            return []
        of_kind = sa.select(self.table).where(self.table.c.kind == kind)
        return list(connection.execute(of_kind.order_by(self.table.c.version)).all())

    def record_step(self, connection: sa.Connection, text: str, seconds: float = 0.0, *, dirty: bool = False) -> int:
        """Note a step that was taken for the models, or, if ``dirty``, is begun; the number that it has from now on."""
        table = self.table
        last = sa.select(sa.func.coalesce(sa.func.max(table.c.version), 0)).where(table.c.kind == "models")
        version = int(connection.scalar(last) or 0) + 1
        self.insert(connection, "models", version, text, seconds=seconds, dirty=dirty)
        return version

    def end_step(self, connection: sa.Connection, version: int, seconds: float) -> None:
        """Note that a step that was begun is done."""
        values = {"dirty": False, "duration_ms": round(seconds * 1000)}
        connection.execute(sa.update(self.table).where(*self._one("models", version)).values(values))

    def forget_interrupted(self, connection: sa.Connection) -> None:
        """Steps that were begun and not done: the plan says now what is left of them. The caller holds the lock."""
        if self.exists(connection) and self._may_change(connection):
            table = self.table
            connection.execute(sa.delete(table).where(table.c.kind == "models", table.c.dirty))

    def _may_change(self, connection: sa.Connection) -> bool:
        """A role that may only use the tables finds nothing to do at start-up, and shall not fail at this."""
        if connection.dialect.name != "postgresql":
            return True
        name = Names(connection.dialect).quoted(self.table.schema, self.table.name)
        rights = "SELECT has_table_privilege(:name, 'SELECT') AND has_table_privilege(:name, 'DELETE')"
        return bool(connection.scalar(sa.text(rights), {"name": name}))

    def insert(
        self,
        connection: sa.Connection,
        kind: Kind,
        version: int,
        name: str,
        *,
        checksum: str = "",
        seconds: float = 0.0,
        dirty: bool = False,
        down: str | None = None,
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
            "down_sql": down,
        }
        connection.execute(sa.insert(self.table), row)

    def update(self, connection: sa.Connection, version: int, **values: Any) -> None:
        """Change what is noted of one file."""
        connection.execute(sa.update(self.table).where(*self._one("sql", version)).values(values))

    def forget(self, connection: sa.Connection, version: int) -> None:
        """One file was taken back."""
        connection.execute(sa.delete(self.table).where(*self._one("sql", version)))

    def _one(self, kind: Kind, version: int) -> tuple[sa.ColumnElement[bool], ...]:
        return self.table.c.kind == kind, self.table.c.version == version


def _table(name: str, schema: str | None) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("kind", sa.String(20), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("dirty", sa.Boolean, nullable=False),
        sa.Column("applied_by", sa.Text, nullable=False),
        sa.Column("down_sql", sa.Text),
        schema=schema,
    )


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"

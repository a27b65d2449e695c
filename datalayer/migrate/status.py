"""Where a database stands: files applied, pending, edited, missing or dirty, steps taken for the models, revisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from .history import History, MigrationRecord, State
from .lock import migrator
from .sqlfiles import MigrationFile, read_directory


def migration_status(
    engine: sa.Engine, directory: str | Path | None = None, *, table: str | None = None
) -> list[MigrationRecord]:
    """Every migration that is known here: SQL files by number, then steps for the models, then Alembic's revisions.

    Without a directory only what was recorded is known, so nothing is pending, edited or missing. Reads only.
    """
    history = History(table) if table else History()
    files = {file.version: file for file in read_directory(directory)} if directory is not None else None
    with engine.connect() as connection:
        found = [*_files(connection, history, files), *_steps(connection, history), *_revisions(connection)]
        connection.rollback()
    return found


def _files(
    connection: sa.Connection, history: History, files: dict[int, MigrationFile] | None
) -> Iterator[MigrationRecord]:
    rows = {row.version: row for row in history.rows(connection, "sql")}
    last = max(rows, default=-1)
    for version in sorted({*rows, *(files or {})}):
        row, file = rows.get(version), (files or {}).get(version)
        if row is not None:
            digits = file.digits if file else str(version)
            yield _recorded(row, _state(row, file, files is not None), digits)
        elif file is not None:
            state: State = "out-of-order" if version < last else "pending"
            yield MigrationRecord("sql", file.digits, file.name, file.up.checksum, state, None, None)


def _state(row: sa.Row[tuple[object, ...]], file: MigrationFile | None, known: bool) -> State:
    if row.dirty:
        return "dirty"
    if file is None:
        return "missing" if known else "applied"
    return "applied" if file.up.checksum == row.checksum else "edited"


def _recorded(row: sa.Row[tuple[object, ...]], state: State, version: str) -> MigrationRecord:
    return MigrationRecord(row.kind, version, row.name, row.checksum, state, row.applied_at, row.duration_ms)


def _steps(connection: sa.Connection, history: History) -> list[MigrationRecord]:
    rows = history.rows(connection, "models")
    begun: State = "interrupted"
    if connection.dialect.name == "postgresql" and any(row.dirty for row in rows) and migrator(connection):
        begun = "running"
    return [_recorded(row, begun if row.dirty else "applied", str(row.version)) for row in rows]


def _revisions(connection: sa.Connection) -> list[MigrationRecord]:
    if not sa.inspect(connection).has_table("alembic_version"):
        return []
    versions = connection.scalars(sa.text("SELECT version_num FROM alembic_version ORDER BY 1"))
    return [MigrationRecord("alembic", version, "revision", "", "applied", None, None) for version in versions]

"""Runs SQL files up and down: each in a transaction with its record, or marked dirty while it is outside of one."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from ..errors import (
    ConfigError,
    MigrationDirtyError,
    MigrationEditedError,
    MigrationError,
    MigrationFileError,
    MigrationOrderError,
)
from .history import History
from .lint import Complaint, lint
from .lock import only_migrator
from .options import MigrateOptions
from .patience import in_transaction, is_busy, patiently
from .sqlfiles import MigrationFile, Script, read_directory
from .sqltext import Statement

log = logging.getLogger("datalayer.migrate")

Lint = Literal["off", "warn", "refuse"]


@dataclass(frozen=True, slots=True)
class FilesReport:
    """What was run, as ``001_description``, and what the lint says about it."""

    applied: tuple[str, ...] = ()
    complaints: tuple[Complaint, ...] = ()

    def __str__(self) -> str:
        lines = [f"applied: {name}" for name in self.applied] + [f"lint: {item}" for item in self.complaints]
        return "\n".join(lines) or "nothing to do"


def run_files(
    engine: sa.Engine,
    directory: str | Path,
    options: MigrateOptions | None = None,
    *,
    rules: Lint = "warn",
    out_of_order: bool = False,
) -> FilesReport:
    """Run the files of a directory that were not run yet, in the order of their numbers.

    Safe in every process at start-up. A file that fails leaves nothing behind, unless it asked for no transaction; the
    files before it stay. Files that this directory no longer has, or does not have yet, are no error: an old release
    may start on a new database.

    Raises, before anything is run: MigrationFileError, MigrationEditedError, MigrationOrderError (unless
    ``out_of_order``), MigrationDirtyError. MigrationError if a statement fails. ``rules="refuse"`` raises
    MigrationFileError for what the lint finds unsafe.
    """
    options = options or MigrateOptions()
    history, files = History(options.table), read_directory(directory)
    if rules not in ("off", "warn", "refuse"):
        raise ConfigError(f'lint is {rules!r}, expected "off", "warn" or "refuse"')
    done: list[str] = []
    complaints: list[Complaint] = []
    while True:
        # The lock is taken for each file: on SQLite it is the transaction of the file.
        with only_migrator(engine, wait=options.wait, lock_timeout=options.lock_timeout) as connection:
            waiting = pending(connection, history, files, out_of_order=out_of_order)
            if not waiting:
                return FilesReport(tuple(done), tuple(complaints))
            if not done:
                complaints = _linted(waiting, engine.dialect.name, rules)
            _up(connection, history, waiting[0], options)
        done.append(f"{waiting[0].digits}_{waiting[0].name}")


def pending(
    connection: sa.Connection, history: History, files: Iterable[MigrationFile], *, out_of_order: bool
) -> list[MigrationFile]:
    """The files that are to be run, or the error that forbids it."""
    rows = {row.version: row for row in history.rows(connection, "sql")}
    for row in rows.values():
        if row.dirty:
            raise MigrationDirtyError(
                f"{row.version}_{row.name} was begun at {row.applied_at:%Y-%m-%d %H:%M} outside of a transaction and "
                "did not end. See what it has done, finish it or undo it by hand, then tell with "
                f"migrate_repair({row.version}, applied=True) or applied=False"
            )
    waiting: list[MigrationFile] = []
    for file in files:
        known = rows.get(file.version)
        if known is None:
            waiting.append(file)
        elif known.checksum != file.up.checksum:
            raise MigrationEditedError(
                f"{file.up.path.name} was changed after it was applied at {known.applied_at:%Y-%m-%d %H:%M} (checksum "
                f"{known.checksum[:12]}, the file has {file.up.checksum[:12]}); restore it and write what is new into "
                "a file with the next number"
            )
    _check_order(rows, waiting, out_of_order)
    return waiting


def _check_order(rows: dict[int, sa.Row[tuple[object, ...]]], waiting: list[MigrationFile], allowed: bool) -> None:
    if allowed or not rows or not waiting:
        return
    last, first = max(rows), waiting[0]
    if first.version < last:
        raise MigrationOrderError(
            f"{first.up.path.name} was not applied, but number {last} was: another branch was merged later. Give it a "
            "number after that, or run it all the same with out_of_order=True"
        )


def _linted(waiting: list[MigrationFile], dialect: str, rules: Lint) -> list[Complaint]:
    if rules == "off" or dialect != "postgresql":
        return []
    found = [complaint for file in waiting for complaint in lint(file)]
    for complaint in found:
        log.warning("%s", complaint)
    errors = [str(complaint) for complaint in found if complaint.severity == "error"]
    if errors and rules == "refuse":
        raise MigrationFileError("unsafe statements; nothing was run:\n" + "\n".join(f"  {text}" for text in errors))
    return found


def _up(connection: sa.Connection, history: History, file: MigrationFile, options: MigrateOptions) -> None:
    history.prepare(connection)
    statements, began = file.up.statements(), time.perf_counter()
    down = file.down.text if file.down else None
    if file.down is not None and file.down.outside:
        down = f"-- datalayer: no-transaction\n{down}"

    def note(*, dirty: bool) -> None:
        seconds = time.perf_counter() - began
        checksum = file.up.checksum
        history.insert(
            connection, "sql", file.version, file.name, checksum=checksum, seconds=seconds, dirty=dirty, down=down
        )

    def all_of_it() -> None:
        _execute(connection, file.up, statements, options)
        note(dirty=False)

    if not file.up.outside:
        _patiently(lambda: in_transaction(connection, all_of_it), file.up, options)
    else:
        note(dirty=True)
        _outside(connection, lambda: _execute(connection, file.up, statements, options))
        took = round((time.perf_counter() - began) * 1000)
        history.update(connection, file.version, dirty=False, duration_ms=took)
    log.info("applied %s in %.0f ms", file.up.path.name, (time.perf_counter() - began) * 1000)


def _patiently(work: Callable[[], None], script: Script, options: MigrateOptions) -> None:
    patiently(work, script.path.name, options.retries)


def _outside(connection: sa.Connection, work: Callable[[], None]) -> None:
    """Out of the transaction that is SQLite's lock, and back."""
    if connection.dialect.name != "sqlite":
        work()
        return
    connection.exec_driver_sql("COMMIT")
    try:
        work()
    finally:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


_CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b", re.I)


def _execute(connection: sa.Connection, script: Script, statements: list[Statement], options: MigrateOptions) -> None:
    # Without parameters, so that a % is a %.
    plain = connection.execution_options(no_parameters=True)
    try:
        for statement in statements:
            line = statement.line
            if script.outside and connection.dialect.name == "postgresql":
                # As in runner: nobody queues behind CONCURRENTLY, so that may wait.
                patience = 0 if _CONCURRENTLY.search(statement.bare) else int(options.lock_timeout * 1000)
                plain.exec_driver_sql(f"SET lock_timeout = {patience}")
            plain.exec_driver_sql(statement.text)
    except sa.exc.DBAPIError as error:
        if is_busy(error) and not script.outside:
            raise  # tried again from the start
        raise MigrationError(
            f"{script.path.name}, line {line}: the statement failed ({type(error.orig).__name__}); see the chained "
            "exception. " + ("It is marked dirty" if script.outside else "Nothing of the file was kept")
        ) from error
    finally:
        connection.execution_options(no_parameters=False)


def run_down(
    engine: sa.Engine, steps: int, directory: str | Path | None = None, options: MigrateOptions | None = None
) -> FilesReport:
    """Take back the last ``steps`` files, the latest first, and forget that they were applied.

    The way down is that of the directory, if it has the file, else the one that was stored when the file was applied.
    Raises MigrationFileError, before anything is run, if a file has none.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}, expected 1 or more")
    options = options or MigrateOptions()
    history = History(options.table)
    files = {file.version: file for file in read_directory(directory)} if directory is not None else {}
    with only_migrator(engine, wait=options.wait, lock_timeout=options.lock_timeout) as connection:
        rows = list(reversed(history.rows(connection, "sql")))[:steps]
        ways = [(row, _way_down(row, files)) for row in rows]
    done = []
    for row, script in ways:
        with only_migrator(engine, wait=options.wait, lock_timeout=options.lock_timeout) as connection:
            _down(connection, history, row, script, options)
        done.append(f"{row.version}_{row.name}")
    return FilesReport(tuple(done))


def _way_down(row: sa.Row[tuple[object, ...]], files: dict[int, MigrationFile]) -> Script:
    if row.dirty:
        raise MigrationDirtyError(
            f"{row.version}_{row.name} is dirty; see what it has done and use migrate_repair() first"
        )
    file = files.get(row.version)
    if file is not None and file.down is not None:
        return file.down
    if row.down_sql is None:
        raise MigrationFileError(
            f"{row.version}_{row.name} has no way down; write {row.version}_{row.name}.down.sql. Nothing was taken back"
        )
    text = str(row.down_sql)
    return Script(text, text.startswith("-- datalayer: no-transaction"), Path(f"{row.version}_{row.name}.down.sql"))


def _down(
    connection: sa.Connection,
    history: History,
    row: sa.Row[tuple[object, ...]],
    script: Script,
    options: MigrateOptions,
) -> None:
    statements = script.statements()

    def all_of_it() -> None:
        _execute(connection, script, statements, options)
        history.forget(connection, row.version)

    if not script.outside:
        _patiently(lambda: in_transaction(connection, all_of_it), script, options)
        return
    history.update(connection, row.version, dirty=True)
    _outside(connection, lambda: _execute(connection, script, statements, options))
    history.forget(connection, row.version)


def repair(engine: sa.Engine, version: int, *, applied: bool, options: MigrateOptions | None = None) -> None:
    """After somebody has looked at a dirty file: it counts as applied, or as never run. MigrationError if unknown."""
    options = options or MigrateOptions()
    history = History(options.table)
    with only_migrator(engine, wait=options.wait) as connection:
        if version not in {row.version for row in history.rows(connection, "sql")}:
            raise MigrationError(f"number {version} was never begun here; nothing to repair")
        if applied:
            history.update(connection, version, dirty=False)
        else:
            history.forget(connection, version)

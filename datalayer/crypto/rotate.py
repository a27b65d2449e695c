"""Encrypts every value anew under the active key, while the application goes on writing.

A batch is read, encrypted, and written back *row by row iff its ciphertext is still what was read*: a writer who came
between keeps his value, which is under the active key already. Each value's ciphertext is new even when its text is
not (the nonce is random), so nothing can change and change back unseen. Rows that somebody has locked are passed over,
so this never waits while it holds locks, and cannot be part of a deadlock. What was passed over is met again in the
next pass; what is under the active key is not looked at twice, so a run that was interrupted is continued by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..contracts.keys import key_text
from ..errors import DecodeError
from .aead import key_id_of
from .rows import row_name
from .scan import Key, RawColumn, RawRow, RawTable
from .vault import Vault

_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan of one table is. ``after``: the key to continue from in another run."""

    table: str
    done: int
    total: int
    after: Key

    @property
    def position(self) -> str | None:
        """``table:key`` as text, which ``layer.crypto.resume`` reads; None when the key is too long for that."""
        text = key_text(self.after)
        return None if text.startswith("~") else f"{self.table}:{text}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that could not be decrypted, or whose digest is another row's. Never the value itself."""

    table: str
    column: str
    key: Key
    key_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Rotated:
    """What became of one table: rows written anew, rows whose writer was faster, rows that are left, and why.

    ``problems`` are the first twenty; ``failed`` counts them all.
    """

    table: str
    rotated: int
    overtaken: int
    remaining: int
    failed: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class RotationReport:
    """What became of every table. ``ok``: everything is under the active key, so older keys may go."""

    active: str
    tables: tuple[Rotated, ...]

    @property
    def rotated(self) -> int:
        return sum(table.rotated for table in self.tables)

    @property
    def ok(self) -> bool:
        return not any(table.remaining for table in self.tables)

    def to_dict(self) -> dict[str, Any]:
        tables = {
            t.table: {n: getattr(t, n) for n in ("rotated", "overtaken", "remaining", "failed")} for t in self.tables
        }
        return {"active": self.active, "ok": self.ok, "tables": tables}


class Rotation:
    """Rotates one table. One run at a time per object; several processes at once do no harm."""

    def __init__(self, engine: sa.Engine, table: RawTable, vault: Vault, *, batch_size: int = 500) -> None:
        assert vault.keyring is not None
        self._engine = engine
        self._table = table
        self._vault = vault
        self._size = batch_size
        self._active = vault.keyring.active
        self._locks = engine.dialect.name == "postgresql"
        self._rotated = self._overtaken = self._failed = 0
        self._problems: list[Problem] = []

    def run(self, progress: Callable[[Progress], object] | None = None, *, passes: int = 5) -> Rotated:
        """Rotate until nothing is left or nothing moves; ``passes`` bounds how often the table is gone through."""
        only = self._table.not_under(self._active)
        total = self._table.count(self._engine, only) if progress is not None else 0
        for _ in range(passes):
            self._failed, overtaken = 0, self._overtaken
            self._problems.clear()
            for batch in self._table.rows(self._engine, size=self._size, only=only):
                self._write(list(self._encrypted(batch)))
                if progress is not None:
                    progress(Progress(self._table.name, min(self._rotated, total), total, batch[-1].key))
            if self._overtaken == overtaken:
                break
        remaining = self._table.count(self._engine, only)
        return Rotated(self._table.name, self._rotated, self._overtaken, remaining, self._failed, tuple(self._problems))

    # -- values ----------------------------------------------------------------------------------------------------

    def _encrypted(self, batch: Sequence[RawRow]) -> Iterator[tuple[Key, dict[str, Any]]]:
        """The parameters of the UPDATE of each row that can be read."""
        for row in batch:
            name = row_name(row.key) if any(c.by_row for c in self._table.columns) else b""
            try:
                yield row.key, self._parameters(row, name)
            except DecodeError:
                self._note(row.key, self._culprit(row, name))

    def _parameters(self, row: RawRow, name: bytes) -> dict[str, Any]:
        found = {f"key{i}": value for i, value in enumerate(row.key)}
        for i, (column, text) in enumerate(zip(self._table.columns, row.texts, strict=True)):
            found[f"old{i}"] = text
            found[f"new{i}"], found[f"digest{i}"] = self._renewed(column, text, name)
        return found

    def _renewed(self, column: RawColumn, text: str | None, name: bytes) -> tuple[str | None, str | None]:
        if text is None:
            return None, None
        cipher, row = self._vault.cipher(column.place), name if column.by_row else b""
        plain = cipher.open(text, row)
        return cipher.seal(plain, row), self._vault.digests(column.place).current(plain)

    def _culprit(self, row: RawRow, name: bytes) -> tuple[RawColumn, str | None, str]:
        for column, text in zip(self._table.columns, row.texts, strict=True):
            problem = unreadable(self._vault, column, text, name)
            if problem is not None:
                return column, key_id_of(text), problem
        return self._table.columns[0], None, "changed while it was looked at"

    def _note(self, key: Key, culprit: tuple[RawColumn, str | None, str]) -> None:
        column, key_id, reason = culprit
        self._failed += 1
        if len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(Problem(self._table.name, column.place.column, key, key_id, reason))

    # -- rows ------------------------------------------------------------------------------------------------------

    def _write(self, rows: Sequence[tuple[Key, dict[str, Any]]]) -> None:
        if not rows:
            return
        try:
            self._update(rows)
        except sa.exc.IntegrityError:
            for row in rows:
                self._write_alone(row)

    def _write_alone(self, row: tuple[Key, dict[str, Any]]) -> None:
        try:
            self._update([row])
        except sa.exc.IntegrityError:
            blind = next(c for c in self._table.columns if c.blind is not None)
            self._note(row[0], (blind, None, "another row has the same value, which must be unique"))

    def _update(self, rows: Sequence[tuple[Key, dict[str, Any]]]) -> None:
        try:
            with self._engine.begin() as connection:
                free = self._free(connection, [key for key, _ in rows])
                parameters = [found for key, found in rows if key in free]
                # Nobody's value changes: caches hold the text, not its ciphertext.
                options = {"datalayer_keys_known": True, "datalayer_behind": True}
                written = 0
                if parameters:
                    written = connection.execute(self._statement(), parameters, execution_options=options).rowcount
        except sa.exc.OperationalError as error:
            if error.connection_invalidated:
                raise
            written = 0  # a lock or a deadlock: the next pass meets these rows again
        self._rotated += written
        self._overtaken += len(rows) - written

    def _free(self, connection: sa.Connection, keys: Sequence[Key]) -> set[Key]:
        """The rows that nobody has locked, and that are locked from now on."""
        if not self._locks:
            return set(keys)
        statement = sa.select(*self._table.keys).where(self._table.among(keys))
        statement = statement.with_for_update(key_share=True, skip_locked=True)
        return {tuple(row) for row in connection.execute(statement)}

    def _statement(self) -> Any:
        table = self._table
        statement = sa.update(table.table)
        for i, key in enumerate(table.keys):
            statement = statement.where(key == sa.bindparam(f"key{i}", type_=key.type))
        values: dict[Any, Any] = {}
        for i, column in enumerate(table.columns):
            statement = statement.where(self._unchanged(column, sa.bindparam(f"old{i}", type_=sa.Text())))
            values[column.text] = sa.bindparam(f"new{i}", type_=sa.Text())
            if column.blind is not None:
                values[column.blind] = sa.bindparam(f"digest{i}", type_=sa.Text())
        return statement.values(values)

    def _unchanged(self, column: RawColumn, old: Any) -> sa.ColumnElement[bool]:
        """What makes the write a compare-and-set."""
        return column.text.is_not_distinct_from(old)


def unreadable(vault: Vault, column: RawColumn, text: str | None, name: bytes) -> str | None:
    """Why a stored text cannot be decrypted, in words without it; None if it can."""
    if text is None:
        return None
    try:
        vault.cipher(column.place).open(text, name if column.by_row else b"")
    except DecodeError as error:
        return str(error)
    return None


Resume = Mapping[str, Key]

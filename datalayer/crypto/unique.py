"""Keeps encrypted values unique while the key changes: the database compares digests under one key only.

Until every row has its digest under the active key, a new row and an old one with the same text have different
digests. So, as long as the ring has older keys, a write first looks for the older digests of its values. Two writers
of one text exclude each other by an advisory lock until they commit (PostgreSQL; SQLite has one writer at a time). A
statement with many rows takes one lock for the whole column instead, which every other writer shares: the server has
room for some thousands of locks only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql.dml import Insert

from ..errors import AlreadyExistsError
from .keyring import Place
from .tables import SealedColumn
from .vault import slot_of
from .writes import pins_of

_MOST_LOCKS = 10
_BATCH = 1000


class TakenError(AlreadyExistsError, DontWrapMixin):
    """A row with this text exists, and has its digest under an older key."""


class Guard:
    """Looks for older digests before one compiled INSERT or UPDATE."""

    def __init__(self, compiled: Any, columns: Sequence[SealedColumn]) -> None:
        table = compiled.statement.table
        self._name, self._schema = table.name, table.schema
        self._keys = [(column.key, column.name, column.type) for column in table.primary_key]
        self._pins = {} if isinstance(compiled.statement, Insert) else pins_of(compiled)
        self._columns = [(c.key, str(c.blind), Place(*_place(table, c))) for c in columns]

    @classmethod
    def of(cls, compiled: Any, columns: Sequence[SealedColumn]) -> Guard | None:
        """The guard that a statement needs, if it writes unique texts."""
        table = compiled.statement.table
        unique = {c.name for index in table.indexes if index.unique and len(index.columns) == 1 for c in index.columns}
        guarded = [column for column in columns if column.blind in unique]
        return cls(compiled, guarded) if guarded else None

    def check(self, connection: sa.Connection, context: Any) -> None:
        """TakenError when a value is another row's. One or two statements, only while there are older keys."""
        vault = slot_of(connection.dialect).vault
        if vault is None or not vault.in_transition:
            return
        for key, blind, place in self._columns:
            digests = vault.digests(place)
            rows = [row for row in context.compiled_parameters if isinstance(row.get(key), str)]
            older = {digest: row for row in rows for digest in digests.older(row[key])}
            if older:
                # Every process knows a text by the same digest here, whichever of its keys is active.
                _lock(connection, str(place), sorted({min(digests.every(row[key])) for row in rows}))
                self._look(connection, blind, place, older)

    def _look(self, connection: sa.Connection, blind: str, place: Place, older: Mapping[str, Any]) -> None:
        found = sa.column(blind, sa.Text())
        keys = [sa.column(name, kind) for _, name, kind in self._keys]
        table = sa.table(self._name, found, *keys, schema=self._schema)
        statement = sa.select(found, *keys).select_from(table)
        digests = list(older)
        for at in range(0, len(digests), _BATCH):
            for digest, *key in connection.execute(statement.where(found.in_(digests[at : at + _BATCH]))).all():
                if key != self._own(older[digest]):
                    raise TakenError(f"{place}: a row with this value exists; its digest is still under an older key")

    def _own(self, row: Mapping[str, Any]) -> list[Any]:
        return [row.get(self._pins.get(key, key)) for key, _, _ in self._keys]


def _lock(connection: sa.Connection, place: str, digests: Sequence[str]) -> None:
    if connection.dialect.name != "postgresql":
        return
    if len(digests) > _MOST_LOCKS:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_number(place))))
        return
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_number(place))))
    for digest in digests:  # in one order, so that two statements do not wait for each other
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_number(f"{place} {digest}"))))


def _number(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8, person=b"dl-unique").digest(), "big", signed=True
    )


def _place(table: Any, column: SealedColumn) -> tuple[str, str]:
    kind = table.c[column.key].type
    return kind.table, kind.column

"""A table with encrypted columns as it lies in the database: ciphertext, by key, in batches.

Its columns are described anew as plain text, so that nothing is decrypted on the way and no rule for models applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from .keyring import FORMAT, Place
from .tables import sealed_columns

Key = tuple[Any, ...]


class RawColumn(NamedTuple):
    """An encrypted column, and the one with its digests."""

    place: Place
    text: sa.ColumnClause[str]
    blind: sa.ColumnClause[str] | None
    by_row: bool


class RawRow(NamedTuple):
    """The ciphertext of one row, in the order of the table's encrypted columns, and the digests in theirs."""

    key: Key
    texts: tuple[str | None, ...]
    digests: tuple[str | None, ...]


class RawTable:
    """The encrypted part of a mapped table. Stateless."""

    def __init__(self, table: sa.Table) -> None:
        self.name = table.fullname
        self.columns = [_raw(table, column) for column in sealed_columns(table)]
        self.keys: list[sa.ColumnClause[Any]] = [sa.column(c.name, c.type) for c in table.primary_key]
        self.key_types = tuple(c.type.python_type for c in table.primary_key)
        blind = [c.blind for c in self.columns if c.blind is not None]
        self.table = sa.table(table.name, *self.keys, *(c.text for c in self.columns), *blind, schema=table.schema)
        self._blind = blind

    def rows(
        self,
        engine: sa.Engine,
        *,
        size: int,
        after: Key | None = None,
        only: sa.ColumnElement[bool] | None = None,
        longest: int | None = None,
    ) -> Iterator[list[RawRow]]:
        """Batches in the order of the key, each read in a transaction of its own, which has ended when it is yielded.

        ``only`` is a condition; ``longest`` cuts every text to so many characters.
        """
        while batch := self._batch(engine, size, after, only, longest):
            yield batch
            after = batch[-1].key

    def count(self, engine: sa.Engine, only: sa.ColumnElement[bool] | None = None) -> int:
        statement = sa.select(sa.func.count()).select_from(self.table)
        with engine.connect() as connection:
            return int(connection.scalar(statement if only is None else statement.where(only)) or 0)

    def _batch(self, engine: sa.Engine, size: int, after: Key | None, only: Any, longest: int | None) -> list[RawRow]:
        texts = [c.text if longest is None else sa.func.substr(c.text, 1, longest) for c in self.columns]
        statement = sa.select(*self.keys, *texts, *self._blind).order_by(*self.keys).limit(size)
        if after is not None:
            statement = statement.where(self._beyond(after))
        if only is not None:
            statement = statement.where(only)
        with engine.connect() as connection:
            found = connection.execute(statement).all()
        k, t = len(self.keys), len(self.keys) + len(texts)
        return [RawRow(tuple(row[:k]), tuple(row[k:t]), tuple(row[t:])) for row in found]

    def _beyond(self, after: Key) -> Any:
        if len(self.keys) == 1:
            return self.keys[0] > after[0]
        return sa.tuple_(*self.keys) > sa.tuple_(
            *(sa.literal(value, c.type) for c, value in zip(self.keys, after, strict=True))
        )

    def among(self, keys: Sequence[Key]) -> sa.ColumnElement[bool]:
        """The rows with these keys."""
        if len(self.keys) == 1:
            return self.keys[0].in_([key[0] for key in keys])
        return sa.tuple_(*self.keys).in_(list(keys))

    def not_under(self, active: str) -> sa.ColumnElement[bool]:
        """The rows that have a text, or a digest, under another key than the active one."""
        wrong: list[sa.ColumnElement[bool]] = []
        for column in self.columns:
            wrong.append(~_begins(column.text, f"{FORMAT}.{active}."))  # NULL is neither
            if column.blind is not None:
                has_digest = sa.and_(column.blind.is_not(None), _begins(column.blind, f"{active}."))
                wrong.append(sa.and_(column.text.is_not(None), sa.not_(has_digest)))
        return sa.or_(*wrong)


def _begins(column: sa.ColumnClause[str], prefix: str) -> sa.ColumnElement[bool]:
    # Not LIKE: '_' may be part of a key id.
    return sa.func.substr(column, 1, len(prefix)) == prefix


def _raw(table: sa.Table, column: Any) -> RawColumn:
    real = table.c[column.key]
    kind: Any = real.type
    blind: Any = sa.column(table.c[column.blind].name, sa.Text()) if column.blind is not None else None
    return RawColumn(kind.place, sa.column(real.name, sa.Text()), blind, column.by_row)

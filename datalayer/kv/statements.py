"""The statements of a store in a table, built once: building one costs as much as running it on SQLite does."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ..contracts.store import MAX_KEY_BYTES
from ..tiers.upsert import upsert

#: The dialects whose INSERT ... ON CONFLICT is known.
UPSERTING = ("postgresql", "sqlite")
PAGE = 500


def store_table(name: str, metadata: sa.MetaData) -> sa.Table:
    """The table of a store: ``key``, ``value``, ``ends_at`` (seconds since 1970, or NULL) and ``stamp``."""
    small = mysql.VARBINARY(MAX_KEY_BYTES)
    large = mysql.LONGBLOB()
    return sa.Table(
        name,
        metadata,
        sa.Column("key", sa.LargeBinary().with_variant(small, "mysql", "mariadb"), primary_key=True),
        sa.Column("value", sa.LargeBinary().with_variant(large, "mysql", "mariadb"), nullable=False),
        sa.Column("ends_at", sa.Double()),
        sa.Column("stamp", sa.BigInteger(), nullable=False),
    )


class Statements:
    """What is asked of one table. Parameters: ``k``, ``now``, and for what writes a row its columns."""

    def __init__(self, table: sa.Table, dialect: str) -> None:
        self.table = table
        self._columns = columns = table.c
        now: Any = sa.bindparam("now", type_=sa.Double())
        self._there = sa.or_(columns.ends_at.is_(None), columns.ends_at > now)
        this = columns.key == sa.bindparam("k", type_=columns.key.type)
        self.value = sa.select(columns.value).where(this, self._there)
        self.exists = sa.select(sa.literal(1)).select_from(table).where(this, self._there)
        self.ends_at = sa.select(columns.ends_at).where(this, self._there)
        self.stamp = sa.select(columns.stamp).where(this, self._there)
        self.seen = sa.select(columns.stamp, columns.value).where(this, self._there)
        self.delete = sa.delete(table).where(this, self._there)
        self.sweep = sa.delete(table).where(this, columns.ends_at <= now)
        self.sweep_all = sa.delete(table).where(columns.ends_at <= now)
        self.forget = sa.delete(table).where(this)
        self.insert = sa.insert(table)
        self.update = sa.update(table).where(this)
        self.upsert: Any = upsert(dialect, table, columns.keys()) if dialect in UPSERTING else None

    def page(self, prefix: bytes, after: bytes | None, *names: str) -> Any:
        """A page of the rows under a prefix, in order of their keys."""
        key = self._columns.key
        picked = sa.select(key, *(self._columns[name] for name in names)).where(self._there).order_by(key).limit(PAGE)
        if prefix:
            picked = picked.where(key >= prefix)
        if end := _end(prefix):
            picked = picked.where(key < end)
        return picked if after is None else picked.where(key > after)


def _end(prefix: bytes) -> bytes:
    """The first key after all that begin with the prefix; empty if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""

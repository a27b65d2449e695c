"""What a model needs to be written behind: a column that fences late flushes, and nothing that only the database knows.

The column holds the sequence number of the write that the row came from, so that of two flushers the one with the older
write loses, whenever it comes. It is added to the table but not mapped: no instance has it and no SELECT of the ORM
mentions it. ``layer.migrate()`` adds it to existing tables (NOT NULL DEFAULT 0, which rewrites nothing).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper

from .columns import column_flags
from .policy import CachePolicy, WriteMode, policy_of

SEQUENCE_COLUMN = "_wb_seq"

_lock = threading.Lock()


def write_mode_of(mapper: Mapper[Any], default: str) -> WriteMode:
    """The mode of a model: its own, or the layer's default where the model can be written that way."""
    own = policy_of(mapper.class_).write_mode
    if own is not None:
        return WriteMode(own)
    mode = WriteMode(default)
    return WriteMode.THROUGH if mode is WriteMode.BEHIND and tuple(behind_problems(mapper)) else mode


def behind_problems(mapper: Mapper[Any]) -> Iterator[str]:
    """Why rows of this model cannot be written behind."""
    policy: CachePolicy = policy_of(mapper.class_)
    if not isinstance(mapper.local_table, sa.Table) or len(mapper.tables) != 1:
        yield "it is not mapped to exactly one table"
        return
    if mapper.inherits is not None or mapper.polymorphic_on is not None:
        yield "it is part of an inheritance hierarchy"
    if mapper.version_id_col is not None:
        yield "it has a version column, which only the database can check"
    if not policy.enabled:
        yield "its CachePolicy says enabled=False, so nobody could read what is queued"
    if policy.cache_scope is not None:
        yield "it has a cache_scope, and a queued row belongs to no scope"
    for prop in mapper.column_attrs:
        for column in prop.columns:
            if isinstance(column, sa.Column) and column_flags(column).omit_cache:
                yield f"column {column.name} is omit_cache, and whole rows wait outside of the database"


def add_sequence_column(table: sa.Table) -> None:
    """Give a table the column, once."""
    with _lock:
        if SEQUENCE_COLUMN not in table.c:
            table.append_column(sa.Column(SEQUENCE_COLUMN, sa.BigInteger, nullable=False, server_default=sa.text("0")))

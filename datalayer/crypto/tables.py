"""Which columns of a table are encrypted: noted on the table when its columns become part of it.

The note says names only, because tables are copied (by Alembic, by ``to_metadata``) and a copy's columns are its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.schema import conv

from .column import BlindIndex, EncryptedText
from .keyring import Place

SEALED = "datalayer_sealed"
_PAIRED = "datalayer_bidx"


class SealedColumn(NamedTuple):
    """An encrypted column of a table, by column keys. ``blind`` has its digests, if there are any."""

    key: str
    blind: str | None
    by_row: bool


def sealed_columns(table: Any) -> tuple[SealedColumn, ...]:
    """The encrypted columns of a table; a dict look-up."""
    info = getattr(table, "info", None)
    return info.get(SEALED, ()) if info else ()


def seal_column(column: sa.Column[Any], *, by_row: bool, blind: bool, unique: bool) -> None:
    """Make a column of a table an encrypted one, and give it its blind index column. Idempotent."""
    table = column.table
    place = Place(table.fullname, column.name)
    blind_name = f"{column.name}_bidx" if blind else None
    column.type = EncryptedText(*place, blind_name, by_row, _longest(column.type))
    column.__dict__.pop("comparator", None)
    others = [item for item in sealed_columns(table) if item.key != column.key]
    table.info[SEALED] = (*others, SealedColumn(column.key, blind_name, by_row))
    # A copy of a column that has its blind index already: the copy of that one comes by itself.
    if blind_name is not None and not column.info.get(_PAIRED) and blind_name not in table.c:
        column.info[_PAIRED] = True
        _add_blind(table, place, blind_name, unique)


def reseal_blind(column: sa.Column[Any]) -> None:
    """A blind index column came into another table by copying: its digests are that table's."""
    kind = column.type
    if isinstance(kind, BlindIndex) and kind.table != column.table.fullname:
        column.type = BlindIndex(column.table.fullname, kind.column)


def _add_blind(table: sa.Table, place: Place, name: str, unique: bool) -> None:
    blind: sa.Column[Any] = sa.Column(name, BlindIndex(*place), nullable=True)
    table.append_column(blind)
    prefix = "ux" if unique else "ix"
    sa.Index(conv(f"{prefix}_{table.name}_{name}"), blind, unique=unique)


def _longest(kind: Any) -> int | None:
    if isinstance(kind, EncryptedText):
        return kind.longest
    length = getattr(kind, "length", None)
    return length if isinstance(length, int) else None


def blind_columns(selectable: Any) -> list[sa.Column[Any]]:
    """The blind index columns of a table or join."""
    return [column for column in getattr(selectable, "c", ()) if isinstance(column.type, BlindIndex)]

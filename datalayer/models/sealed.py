"""Makes flagged columns encrypted ones the moment they join a table, and rows of mapped classes open.

Importing this module is what makes ``column(encrypted=True)`` work: it listens to SQLAlchemy's columns and mappers.
The type is exchanged that late because an annotated column has none before its whole class was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapper

from ..crypto.column import EncryptedColumnError, EncryptedText, SealedValue
from ..crypto.rows import SealedRows, row_name
from ..crypto.tables import blind_columns, reseal_blind, seal_column, sealed_columns
from ..crypto.vault import Vault, slot_of
from ..errors import DecodeError
from .columns import is_text, said_of
from .schema import Schema

if TYPE_CHECKING:
    from .registry import Registry

_MEMO = "_datalayer_encrypted"


@event.listens_for(sa.Column, "after_parent_attach")
def _attached(column: Any, parent: Any) -> None:
    if not isinstance(parent, sa.Table):
        return
    reseal_blind(column)
    found = said_of(column)
    # Whatever is wrong with the flags is said, with its name, when the class is registered.
    if isinstance(found, dict) and found.get("encrypted") is True and is_text(column.type):
        by_row, blind, unique = (found.get(flag) is True for flag in ("bind_row", "blind_index", "blind_unique"))
        seal_column(column, by_row=by_row, blind=blind, unique=unique)


@event.listens_for(Mapper, "instrument_class")
def _mapped(mapper: Mapper[Any], cls: type[Any]) -> None:
    """Digests are no attributes: nothing in Python reads them, and they would be stale after every assignment."""
    table = mapper.local_table
    blind = blind_columns(table)
    if blind:
        mapper.exclude_properties = {*(mapper.exclude_properties or ()), *blind}
    if any(isinstance(c.type, EncryptedText) and c.type.by_row for c in getattr(table, "c", ())):
        event.listen(cls, "load", _open_loaded, propagate=True)
        event.listen(cls, "refresh", _open_refreshed, propagate=True)


def _open_refreshed(instance: Any, _context: Any, _names: Any) -> None:
    _open_loaded(instance, _context)


def _open_loaded(instance: Any, _context: Any) -> None:
    state: Any = sa.inspect(instance)
    values = state.dict
    for name, value in values.items():
        if type(value) is SealedValue:
            try:
                values[name] = value.open(row_name(state.key[1]))
            except DecodeError:
                for other in [n for n, v in values.items() if type(v) is SealedValue]:
                    del values[other]  # the object is of no use; what was asked for must not be taken for a value
                del values  # nor may a traceback show its other values
                raise


def row_sealing(schema: Schema, vault: Vault | None) -> SealedRows | None:
    """What encrypts rows of a shape for L2, journals and whatever else leaves the process; None for nothing.

    None for a model without encrypted columns, one whose policy says ``l2_plaintext``, and a layer without keys.
    """
    if vault is None or vault.keyring is None or schema.policy.l2_plaintext:
        return None
    ciphers = {
        i: (vault.cipher(c.type.place), c.type.by_row)
        for i, c in enumerate(schema.shared.columns)
        if isinstance(c.type, EncryptedText)
    }
    return SealedRows(ciphers, schema.shared_key_of) if ciphers else None


def encrypted_attributes(mapper: Mapper[Any]) -> Mapping[str, sa.Column[Any]]:
    """The attributes that hold secrets, and their columns. A dict look-up after the first time."""
    known: dict[str, sa.Column[Any]] | None = mapper.__dict__.get(_MEMO)
    if known is None:
        columns = {prop.key: prop.columns[0] for prop in mapper.column_attrs}
        known = {
            name: c for name, c in columns.items() if isinstance(c, sa.Column) and isinstance(c.type, EncryptedText)
        }
        mapper.__dict__[_MEMO] = known
    return known


def refuse_in_text(mapper: Mapper[Any], words: Sequence[str]) -> None:
    """QueryError for SQL that asks an encrypted column for more than whether it IS NULL.

    ``words`` are the names in the SQL. A comparison would find no row, and send readable text to the database.
    """
    columns = {column.name.lower(): column for column in encrypted_attributes(mapper).values()}
    for i, word in enumerate(words):
        column = columns.get(word.lower())
        after = [name.upper() for name in words[i + 1 : i + 4]]
        if column is not None and after[:2] != ["IS", "NULL"] and after != ["IS", "NOT", "NULL"]:
            kind: Any = column.type
            raise EncryptedColumnError(
                f"{kind.place} is encrypted: SQL text can ask whether its ciphertext IS NULL, and nothing else; "
                f"use where({mapper.class_.__name__}.{mapper.get_property_by_column(column).key} == ...)"
            )


def opened(dialect: sa.Dialect, kind: Any, text: str | None, key: Sequence[Any]) -> str | None:
    """The text of a stored value of an encrypted column, in the row with this primary key."""
    if text is None:
        return None
    vault = slot_of(dialect).opened(kind.place)
    return vault.cipher(kind.place).open(text, row_name(key) if kind.by_row else b"")


def sealed_names(table: sa.Table) -> list[str]:
    """The columns that hold ciphertext and digests, as the database calls them."""
    found = sealed_columns(table)
    keys = [key for column in found for key in (column.key, column.blind) if key is not None]
    return [table.c[key].name for key in keys]


def sealed_tables(registry: Registry) -> list[sa.Table]:
    """The tables of a layer's models that have encrypted columns, each once."""
    found: dict[str, sa.Table] = {}
    for cls in registry.classes():
        for table in registry.resolve(cls).tables:
            if isinstance(table, sa.Table) and sealed_columns(table):
                found[table.fullname] = table
    return list(found.values())

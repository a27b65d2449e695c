"""Values on their way to a journal or a dead letter: encrypted columns as ciphertext, the others as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import DecodeError, EncodeError
from .aead import SealError
from .column import EncryptedText
from .keyring import Place
from .rows import row_name
from .vault import Vault


class SealedValues:
    """Encrypts values by name; see :class:`datalayer.contracts.cipher.ValueSealing`. Thread-safe.

    ``columns`` says what the names mean. Costs two microseconds for each encrypted value, and one dict look-up for each
    encrypted column that is not among the values.
    """

    def __init__(self, columns: Mapping[str, sa.Column[Any]], vault: Vault) -> None:
        self._ciphers = [
            (name, vault.cipher(column.type.place), column.type.by_row)
            for name, column in columns.items()
            if isinstance(column.type, EncryptedText)
        ]
        self.names = frozenset(name for name, _, _ in self._ciphers)

    def seal(self, values: Mapping[str, Any], key: Sequence[Any] = ()) -> dict[str, Any]:
        """A copy with ciphertext under the active key. EncodeError for an encrypted value that is not text."""
        sealed = dict(values)
        try:
            for name, cipher, row in self._within(values, key):
                sealed[name] = cipher.seal(sealed[name], row)
        except EncodeError:
            sealed.clear()  # nor in a traceback that shows local variables
            del values
            raise
        return sealed

    def open(self, values: Mapping[str, Any], key: Sequence[Any] = ()) -> dict[str, Any]:
        """A copy with readable text. DecodeError naming table, column and key id, never a value; EncodeError without
        the key of a row that a value is bound to."""
        opened = dict(values)
        try:
            for name, cipher, row in self._within(values, key):
                opened[name] = cipher.open(opened[name], row)
        except (DecodeError, EncodeError):
            opened.clear()
            raise
        return opened

    def _within(self, values: Mapping[str, Any], key: Sequence[Any]) -> Iterator[tuple[str, Any, bytes]]:
        """The encrypted names that have a value, their ciphers, and the row where that is part of it."""
        for name, cipher, by_row in self._ciphers:
            if values.get(name) is not None:
                yield name, cipher, _row(cipher.place, key) if by_row else b""

    def __repr__(self) -> str:
        return f"<SealedValues {', '.join(sorted(self.names))}>"


def _row(place: Place, key: Sequence[Any]) -> bytes:
    if not key or None in key:
        raise SealError(f"{place} is bound to its row (bind='row'): give the row's primary key")
    return row_name(key)

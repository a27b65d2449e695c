"""Names of rows for ciphertext that is bound to its row, and whole rows encrypted for the tiers below L1."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..contracts.cipher import ColumnCipher
from ..errors import DecodeError
from .aead import SealError

#: Key types that are the same before they are written and after they are read.
ROW_KEY_TYPES = (int, str, uuid.UUID, bytes, dt.date)

_TEXT: dict[type, Callable[[Any], str]] = {
    int: lambda v: f"i{v}",
    str: lambda v: f"s{v}",
    uuid.UUID: lambda v: f"u{v.hex}",
    bytes: lambda v: f"b{v.hex()}",
    dt.date: lambda v: f"d{v.isoformat()}",
}


def row_name(key: Sequence[Any]) -> bytes:
    """The bytes that stand for a primary key, different for different keys.

    SealError for a value that is not exactly of a key's type: the database would read it back as another one.
    """
    parts = []
    for value in key:
        convert = _TEXT.get(type(value))
        if convert is None:
            raise SealError(
                f"a primary key value of type {type(value).__name__!r} cannot name the row of a ciphertext; "
                "expected exactly int, str, UUID, bytes or date"
            )
        text = convert(value).encode("utf-8", "surrogatepass")
        parts.append(b"%d:%b" % (len(text), text))
    return b"".join(parts)


class SealedRows:
    """Encrypts the values at some positions of rows of one shape; see :class:`datalayer.contracts.cipher.RowSealing`.

    ``ciphers``: position to cipher, and whether its ciphertext is bound to the row, which ``key_of`` finds in a row.
    """

    def __init__(
        self,
        ciphers: Mapping[int, tuple[ColumnCipher, bool]],
        key_of: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    ) -> None:
        self.positions = frozenset(ciphers)
        self._ciphers = [(at, cipher, by_row) for at, (cipher, by_row) in ciphers.items()]
        self._key_of = key_of
        self._by_row = any(by_row for _, _, by_row in self._ciphers)

    def seal(self, row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        name = row_name(self._key_of(tuple(row))) if self._by_row else b""
        for at, cipher, by_row in self._ciphers:
            if values[at] is not None:
                values[at] = cipher.seal(values[at], name if by_row else b"")
        return values

    def open(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        name = row_name(self._key_of(row)) if self._by_row else b""
        try:
            for at, cipher, by_row in self._ciphers:
                if values[at] is not None:
                    values[at] = cipher.open(values[at], name if by_row else b"")
        except DecodeError:
            values.clear()  # what was opened before must not show in a traceback
            raise
        return tuple(values)

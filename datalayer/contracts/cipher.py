"""What turns secrets into ciphertext and back: the contracts of key providers, column ciphers and sealed rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class KeyProvider(Protocol):
    """Where keys come from. ``load`` is called once, when the settings are made.

    It returns ``{key id: 32 bytes}`` with the active key first, or the same as text (``k2:base64,k1:base64``). Raises
    ConfigError, without a byte of any key, when there are none to be had.
    """

    def load(self) -> Mapping[str, bytes] | str: ...


class KeyUnwrapper(Protocol):
    """A key management service: decrypts data keys that it has encrypted. Credentials and retries are its business."""

    def unwrap(self, key_id: str, wrapped: bytes) -> bytes: ...


class ColumnCipher(Protocol):
    """Encrypts the texts of one column. Thread-safe.

    ``row`` names the row for columns that are bound to it and is empty for others. ``open`` raises DecodeError, naming
    table, column and key id, for every text that ``seal`` of the same column, row and keys has not made.
    """

    def seal(self, text: str, row: bytes = b"") -> str: ...

    def open(self, text: str, row: bytes = b"") -> str: ...


class RowSealing(Protocol):
    """Encrypts some values of a row of one shape, at ``positions``. Thread-safe."""

    positions: frozenset[int]

    def seal(self, row: Sequence[Any]) -> Sequence[Any]: ...

    def open(self, row: tuple[Any, ...]) -> tuple[Any, ...]: ...

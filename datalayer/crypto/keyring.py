"""One active key and older ones, from which each column gets a key of its own.

A column's key is HKDF-SHA256 (RFC 5869, no salt) of the ring's key with an ``info`` that names the format, the purpose,
the table and the column. A ciphertext or a digest of one column therefore says nothing about another's, and AES-GCM's
limit of about 2**32 random nonces a key holds for each column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from ..errors import ConfigError
from .primitives import hkdf

FORMAT = "dl1"
KEY_BYTES = 32

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Place(NamedTuple):
    """The column that a key, a ciphertext or a digest belongs to. ``table`` with its schema, as the model has it."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


class Keyring:
    """Keys by id, the first of them active. Immutable, thread-safe; its ``repr`` shows ids only."""

    __slots__ = ("_keys", "active", "ids")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigError("a key ring needs one key at least: {key id: 32 bytes}, active key first")
        for key_id, key in keys.items():
            _check(key_id, key)
        self._keys = {key_id: bytes(key) for key_id, key in keys.items()}
        self.ids = tuple(self._keys)
        self.active = self.ids[0]

    def subkey(self, key_id: str, purpose: str, place: Place) -> bytes:
        """The 32 bytes of a column for one purpose (``"aead"``, ``"blind"``). KeyError for an unknown id."""
        info = "\0".join((f"datalayer {FORMAT} {purpose}", place.table, place.column)).encode()
        return hkdf(self._keys[key_id], info, KEY_BYTES)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyring) and list(other._keys.items()) == list(self._keys.items())

    def __hash__(self) -> int:
        return hash(self.ids)

    def __repr__(self) -> str:
        return f"<Keyring active={self.active!r} older={list(self.ids[1:])!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key ring is not pickled: its keys would lie in a file or on a wire")


def is_key_id(text: object) -> bool:
    """Whether a text may name a key; what is not one may be a secret in the wrong place, and is never shown."""
    return isinstance(text, str) and _KEY_ID.fullmatch(text) is not None


def _check(key_id: object, key: object) -> None:
    if not is_key_id(key_id):
        raise ConfigError("a key id does not fit, expected 1 to 64 letters, digits, '-' or '_'")
    if not isinstance(key, bytes | bytearray):
        raise ConfigError(f"key {key_id!r} is a {type(key).__name__}, expected {KEY_BYTES} bytes")
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"key {key_id!r} has {len(key)} bytes, expected {KEY_BYTES}; `openssl rand -base64 32` makes a key"
        )

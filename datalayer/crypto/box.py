"""Bytes sealed for one place: AES-256-GCM under a ring of keys, bound to where the bytes lie.

Layout of format 1: ``0x01`` · length of key id (1) · key id · nonce (12) · ciphertext and tag (NIST SP 800-38D, 128-bit
tag). The context is authenticated and not stored, so sealed bytes that were moved to another place do not open. Nonces
are random: rotate a key before it has sealed 2**32 values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import ConfigError, DecodeError
from .keyring import is_key_id
from .primitives import aesgcm, forged

_FORMAT = 1
_NONCE = 12


class Box:
    """Seals and opens bytes. Thread-safe. ``keys`` is ``{key id: 32 bytes}``; the first one seals, all of them open."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys or any(len(key) != 32 or not 1 <= len(name) <= 64 for name, key in keys.items()):
            raise ConfigError("keys: expected {key id: 32 bytes}, at least one, ids of 1 to 64 letters")
        self._keys = {name.encode("ascii"): aesgcm(bytes(key)) for name, key in keys.items()}
        self._active, self._cipher = next(iter(self._keys.items()))
        self._head = bytes((_FORMAT, len(self._active))) + self._active

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """The sealed bytes: 30 more than ``plain``, and the key id."""
        nonce = os.urandom(_NONCE)
        return self._head + nonce + self._cipher.encrypt(nonce, plain, self._head + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed for this context; DecodeError for everything else, never a guess."""
        start = 2 + sealed[1] if len(sealed) > 1 else 0
        if not start or sealed[0] != _FORMAT or len(sealed) < start + _NONCE:
            raise DecodeError("bytes are not sealed in a format that is known here")
        name = sealed[2:start]
        cipher = self._keys.get(name)
        if cipher is None:
            raise DecodeError(
                f"bytes are sealed with {_shown(name)}; this ring has {', '.join(map(_shown, self._keys))}"
            )
        nonce, body = sealed[start : start + _NONCE], sealed[start + _NONCE :]
        try:
            return cipher.decrypt(nonce, body, sealed[:start] + context)
        except forged():
            raise DecodeError(
                f"bytes sealed with {_shown(name)} were changed, moved, or sealed by another key"
            ) from None

    def __repr__(self) -> str:
        return f"<Box: {', '.join(name.decode() for name in self._keys)}>"


def _shown(name: bytes) -> str:
    """A key id in words; what cannot be one may be a part of a readable value, and is not shown."""
    text = name.decode("ascii", "replace")
    return f"key {text!r}" if is_key_id(text) else "a key whose id does not fit"

"""Digests that find an encrypted text without reading it: ``<key id>.<base64url of 16 bytes>`` beside each value.

HMAC-SHA256 of the text under a key of the column's own, cut to 128 bits. Equal texts of one column have equal digests
under one key, which is what makes look-ups and uniqueness possible, and is all that somebody with the table alone
learns. A short or guessable text (a yes or no, a country) should have no blind index: its rows fall into a few groups.
"""

from __future__ import annotations

import binascii
import hmac
from typing import NoReturn

from .aead import TO_URL, SealError
from .keyring import Keyring, Place

DIGEST_BYTES = 16


class Digests:
    """The digests of one column, under each key of the ring. Thread-safe; about two microseconds each.

    ``accepts_plain``: rows that were stored readable have the text itself in the place of a digest.
    """

    __slots__ = ("_accepts_plain", "_keys", "place")

    def __init__(self, keyring: Keyring, place: Place, *, accepts_plain: bool = False) -> None:
        self.place = place
        self._accepts_plain = accepts_plain
        self._keys = [(key_id, _Secret(keyring.subkey(key_id, "blind", place))) for key_id in keyring.ids]

    def current(self, text: str) -> str:
        """The digest that is stored now, under the active key."""
        return self._digest(*self._keys[0], text)

    def every(self, text: str) -> list[str]:
        """The digests that a row with this text may have: while keys are being rotated, one of several."""
        return [self.current(text), *self.older(text)]

    def older(self, text: str) -> list[str]:
        """The digests that a row with this text may still have from before the active key."""
        older = [self._digest(key_id, key, text) for key_id, key in self._keys[1:]]
        return [*older, text] if self._accepts_plain else older

    def _digest(self, key_id: str, key: _Secret, text: str) -> str:
        if not isinstance(text, str):
            kind = type(text).__name__
            del text
            raise SealError(f"{self.place} is encrypted and compared with text, found a value of type {kind!r}")
        digest = hmac.digest(key.value, text.encode("utf-8", "surrogatepass"), "sha256")[:DIGEST_BYTES]
        return f"{key_id}.{binascii.b2a_base64(digest, newline=False).rstrip(b'=').translate(TO_URL).decode('ascii')}"

    def __repr__(self) -> str:
        return f"<Digests {self.place}>"


class _Secret:
    """A key that no repr of a local variable shows."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: it would lie in a file or on a wire")


class ReadableDigests:
    """Stands in for digests where encrypted columns are stored readable: the text itself is what is compared."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def current(self, text: str) -> str:
        return text

    def every(self, text: str) -> list[str]:
        return [text]

    def older(self, text: str) -> list[str]:
        return []

"""Texts of one column as ciphertext: ``dl1.<key id>.<base64url(nonce || ciphertext || tag)>``, without padding.

AES-256-GCM with a random nonce of 96 bits and a tag of 128 (NIST SP 800-38D). What is authenticated beside the text is
``table.column``, and for columns that are bound to their row a zero byte and the row's key: ciphertext that was moved
to another column, table or row does not decrypt.

Texts travel as UTF-8 in which lone surrogates are let through, so that every ``str`` comes back as it was. Nothing here
puts a value or a key into a message, and what raises has let go of them, so that no traceback shows them either.
"""

from __future__ import annotations

import binascii
import os
import re

from sqlalchemy.exc import DontWrapMixin

from ..errors import DecodeError, EncodeError
from .keyring import FORMAT, Keyring, Place, is_key_id
from .primitives import aesgcm, forged

NONCE_BYTES = 12
TAG_BYTES = 16

TO_URL = bytes.maketrans(b"+/", b"-_")
# '+', '/' and '=' become something that is not base64: they belong to another spelling than ours.
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
_LOOKS = re.compile(rf"{FORMAT}\.[A-Za-z0-9_-]{{1,64}}\.[A-Za-z0-9_-]{{38,}}")


class SealError(EncodeError, DontWrapMixin):
    """A value cannot be encrypted. Comes through SQLAlchemy as it is: its wrapper would carry the parameters along."""


class Aead:
    """The cipher of one column; see :class:`datalayer.contracts.cipher.ColumnCipher`. Thread-safe.

    Sealing costs about two microseconds and 40 bytes and a third of the text; opening about as much.
    ``accepts_plain``: a stored text that is no ciphertext is returned as it is, for tables that are being encrypted.
    """

    __slots__ = ("_aad", "_accepts_plain", "_active", "_ciphers", "_forged", "_prefix", "place")

    def __init__(self, keyring: Keyring, place: Place, *, accepts_plain: bool = False) -> None:
        self.place = place
        self._aad = str(place).encode()
        self._ciphers = {key_id: aesgcm(keyring.subkey(key_id, "aead", place)) for key_id in keyring.ids}
        self._forged = forged()
        self._active = self._ciphers[keyring.active]
        self._prefix = prefix_of(keyring.active)
        self._accepts_plain = accepts_plain

    def seal(self, text: str, row: bytes = b"") -> str:
        """Ciphertext under the active key. SealError for anything but text."""
        if not isinstance(text, str):
            kind = type(text).__name__
            del text
            raise SealError(f"{self.place} is encrypted and takes text, found a value of type {kind!r}")
        nonce = os.urandom(NONCE_BYTES)
        aad = self._aad + b"\0" + row if row else self._aad
        sealed = nonce + self._active.encrypt(nonce, text.encode("utf-8", "surrogatepass"), aad)
        return self._prefix + binascii.b2a_base64(sealed, newline=False).rstrip(b"=").translate(TO_URL).decode("ascii")

    def open(self, text: str, row: bytes = b"") -> str:
        """The text of a ciphertext under any key of the ring. DecodeError naming the place and the key id."""
        try:
            version, key_id, body = text.split(".", 2)
            cipher = self._ciphers[key_id]
            sealed = _decoded(body)
            if version == FORMAT:
                aad = self._aad + b"\0" + row if row else self._aad
                plain = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
                return plain.decode("utf-8", "surrogatepass")
        except (ValueError, KeyError, AttributeError, self._forged):
            pass
        if self._accepts_plain and isinstance(text, str) and not looks_sealed(text):
            return text
        raise self._refusal(text, bool(row))

    def _refusal(self, text: object, by_row: bool) -> DecodeError:
        key_id = key_id_of(text)
        if key_id is None:
            return DecodeError(
                f"{self.place} is encrypted, but a stored value is no {FORMAT} ciphertext; "
                "if the table held readable text before, allow_plaintext=True reads it until rotate() has encrypted it"
            )
        if key_id not in self._ciphers:
            known = ", ".join(map(repr, self._ciphers))
            return DecodeError(
                f"{self.place}: a value is encrypted with key {key_id!r}, which is not in the key ring ({known}); "
                "add that key to encryption_keys, after the active one"
            )
        moved = "another row, column or table" if by_row else "another column or table"
        return DecodeError(
            f"{self.place}: a value under key {key_id!r} does not decrypt; it was changed, moved here from {moved}, "
            "or encrypted with another key of the same id"
        )

    def __repr__(self) -> str:
        return f"<Aead {self.place}>"


class Readable:
    """Stands in for a cipher where a layer without keys was told to store encrypted columns readable."""

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def seal(self, text: str, row: bytes = b"") -> str:
        """The text as it is. SealError for one that would be taken for ciphertext when it is read."""
        if isinstance(text, str) and looks_sealed(text):
            del text
            raise SealError(f"{self.place}: a text that looks like {FORMAT} ciphertext cannot be stored readable")
        return text

    def open(self, text: str, row: bytes = b"") -> str:
        """The text as it is; DecodeError for ciphertext, which a layer without keys must not hand out as a value."""
        key_id = key_id_of(text)
        if key_id is not None:
            raise DecodeError(
                f"{self.place}: a value is encrypted with key {key_id!r}, but no key is configured; "
                "give the layer its encryption_keys"
            )
        return text


def prefix_of(key_id: str) -> str:
    """What every ciphertext under a key begins with."""
    return f"{FORMAT}.{key_id}."


def looks_sealed(text: str) -> bool:
    return text.startswith(FORMAT + ".") and _LOOKS.fullmatch(text) is not None


def key_id_of(text: object) -> str | None:
    """The key id of a ciphertext, None for every other text: a part of a readable value must not be shown as one."""
    if not isinstance(text, str) or not looks_sealed(text):
        return None
    key_id = text.split(".", 2)[1]
    return key_id if is_key_id(key_id) else None


def _decoded(body: str) -> bytes:
    data = body.encode("ascii").translate(_FROM_URL)
    sealed = binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise ValueError("too short")
    return sealed

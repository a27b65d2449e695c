"""``Encrypted``: a provider that sees ciphertext only."""

from __future__ import annotations

from collections.abc import Mapping

from ..config.secret import key_ring
from ..contracts.provider import Provider
from ..crypto.box import Box
from ..errors import DecodeError
from .checks import check_key, check_value
from .wrapper import Wrapper


class Encrypted(Wrapper):
    """Seals each value with AES-256-GCM for its key, so that a changed, exchanged or foreign value raises DecodeError.

    ``keys`` is ``{key id: 32 bytes}``: the first one encrypts, the others are there for reading. Keys of values, their
    number, sizes and lives stay visible. Put :class:`~datalayer.tables.Compressed` around it, not inside.
    """

    def __init__(self, inner: Provider, *, keys: Mapping[str, bytes]) -> None:
        super().__init__(inner)
        self._box = Box(key_ring(keys, name="keys", size=32))

    def _out(self, key: str, value: bytes) -> bytes:
        return self._box.seal(check_value(value, key), check_key(key).encode())

    def _in(self, key: str, stored: bytes) -> bytes:
        try:
            return self._box.open(stored, key.encode())
        except DecodeError as error:
            raise DecodeError(f"the value under key {key!r}: {error}") from error

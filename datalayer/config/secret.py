"""Keys that can be used and compared, but not printed by accident."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping

from ..errors import ConfigError

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SecretBytes(bytes):
    """Bytes whose ``repr``, ``str`` and formatting say only that they are there."""

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)


class KeyRing(Mapping[str, bytes]):
    """An immutable ordered mapping of key id to key; the first one is active. Its ``repr`` shows ids only."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        self._keys = {name: SecretBytes(key) for name, key in (keys or {}).items()}

    def __getitem__(self, name: str) -> bytes:
        return self._keys[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        # Two rings with another order have another active key.
        return list(self.items()) == list(other.items()) if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._keys.items()))

    def __repr__(self) -> str:
        count = f"{len(self)} key{'' if len(self) == 1 else 's'}"
        return f"<{count}: {', '.join(self)}>" if self else "<no keys>"


def key_ring(value: object, *, name: str, size: int) -> KeyRing:
    """A ring of keys of exactly ``size`` bytes from ``{id: bytes}``; ConfigError without any byte of them."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name}: found a {type(value).__name__}, expected {{key id: {size} bytes}}, active key first"
        )
    return KeyRing(
        {_key_id(found, name): key_bytes(key, name=f"{name}[{found!r}]", size=size) for found, key in value.items()}
    )


def key_bytes(key: object, *, name: str, size: int, longer: bool = False) -> SecretBytes:
    """The key, if it has ``size`` bytes (``longer``: or more); ConfigError without any byte of it otherwise."""
    expected = f"{size} bytes{' or more' if longer else ''}"
    if not isinstance(key, bytes | bytearray):
        raise ConfigError(f"{name}: found a {type(key).__name__}, expected {expected}")
    if len(key) < size or (len(key) > size and not longer):
        raise ConfigError(f"{name}: found {len(key)} bytes, expected {expected}; `openssl rand -base64 32` makes a key")
    return SecretBytes(key)


def ring_from_text(text: str, *, name: str) -> dict[str, bytes]:
    """``k2:base64,k1:base64`` as a dict, active key first. ConfigError that quotes ids only."""
    ring: dict[str, bytes] = {}
    for number, item in enumerate(text.split(","), start=1):
        identity, colon, encoded = item.strip().partition(":")
        if not colon:
            raise ConfigError(
                f"{name}: key number {number} has no id, expected 'k2:base64,k1:base64', active key first"
            )
        if _key_id(identity, name) in ring:
            raise ConfigError(f"{name}: key id {identity!r} is given twice, expected each id once")
        ring[identity] = from_base64(encoded, name=f"{name}[{identity!r}]")
    return ring


def from_base64(text: str, *, name: str) -> bytes:
    """The bytes of base64 text, in the standard or the URL alphabet, padded or not. ConfigError that quotes nothing."""
    plain = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        # Not chained: a traceback must not lead anybody to the text.
        raise ConfigError(f"{name}: found text that is not base64, expected a key in base64") from None


def _key_id(found: object, name: str) -> str:
    if isinstance(found, str) and _KEY_ID.fullmatch(found):
        return found
    # Its text stays out: whoever forgets the id puts the key in its place.
    raise ConfigError(f"{name}: found a key id that does not fit, expected 1 to 64 letters, digits, '-' or '_'")

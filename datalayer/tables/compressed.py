"""``Compressed``: a provider that holds smaller values."""

from __future__ import annotations

import zlib

from ..contracts.provider import Provider
from ..errors import ConfigError, DecodeError, EncodeError
from .checks import check_key, check_value
from .wrapper import Wrapper

_RAW, _DEFLATED = b"\x00", b"\x01"


class Compressed(Wrapper):
    """Deflates (zlib ``level`` 1 to 9) each value of ``min_bytes`` or more that gets smaller by it.

    One byte before each value says whether it is deflated. ``max_bytes`` bounds a value in both directions, whatever
    the stored bytes claim: EncodeError when one is written, DecodeError when one is read.
    """

    def __init__(self, inner: Provider, *, level: int = 6, min_bytes: int = 256, max_bytes: int = 1 << 26) -> None:
        super().__init__(inner)
        if not 1 <= level <= 9:
            raise ConfigError(f"level is {level!r}; expected 1 (fast) to 9 (small)")
        self._level, self._min, self._max = level, min_bytes, max_bytes

    def _out(self, key: str, value: bytes) -> bytes:
        size = len(check_value(value, check_key(key)))
        if size > self._max:
            raise EncodeError(f"the value for key {key!r} has {size} bytes; max_bytes allows {self._max}")
        if size >= self._min:
            deflated = zlib.compress(value, self._level)
            if len(deflated) < size:
                return _DEFLATED + deflated
        return _RAW + value

    def _in(self, key: str, stored: bytes) -> bytes:
        kind, body = stored[:1], stored[1:]
        if kind == _RAW:
            return body
        if kind != _DEFLATED:
            raise DecodeError(f"the value under key {key!r} was not written by a Compressed provider")
        return self._inflated(key, body)

    def _inflated(self, key: str, body: bytes) -> bytes:
        inflater = zlib.decompressobj()
        try:
            value = inflater.decompress(body, self._max + 1)
        except zlib.error as error:
            raise DecodeError(f"the compressed value under key {key!r} is damaged") from error
        if len(value) > self._max or not inflater.eof or inflater.unused_data:
            raise DecodeError(f"the compressed value under key {key!r} is too large, cut short, or followed by others")
        return value

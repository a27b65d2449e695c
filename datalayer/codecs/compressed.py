"""Compression around another codec, with a bound on what decompression may produce."""

from __future__ import annotations

import zlib
from typing import Any

from ..contracts.codec import Codec
from ..errors import DecodeError, EncodeError


class CompressedCodec:
    """Another codec's bytes, deflated. Thread-safe. ``max_bytes`` bounds the inflated size, whatever the data claim."""

    def __init__(self, inner: Codec, *, level: int = 6, max_bytes: int = 1 << 22) -> None:
        self.name = f"{inner.name}+deflate"
        self._inner = inner
        self._level = level
        self._max = max_bytes

    def encode(self, values: Any) -> bytes:
        data = self._inner.encode(values)
        if len(data) > self._max:
            raise EncodeError(f"a value has {len(data)} bytes before compression; at most {self._max} are allowed")
        return zlib.compress(data, self._level)

    def decode(self, data: bytes | memoryview) -> Any:
        inflater = zlib.decompressobj()
        try:
            inflated = inflater.decompress(bytes(data), self._max + 1)
        except zlib.error as error:
            raise DecodeError("compressed bytes are damaged") from error
        if len(inflated) > self._max or not inflater.eof or inflater.unused_data:
            raise DecodeError("compressed bytes are too large, cut short, or followed by others")
        return self._inner.decode(inflated)

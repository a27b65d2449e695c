"""The default codec: MessagePack."""

from __future__ import annotations

from typing import Any

from . import exact


class MsgpackCodec:
    """Values as MessagePack with exact extension types. Thread-safe."""

    name = "msgpack"

    def encode(self, values: Any) -> bytes:
        return exact.pack(values)

    def decode(self, data: bytes | memoryview) -> Any:
        return exact.unpack(data)

    def __repr__(self) -> str:
        return "MsgpackCodec()"

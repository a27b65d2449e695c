"""How a row becomes bytes: the contract of a codec, and of the compiled row encoder made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a row shape.

    ``kind`` is a stable type tag (``"int"``, ``"str"``, ``"float"``, ``"bool"``, ``"bytes"``, ``"datetime"``,
    ``"date"``, ``"time"``, ``"timedelta"``, ``"decimal"``, ``"uuid"``, ``"enum"``, ``"json"``, ``"any"``, and
    ``"sealed"`` for text that travels as ciphertext);
    ``python_type`` is needed for enums only (the Enum class) and is None elsewhere.
    """

    name: str
    kind: str
    nullable: bool = True
    python_type: Any = None


class Codec(Protocol):
    """Turns a list of plain values into bytes and back. Thread-safe; never executes what it reads.

    ``encode`` raises :class:`~datalayer.errors.EncodeError`; ``decode`` raises
    :class:`~datalayer.errors.DecodeError` for every input that ``encode`` cannot have made, and nothing else.
    """

    name: str

    def encode(self, values: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...


class RowCodec(Protocol):
    """A codec compiled for one row shape. Thread-safe.

    ``fingerprint`` is 8 bytes that depend on the names, order, kinds and nullability of the fields.
    A round trip is exact: equal value, same type, same zone.
    """

    fingerprint: bytes
    fields: Sequence[Field]

    def encode(self, row: Sequence[Any]) -> bytes: ...

    def decode(self, body: bytes) -> tuple[Any, ...]: ...

"""What lies under one key of the shared tier: a row in one or several shapes, in a frame that can be checked.

Layout of format 1, integers big-endian::

    magic "D" · format · flags · number of sections · sections · [MAC of 16 bytes]
    section: fingerprint (8) · length of shape (2) · length of body (4) · shape · body

Flag 1 says that a MAC follows: BLAKE2b keyed with the layer's secret, over the context (the key that the value lies
under) and everything before it, so that neither a changed nor a moved entry is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ConfigError, DecodeError, EncodeError

FORMAT = 1
MOST_SECTIONS = 4

_MAGIC = b"D"
_SIGNED = 1
_MAC_SIZE = 16
_HEAD = struct.Struct(">cBBB")
_SECTION = struct.Struct(">8sHI")
_FIRST = _HEAD.size + _SECTION.size
_BODY_SIZE = slice(_FIRST - 4, _FIRST)


class Section(NamedTuple):
    """A row in one shape: the shape's fingerprint and description, and the encoded row."""

    fingerprint: bytes
    shape: bytes
    body: bytes


class EntryError(DecodeError):
    """An entry that cannot be read; ``reason`` is ``format``, ``truncated``, ``oversized`` or ``mac``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a cache entry cannot be read: {reason}")
        self.reason = reason


class OversizedError(EncodeError):
    """An entry that is larger than entries may be."""

    reason = "oversized"


class EntryCodec:
    """Frames and checks entries. Thread-safe. ``max_bytes`` bounds an entry in both directions."""

    def __init__(self, mac_key: bytes | None = None, max_bytes: int = 1 << 20) -> None:
        if mac_key is not None and not 16 <= len(mac_key) <= 64:
            raise ConfigError(f"l2_mac_key has {len(mac_key)} bytes; expected 16 to 64")
        self._key = mac_key
        self._max = max_bytes
        self._start = _HEAD.pack(_MAGIC, FORMAT, _SIGNED if mac_key else 0, 0)[:3]

    def pack(self, sections: Sequence[Section], context: bytes) -> bytes:
        """An entry of these sections; OversizedError when it is larger than ``max_bytes``."""
        parts = [self._start, bytes((len(sections),))]
        for fingerprint, shape, body in sections:
            if len(shape) > 0xFFFF:
                raise OversizedError(f"a row has too many columns to describe ({len(shape)} bytes)")
            parts += (_SECTION.pack(fingerprint, len(shape), len(body)), shape, body)
        data = b"".join(parts)
        if self._key is not None:
            data += self._mac(data, context)
        if len(data) > self._max:
            raise OversizedError(f"a value has {len(data)} bytes; max_value_bytes allows {self._max}")
        return data

    def unpack(self, data: bytes, context: bytes) -> tuple[Section, ...]:
        """The sections of an entry; EntryError for anything that :meth:`pack` cannot have made."""
        end = self._checked(data, context)
        sections, at = [], _HEAD.size
        for _ in range(data[3]):
            if at + _SECTION.size > end:
                raise EntryError("truncated")
            fingerprint, shape_size, body_size = _SECTION.unpack_from(data, at)
            at += _SECTION.size
            if at + shape_size + body_size > end:
                raise EntryError("truncated")
            sections.append(
                Section(fingerprint, data[at : at + shape_size], data[at + shape_size : at + shape_size + body_size])
            )
            at += shape_size + body_size
        if at != end:
            raise EntryError("format")
        return tuple(sections)

    def body(self, data: bytes, start: bytes, shape_size: int) -> bytes | None:
        """The body of an entry that begins with ``start``, by the fewest steps; None for any other entry."""
        at = _FIRST + shape_size
        if data.startswith(start) and int.from_bytes(data[_BODY_SIZE], "big") == len(data) - at and at <= self._max:
            return data[at:]
        return None

    def find(self, data: bytes, context: bytes, fingerprint: bytes) -> bytes | None:
        """The body of the section with this fingerprint, or None. The first section is found without a loop."""
        end = self._checked(data, context)
        if data[3] == 1 and data[4:12] == fingerprint and end >= _FIRST:
            _, shape_size, body_size = _SECTION.unpack_from(data, _HEAD.size)
            if _FIRST + shape_size + body_size != end:
                raise EntryError("truncated")
            return data[_FIRST + shape_size : end]
        return next((s.body for s in self.unpack(data, context) if s.fingerprint == fingerprint), None)

    @property
    def signed(self) -> bool:
        """Whether entries carry a MAC, which depends on the context."""
        return self._key is not None

    def start(self, fingerprint: bytes, shape: bytes) -> bytes:
        """What an entry of just one section of this shape begins with, when entries are not signed."""
        return self._start + b"\x01" + fingerprint + len(shape).to_bytes(2, "big")

    def add(self, data: bytes, context: bytes, section: Section) -> bytes:
        """The entry with one more section, before the others; it replaces the one with its fingerprint."""
        others = [s for s in self.unpack(data, context) if s.fingerprint != section.fingerprint]
        return self.pack([section, *others][:MOST_SECTIONS], context)

    def _checked(self, data: bytes, context: bytes) -> int:
        """Where the sections end, once the frame is known to be right."""
        if len(data) > self._max:
            raise EntryError("oversized")
        if len(data) < _HEAD.size or data[:3] != self._start:
            raise EntryError("format")
        if self._key is None:
            return len(data)
        end = len(data) - _MAC_SIZE
        if end < _HEAD.size or not hmac.compare_digest(data[end:], self._mac(data[:end], context)):
            raise EntryError("mac")
        return end

    def _mac(self, data: bytes, context: bytes) -> bytes:
        digest = hashlib.blake2b(digest_size=_MAC_SIZE, key=self._key or b"", person=b"dl-entry")
        digest.update(len(context).to_bytes(4, "big") + context + data)
        return digest.digest()

"""The bytes of a version's file, in which every wrong bit is found before any of the value is handed out.

::

    header   4 bytes magic | 1 format | 1 kind | 2 key length | 8 written at | 8 deadline or moment | key
             | 4 CRC of all of this
    chunks   4 length, 1 to 1 MiB | 4 CRC of its data, continued from the CRC before it | data
    end      4 zero | 4 CRC of the value's length as 8 bytes, continued from the CRC before it

Numbers are big-endian, times microseconds since 1970. Each CRC continues the one before it, so that chunks of another
file, or in another order, do not fit. The format is frozen by a test.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from ...errors import EncodeError, StoreCorruptError
from .disk import Disk

CHUNK = 1 << 20
BLOCK = 1 << 16
_MAGIC = b"DLKV"
_FORMAT = 1
_VALUE, _DELETION = 1, 2
_HEADER = struct.Struct(">4sBBHQQ")
_FRAME = struct.Struct(">II")
_CRC = struct.Struct(">I")
_TOTAL = struct.Struct(">Q")


class Head(NamedTuple):
    """What a version's file says of itself. ``moment`` is the deadline, or when it was deleted; 0 for no deadline."""

    key: bytes
    live: bool
    written: int
    moment: int


def encode(head: Head, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The bytes of a file, a part at a time. No piece may be longer than a chunk."""
    kind = _VALUE if head.live else _DELETION
    start = _HEADER.pack(_MAGIC, _FORMAT, kind, len(head.key), head.written, head.moment) + head.key
    crc = zlib.crc32(start)
    waiting: bytes = start + _CRC.pack(crc)
    total = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
        total += len(piece)
        waiting += _FRAME.pack(len(piece), crc)
        if len(piece) < BLOCK:
            waiting += piece  # a small value is one write
        else:
            yield waiting
            yield piece
            waiting = b""
    yield waiting + _FRAME.pack(0, zlib.crc32(_TOTAL.pack(total), crc))


def pieces_of(value: bytes) -> Iterator[bytes | memoryview]:
    """A value as the pieces that :func:`encode` takes, without copying it."""
    if len(value) <= CHUNK:
        return iter([value] if value else [])
    view = memoryview(value)
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def pieces_from(source: BinaryIO) -> Iterator[bytes]:
    """What a file has left as such pieces, all of them but the last of full length."""
    while piece := _filled(source):
        yield piece


def _filled(source: BinaryIO) -> bytes:
    """A whole chunk if there is as much: a read that answers less than asked for is not the end."""
    piece = source.read(CHUNK)
    if not isinstance(piece, bytes):
        raise EncodeError(f"a stream gave a {type(piece).__name__!r}; expected bytes (open the file in binary mode)")
    while 0 < len(piece) < CHUNK and (more := source.read(CHUNK - len(piece))):
        piece += more
    return piece


def value_size(key: bytes, file_size: int) -> int:
    """How long the value is in a file of that size, if the file is whole."""
    body = file_size - _HEADER.size - len(key) - _CRC.size - _FRAME.size
    return body - _FRAME.size * -(-body // (CHUNK + _FRAME.size))


class Reader:
    """Reads one file from its start. StoreCorruptError at the first thing that does not fit; it names what."""

    def __init__(self, disk: Disk, file: int) -> None:
        self._disk = disk
        self._file = file
        self._buffer = b""
        self._at = 0
        self._ended = False
        self._crc = 0
        self.head = self._read_head()
        self._total = 0
        self.done = False

    def chunk(self) -> bytes:
        """The next part of the value, checked; empty at its end, which is checked too."""
        if self.done:
            return b""
        length, crc = _FRAME.unpack(self._take(_FRAME.size, "the head of a chunk"))
        if not length:
            self._check_end(crc)
            return b""
        if length > CHUNK:
            raise StoreCorruptError(f"a chunk claims {length} bytes; at most {CHUNK} are possible")
        data = self._take(length, "a chunk")
        self._crc = zlib.crc32(data, self._crc)
        if self._crc != crc:
            raise StoreCorruptError("a chunk fails its check")
        self._total += length
        return data

    def value(self) -> bytes:
        """All that is left of the value."""
        first = self.chunk()
        rest = self.chunk()
        if not rest:
            return first
        parts = [first, rest]
        while part := self.chunk():
            parts.append(part)
        return b"".join(parts)

    def _read_head(self) -> Head:
        start = self._take(_HEADER.size, "the header")
        magic, version, kind, length, written, moment = _HEADER.unpack(start)
        if magic != _MAGIC or version != _FORMAT:
            raise StoreCorruptError(f"a file begins with {start[:5]!r}; expected {_MAGIC + bytes([_FORMAT])!r}")
        key = self._take(length, "the key")
        self._crc = zlib.crc32(start + key)
        (crc,) = _CRC.unpack(self._take(_CRC.size, "the header"))
        if crc != self._crc or kind not in (_VALUE, _DELETION):
            raise StoreCorruptError("a header fails its check")
        return Head(key, kind == _VALUE, written, moment)

    def _check_end(self, crc: int) -> None:
        if zlib.crc32(_TOTAL.pack(self._total), self._crc) != crc:
            raise StoreCorruptError("the end of a file fails its check")
        if self._at < len(self._buffer) or self._more():
            raise StoreCorruptError("a file goes on after its end")
        self.done = True

    def _take(self, size: int, what: str) -> bytes:
        while len(self._buffer) - self._at < size and self._more(size):
            pass
        if len(self._buffer) - self._at < size:
            raise StoreCorruptError(f"a file ends within {what}")
        start, self._at = self._at, self._at + size
        return self._buffer[start : self._at]

    def _more(self, size: int = 0) -> bool:
        if self._ended:
            return False
        wanted = max(BLOCK, size - (len(self._buffer) - self._at))
        data = self._disk.read(self._file, wanted)
        self._ended = len(data) < wanted
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return bool(data)

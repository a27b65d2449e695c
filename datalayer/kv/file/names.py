"""The name of a version's file says all that an index needs: key, number, deletion and deadline.

So a store with a hundred thousand keys opens by listing its folders and reads no file. A name is
``<key>.<number>.v<deadline>`` or, for a deletion, ``<key>.<number>.d<moment>``, numbers in hexadecimal and times in
microseconds since 1970 (0 for none). A key's small letters, digits, ``-`` and ``_`` stand for themselves, other bytes
as ``%`` and two digits, which is the same on file systems that confuse capitals. A key that would be too long is its
hash after ``=`` and is read from the file.
"""

from __future__ import annotations

import re
import zlib
from hashlib import sha256
from typing import Any, NamedTuple

from ..checks import FOREVER
from ..history import Record

MICRO = 1_000_000
_LONGEST = 160
_HEX = r"(0|[1-9a-f][0-9a-f]{0,15})"
_NAME = re.compile(rf"([a-z0-9_%-]+|=[0-9a-f]{{64}})\.{_HEX}\.([vd]){_HEX}")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPED = [chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in range(256)]


class Named(NamedTuple):
    """What a name says."""

    stem: str
    number: int
    live: bool
    moment: int

    def record(self) -> Record[None]:
        return Record(self.number, to_seconds(self.moment), self.live, None)


def stem(key: bytes) -> str:
    """The part of a name that stands for the key."""
    text = "".join([_ESCAPED[byte] for byte in key])
    return text if len(text) <= _LONGEST else f"={sha256(key).hexdigest()}"


def key_of(stem: str) -> bytes | None:
    """The key, if the name holds it; ValueError for what :func:`stem` cannot have made."""
    if stem.startswith("="):
        return None
    if "%" not in stem:
        return stem.encode()
    first, *others = stem.split("%")
    return first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in others)


def shard(key: bytes) -> str:
    """The folder, one of 256, that holds all versions of the key."""
    return f"{zlib.crc32(key) & 0xFF:02x}"


def name(key: bytes, record: Record[Any]) -> str:
    return f"{stem(key)}.{record.number:x}.{'v' if record.live else 'd'}{to_micro(record.deadline):x}"


def parse(name: str) -> Named | None:
    """What the name says, or None if it is not one of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    stem, number, kind, moment = match.groups()
    return Named(stem, int(number, 16), kind == "v", int(moment, 16))


def to_micro(seconds: float) -> int:
    return 0 if seconds == FOREVER else max(1, round(seconds * MICRO))


def to_seconds(micro: int) -> float:
    return micro / MICRO if micro else FOREVER

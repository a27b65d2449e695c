"""The list of renames that make up a commit.

It is written when all values of the commit are safe under temporary names. From the moment that the list itself is
safe the commit has happened: whoever opens the store next does what is left of it.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import NamedTuple

from ...errors import StoreCorruptError

_INTENT = re.compile(rb"DLKI1 ([0-9a-f]{8}) (\[.*\])\n", re.DOTALL)


class Move(NamedTuple):
    """One rename: from a name in ``tmp`` to a name in a shard."""

    temp: str
    shard: str
    name: str


def encode(moves: list[Move]) -> bytes:
    body = json.dumps(moves, separators=(",", ":")).encode()
    return b"DLKI1 %08x %s\n" % (zlib.crc32(body), body)


def decode(data: bytes) -> list[Move]:
    """The moves; StoreCorruptError for anything that :func:`encode` cannot have made."""
    match = _INTENT.fullmatch(data)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        raise StoreCorruptError("the list of a commit fails its check")
    return [Move(*move) for move in json.loads(match[2])]

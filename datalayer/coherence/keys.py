"""The text by which the shared tier addresses a row: one text per key value, short, and without surprises in it."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

_LONGEST = 120


def key_text(key: tuple[Any, ...]) -> str:
    """One primary key as text. Two different keys of the same column types never share it.

    Plain integers and short words read as themselves; anything long becomes a 128-bit digest.
    """
    if len(key) == 1 and type(key[0]) is int:
        return str(key[0])
    text = ",".join([_part(value) for value in key])
    return text if len(text) <= _LONGEST else "~" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _part(value: Any) -> str:
    if isinstance(value, bytes):
        return "x" + value.hex()
    return quote(str(value).encode("utf-8", "surrogatepass"), safe="-_.@:")

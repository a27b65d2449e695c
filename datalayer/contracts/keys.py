"""The text by which the shared tier addresses a row: one text per key value, short, and without surprises in it."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import uuid
from typing import Any
from urllib.parse import quote, unquote

_LONGEST = 120
_plain = re.compile(r"[A-Za-z0-9_.@:-]{1,120}").fullmatch


def key_text(key: tuple[Any, ...]) -> str:
    """One primary key as text. Two different keys of the same column types never share it.

    Plain integers and short words read as themselves; anything long becomes a 128-bit digest.
    """
    if len(key) == 1:
        (only,) = key
        if type(only) is int:
            return str(only)
        if type(only) is str and _plain(only):  # quoting would change nothing, and cost ten times as much
            return only
    text = ",".join([_part(value) for value in key])
    return text if len(text) <= _LONGEST else "~" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _part(value: Any) -> str:
    if isinstance(value, bytes):
        return "x" + value.hex()
    return quote(str(value).encode("utf-8", "surrogatepass"), safe="-_.@:")


def parse_key(text: str, types: tuple[type, ...]) -> tuple[Any, ...] | None:
    """The key that :func:`key_text` made a text of, or None when the text does not tell."""
    parts = text.split(",")
    if len(parts) != len(types) or text.startswith("~"):
        return None
    try:
        return tuple([_value(part, kind) for part, kind in zip(parts, types, strict=True)])
    except ValueError:
        return None


def _value(part: str, kind: type) -> Any:
    if kind is int:
        return int(part)
    if kind is str:
        return unquote(part, errors="surrogatepass")
    if kind is bytes:
        return bytes.fromhex(part[1:])
    if kind is uuid.UUID:
        return uuid.UUID(part)
    if kind is dt.date:
        return dt.date.fromisoformat(part)
    raise ValueError(f"keys of type {kind.__name__} are not read back")

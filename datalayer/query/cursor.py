"""Cursors of pages: where a page ended, sealed so that nobody but this layer can read, make or change one.

A cursor is AES-256-GCM over the last row's values and a digest of the query that they belong to, as base64url. The key
is made from the layer's page secret: processes with the same configuration understand each other's cursors.
"""

from __future__ import annotations

import base64
import enum
import functools
import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import sqlalchemy as sa

from ..codecs import exact
from ..crypto.box import Box
from ..errors import DecodeError, EncodeError, QueryError

_DIGEST = 8
_CONTEXT = b"datalayer page cursor"
_MALFORMED = "after= is not a cursor; pass the .next of a page as it is"


def seal(values: Sequence[Any], digest: bytes, secret: bytes) -> str:
    """The cursor after a row with these values. QueryError for values that cannot be carried exactly."""
    try:
        body = exact.pack([_portable(value) for value in values])
    except EncodeError as error:
        raise QueryError("a column of this order cannot be part of a cursor; order by others") from error
    return _text(_box(secret).seal(digest + body, _CONTEXT))


def unseal(cursor: str, digest: bytes, secret: bytes, count: int) -> list[Any]:
    """The values in a cursor. QueryError unless it was made here, for the same query, and is as it was made."""
    if not isinstance(cursor, str) or not cursor:
        raise QueryError(_MALFORMED)
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise QueryError(_MALFORMED) from error
    if _text(raw) != cursor:  # the last letter has bits to spare
        raise QueryError(_MALFORMED)
    try:
        body = _box(secret).open(raw, _CONTEXT)
    except DecodeError as error:
        raise QueryError(
            "after= is not a cursor of this layer, or it was changed; pass the .next of a page as it is"
        ) from error
    if body[:_DIGEST] != digest:
        raise QueryError("after= is a cursor of another query; use it with the query that it came from")
    try:
        values = exact.unpack(body[_DIGEST:])
    except DecodeError as error:
        raise QueryError("after= cannot be read; start again from the first page") from error
    if not isinstance(values, list) or len(values) != count:
        raise QueryError("after= cannot be read; start again from the first page")
    return values


def _text(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def digest_of(statement: sa.Select[Any], secret: bytes) -> bytes:
    """What tells queries apart, in every process: SQL and values, under a key, for a value may be a secret."""
    key = statement._generate_cache_key()
    if key is None:
        compiled = statement.compile()
        text, found = str(compiled), list(compiled.params.values())
    else:
        text, found = _text_of(statement, key.key), [parameter.effective_value for parameter in key.bindparams]
    values = [_stable(value) for value in found]
    return hashlib.blake2b(f"{text}|{values}".encode(), digest_size=_DIGEST, key=_key(secret)).digest()


def _text_of(statement: sa.Select[Any], key: Hashable) -> str:
    """The SQL of a shape of statements, once: compiling takes longer than all the rest of a page."""
    text = _texts.get(key)
    if text is None:
        if len(_texts) >= _MOST_TEXTS:
            _texts.clear()
        text = _texts[key] = str(statement.compile())
    return text


_MOST_TEXTS = 500
_texts: dict[Hashable, str] = {}


def _stable(value: Any) -> Any:
    try:
        return exact.pack(_portable(value))
    except EncodeError:
        return [_stable(item) for item in value] if isinstance(value, list | tuple) else repr(value)


def _portable(value: Any) -> Any:
    return value.name if isinstance(value, enum.Enum) else value


@functools.lru_cache(maxsize=16)
def _box(secret: bytes) -> Box:
    return Box({"c": _key(secret)})


@functools.lru_cache(maxsize=16)
def _key(secret: bytes) -> bytes:
    return hashlib.blake2b(secret, digest_size=32, person=b"dl-cursor").digest()

"""Causal tokens: what another process must have heard before its own memory may answer for a write.

Section 6.4 of the Epoch-Fenced Marks protocol. MARK tells the shard, its epoch and the number of its message; a process
that has heard that message dropped what the write replaces. As text a token fits a cookie or a header: letters, digits,
dots and underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Position(NamedTuple):
    """A message on the bus of one shard."""

    shard: int
    epoch: bytes
    sequence: int


Token = tuple[Position, ...]

#: The token of a write that no bus announces: nobody can have heard of it.
UNHEARD: Token = (Position(-1, b"", 0),)

_PART = re.compile(r"(\d{1,6})\.(\d{1,19}\.[0-9A-Za-z]{0,64})\.(\d{1,19})")
_UNHEARD_TEXT = "x"


def merged(tokens: Iterable[Token]) -> Token:
    """One token for several writes: the last position of each shard."""
    last: dict[int, Position] = {}
    for position in (p for token in tokens for p in token):
        known = last.get(position.shard)
        if known is None or _age(position) > _age(known):
            last[position.shard] = position
    return tuple(last[shard] for shard in sorted(last))


def _age(position: Position) -> tuple[int, int]:
    return int(position.epoch.split(b".")[0] or b"0"), position.sequence


def format_token(token: Token) -> str:
    """The token as text; empty when there was no write."""
    parts = [f"{p.shard}.{p.epoch.decode()}.{p.sequence}" if p.shard >= 0 else _UNHEARD_TEXT for p in token]
    return "_".join(parts)


def parse_token(text: str) -> Token:
    """The token of a text. One that cannot be read is as good as unheard: it comes from outside, and asks for more."""
    if not text:
        return ()
    found = [_PART.fullmatch(part) for part in text.split("_")] if len(text) < 100_000 else [None]
    if not all(found):
        return UNHEARD
    return tuple(Position(int(m[1]), m[2].encode(), int(m[3])) for m in found if m is not None)

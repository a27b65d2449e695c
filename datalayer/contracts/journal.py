"""Where acknowledged writes wait for the database: entries, their order, and what a journal promises.

Every queued write has a *sequence number* that is larger than that of any write acknowledged before it was submitted.
It is an epoch and a count within it in one integer of 63 bits, so that the database compares it with one column.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

COUNT_BITS = 42
MOST_COUNT = (1 << COUNT_BITS) - 1

#: A whole row, the absence of one, or amounts to add to some of its columns.
Kind = Literal["set", "delete", "add"]


def pack_seq(epoch: int, count: int) -> int:
    """One integer that is ordered as the pair is."""
    return (epoch << COUNT_BITS) | count


def unpack_seq(seq: int) -> tuple[int, int]:
    """Epoch and count."""
    return seq >> COUNT_BITS, seq & MOST_COUNT


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged write. ``id`` is its place in the journal, ``space`` and ``name`` address the row as the shared
    tier does, ``key`` is the primary key and ``body`` the row or the amounts, encoded (secrets as ciphertext)."""

    id: int
    seq: int
    space: str
    name: str
    kind: Kind
    key: bytes
    body: bytes


class Draft(NamedTuple):
    """A write that has no number yet."""

    space: str
    name: str
    kind: Kind
    key: bytes
    body: bytes

    @property
    def address(self) -> str:
        return f"{self.space}:{self.name}"


class Server(NamedTuple):
    """What a Redis server says about itself that matters to a journal."""

    policy: str
    append_only: bool
    loading: bool


class JournalFailed(Exception):
    """An append that cannot be relied on. ``certain``: nothing of it will ever be flushed."""

    def __init__(self, reason: str, *, certain: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.certain = certain


class Journal(Protocol):
    """Entries in the order of their ids, which only grow and are never used again. Thread-safe.

    ``id`` names the journal in the database's table of offsets.
    """

    id: uuid.UUID

    def read(self, after: int, limit: int) -> list[Entry]:
        """The first entries whose id is larger."""

    def applied(self, upto: int, limit: int) -> list[Entry]:
        """Entries that are still there although the database has them."""

    def remove(self, upto: int) -> None:
        """Forget what the database has."""

    def __len__(self) -> int: ...


class Appending(Journal, Protocol):
    """A journal of one process, which numbers its own entries."""

    durability: str

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep the entries; returns when they survive what ``durability`` says. JournalFailed if they may not."""

    def close(self) -> None: ...

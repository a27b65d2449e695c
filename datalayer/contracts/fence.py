"""What a process may believe of a shard of the shared tier, and who tells it.

Section 2 of the Epoch-Fenced Marks protocol. A shard's values, marks and counters belong to an *epoch*; the epoch is
bound to the replication *lineage* of one Redis server. A process may use the shard only while it holds a short lease on
that binding, its *stand*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol


class State(IntEnum):
    """Of an epoch: nobody may use it, writers mark and nobody reads, everybody uses it."""

    OFF = 0
    OPENING = 1
    ON = 2


class Stand(NamedTuple):
    """A lease on one shard's epoch. ``until``: seconds of the authority's clock.

    ``settled``: every transaction that may have missed its marks has ended, so reads may fill. ``prefix`` and ``probe``
    are what a believable value begins with, and what the server's ``INFO replication`` must contain.
    """

    until: float
    epoch: bytes
    state: State
    lineage: bytes
    settled: bool
    prefix: bytes
    probe: bytes

    @property
    def number(self) -> int:
        return int(self.epoch.split(b".")[0])


def stand(until: float, epoch: bytes, state: State, lineage: bytes, *, settled: bool) -> Stand:
    return Stand(until, epoch, state, lineage, settled, b"V" + epoch + b"|", b"master_replid:" + lineage)


NOWHERE = stand(0.0, b"", State.OFF, b"", settled=False)
"""The stand of a process that has not asked yet, or whose lease is over."""


class Authority(Protocol):
    """Holds one stand per shard. Thread-safe; ``stands`` is read without a lock.

    ``horizon``: a list of one number, the moment until which values in the process's own memory may be served.
    """

    stands: list[Stand]
    horizon: list[float]
    clock: Callable[[], float]

    def current(self, shard: int) -> Stand | None:
        """The live stand of a shard whose epoch is on, or None. Cheap; may ask the database the first time."""

    def doubt(self, shard: int, stand: Stand) -> None:
        """The server did not know the epoch or is not of its lineage: have that looked into."""

    def met(self, shard: int, name: str, record: bytes) -> None:
        """A reader met a mark: have its writers' fate looked up soon."""

    def server_offset(self, shard: int) -> float:
        """Seconds to add to ``clock`` to get the time of the shard's server."""


class Refusal(NamedTuple):
    """Why a script changed nothing: ``RUN`` (another lineage), ``EPOCH``, or ``LOST`` (no answer)."""

    reason: str
    detail: bytes = b""


class Names(NamedTuple):
    """What a write touched in one shard: keys ``<space>:<id>``, tags, and tags whose generation it wants to know."""

    keys: tuple[str, ...]
    tags: tuple[str, ...]
    watched: tuple[str, ...] = ()


class Marked(NamedTuple):
    """What MARK returned: the change counter of the marks, the sequence number of their message, and the generations
    of the watched tags in order."""

    change: int
    sequence: int
    generations: tuple[bytes, ...] = ()


class Payload(NamedTuple):
    """A row as its writer left it: the tag of its space, that tag's generation, the entry, and its life in seconds."""

    tag: str
    generation: bytes
    entry: bytes
    ttl: float


class Backplane(Protocol):
    """The atomic steps of the protocol on the shared tier. Thread-safe. A refusal is a value, never an exception."""

    shards: int

    def shard_of(self, name: str) -> int: ...

    def lineage(self, shard: int) -> bytes | None:
        """The replication id of the shard's server if it is a master that answers."""

    def init(self, shard: int, lineage: bytes, epoch: bytes) -> bytes | Refusal:
        """Begin an epoch; returns the epoch in force afterwards, which is another one if its number is not smaller."""

    def mark(
        self, stands: Mapping[int, Stand], writer: str, xid: str, names: Mapping[int, Names]
    ) -> dict[int, Marked | Refusal]:
        """Mark names in several shards, the shards of one server in one round trip."""

    def done(
        self, shard: int, stand: Stand, writer: str, marked: Marked, names: Names, payloads: Mapping[str, Payload]
    ) -> None:
        """Remove a writer's marks, and store what it left under keys that nobody else marked; nobody waits."""

    def resolve(self, shard: int, stand: Stand, name: str, change: bytes) -> None:
        """Remove a record whose writers have all ended, if it is still the one that was looked at; nobody waits."""

    def drop(self, stands: Mapping[int, Stand], names: Mapping[int, Names]) -> dict[int, Marked | Refusal]:
        """Forget values at once, for a write that is over or was never seen."""

    def beat(self, stands: Mapping[int, Stand], process: str, nonce: str) -> dict[int, int | Refusal]:
        """Publish a heartbeat in several shards; each server's clock in milliseconds."""

    def marks(self, shard: int) -> dict[str, bytes]:
        """All records of outstanding marks, by name."""


class Message(NamedTuple):
    """What came over a shard's channel: ``inv`` with names, or ``hb`` with process and nonce."""

    kind: str
    shard: int
    epoch: bytes
    sequence: int
    rest: Sequence[str]


def parse_record(record: bytes) -> tuple[bytes, list[str]]:
    """A mark record ``<c>|W:xid|W:xid`` as its change counter and the transaction ids."""
    change, *writers = record.split(b"|")
    return change, [writer.rsplit(b":", 1)[1].decode() for writer in writers]


#: The transaction id of a write that has none: no snapshot ever sees it as ended.
IMMORTAL = str(2**62)

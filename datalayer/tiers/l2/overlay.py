"""``RedisOverlay``: the steps of write-behind on the shared tier; see :mod:`.behind` for what they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...contracts.fence import Refusal, Stand
from ...contracts.journal import Draft, Entry, Kind, Server, pack_seq, unpack_seq
from .behind import SHA
from .links import pack
from .wire import Wire

_LOST = Refusal("LOST")
_KINDS: dict[Kind, bytes] = {"set": b"s", "delete": b"d", "add": b"a"}
_KIND_OF: dict[bytes, Kind] = {text: kind for kind, text in _KINDS.items()}
_GONE = b"N"


class RedisOverlay:
    """The steps of write-behind on the shared tier. Thread-safe. A refusal is a value, never an exception:
    ``RUN`` and ``EPOCH`` as ever, ``FULL``, ``IDS`` (the stream has a larger id than it may have), ``LOST``."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.shards = len(wire.places)

    def shard_of(self, address: str) -> int:
        return self._wire.place_of(address).number

    # -- overlay ---------------------------------------------------------------------------------------------------

    def next(self, shard: int, stand: Stand, how_many: int) -> range | Refusal:
        """So many counts, in order. Numbers that are not used do no harm."""
        reply = self._call(shard, "NEXTSEQ", stand, (), (how_many,))
        return reply if isinstance(reply, Refusal) else range(int(reply[1]) - how_many + 1, int(reply[1]) + 1)

    def overlay(self, shard: int, stand: Stand, entries: Sequence[Entry]) -> list[bool] | Refusal:
        """Show queued writes to all readers; False for one that came after a newer one had been flushed."""
        place = self._wire.places[shard]
        names = [f"{entry.space}:{entry.name}" for entry in entries]
        given: list[Any] = [self._wire.topology.publish, place.channel]
        for name, entry in zip(names, entries, strict=True):
            given += (name, unpack_seq(entry.seq)[1], payload_of(entry))
        reply = self._call(shard, "OVERLAY", stand, names, given)
        return reply if isinstance(reply, Refusal) else [bool(shown) for shown in reply[2:]]

    def clear(self, shard: int, stand: Stand, done: Sequence[tuple[str, int]]) -> Refusal | None:
        """The database has these (address, count; 0 for a write of an older epoch)."""
        given = [item for pair in done for item in pair]
        reply = self._call(shard, "CLEAR", stand, [name for name, _ in done], given)
        return reply if isinstance(reply, Refusal) else None

    def queued(self, address: str) -> bool:
        """Whether an overlay stands on a key now; False when Redis does not answer."""
        shard = self.shard_of(address)
        replies = self._ask(shard, pack(("HEXISTS", self._wire.places[shard].header, f"o:{address}")))
        return bool(replies and replies[0])

    # -- stream ----------------------------------------------------------------------------------------------------

    def enqueue(
        self, shard: int, stand: Stand, epoch: int, drafts: Sequence[Draft], *, most: int
    ) -> list[int] | Refusal:
        """Append writes to the stream and show them, in one step; their counts. Never repeated after a failure."""
        place = self._wire.places[shard]
        given: list[Any] = [self._wire.topology.publish, place.channel, epoch, most]
        for draft in drafts:
            given += (draft.address, _KINDS[draft.kind], draft.key, draft.body)
        names = [draft.address for draft in drafts]
        reply = self._call(shard, "ENQUEUE", stand, names, given, stream=True)
        return reply if isinstance(reply, Refusal) else [int(count) for count in reply[2:]]

    def read(self, shard: int, first: int, last: int | None, limit: int) -> list[Entry] | None:
        """Entries from one sequence number to another, in order; None when Redis does not answer."""
        end = "+" if last is None else _id(last)
        replies = self._ask(shard, pack(("XRANGE", self._stream(shard), _id(first), end, "COUNT", limit)))
        return None if replies is None else [_entry(id, fields) for id, fields in replies[0]]

    def trim(self, shard: int, upto: int) -> None:
        """Forget entries up to a sequence number; nobody waits."""
        self._wire.post(self._wire.places[shard], pack(("XTRIM", self._stream(shard), "MINID", _id(upto + 1))))

    def length(self, shard: int) -> int | None:
        replies = self._ask(shard, pack(("XLEN", self._stream(shard))))
        return None if replies is None else int(replies[0])

    def last(self, shard: int) -> int | None:
        """The largest sequence number that the stream has ever had, 0 for no stream; None for no answer."""
        stream = self._stream(shard)
        replies = self._ask(shard, pack(("EXISTS", stream)))
        if replies is None or not replies[0]:
            return None if replies is None else 0
        replies = self._ask(shard, pack(("XINFO", "STREAM", stream)))
        if replies is None:
            return None
        found = dict(zip(replies[0][::2], replies[0][1::2], strict=False))
        return _number(found[b"last-generated-id"])

    def server(self, shard: int) -> Server | None:
        """What the shard's server says about eviction and persistence; None for no answer."""
        replies = self._ask(shard, pack(("INFO", "memory")) + pack(("INFO", "persistence")), 2)
        if replies is None:
            return None
        lines = b"\r\n".join(replies).split(b"\r\n")
        found = dict(line.partition(b":")[::2] for line in lines)
        return Server(
            found.get(b"maxmemory_policy", b"").decode(),
            found.get(b"aof_enabled") == b"1",
            found.get(b"loading") == b"1",
        )

    def _stream(self, shard: int) -> str:
        return f"{self._wire.places[shard].tag}:j"

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(
        self, shard: int, script: str, stand: Stand, names: Sequence[str], given: Sequence[Any], *, stream: bool = False
    ) -> Any:
        place = self._wire.places[shard]
        keys = [place.header, *([self._stream(shard)] if stream else []), *[place.values + name for name in names]]
        data = pack(("EVALSHA", SHA[script], len(keys), *keys, stand.lineage, stand.epoch, *given))
        # What has been appended twice would be added twice.
        replies = self._wire.ask(place, data, 1, urgent=True, once=stream)
        if replies is None:
            return _LOST
        reply = replies[0]
        return reply if reply[0] == b"OK" else Refusal(reply[0].decode(), reply[1] if len(reply) > 1 else b"")

    def _ask(self, shard: int, data: bytes, count: int = 1) -> list[Any] | None:
        return self._wire.ask(self._wire.places[shard], data, count, urgent=True)


def payload_of(entry: Entry) -> bytes:
    """What an overlay says of a write."""
    return entry.body if entry.kind == "set" else _GONE if entry.kind == "delete" else b""


def _id(seq: int) -> str:
    epoch, count = unpack_seq(seq)
    return f"{epoch}-{count}"


def _number(id: bytes) -> int:
    epoch, _, count = id.partition(b"-")
    return pack_seq(int(epoch), int(count))


def _entry(id: bytes, fields: Sequence[bytes]) -> Entry:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    seq = _number(id)
    space, _, name = found[b"n"].decode().partition(":")
    return Entry(seq, seq, space, name, _KIND_OF[found[b"k"]], found[b"y"], found[b"p"])


__all__ = ["RedisOverlay", "payload_of"]

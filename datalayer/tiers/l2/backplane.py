"""``RedisBackplane``: the atomic steps of the protocol, one script call each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...contracts.fence import Marked, Names, Payload, Refusal, Stand
from .links import pack
from .scripts import SHA
from .wire import Place, Wire

_MOST_KEYS = 500
_LOST = Refusal("LOST")


class RedisBackplane:
    """See :class:`datalayer.contracts.fence.Backplane`. Thread-safe.

    ``home`` says which name decides the shard of a name.
    """

    def __init__(self, wire: Wire, home: Callable[[str], str] = str) -> None:
        self._wire = wire
        self._home = home
        self.shards = len(wire.places)

    def shard_of(self, name: str) -> int:
        return self._wire.place_of(self._home(name)).number

    def lineage(self, shard: int) -> bytes | None:
        place = self._wire.places[shard]
        replies = self._wire.ask(place, pack(("INFO", "replication")), 1, urgent=True, counted=False)
        lines = dict(line.partition(b":")[::2] for line in replies[0].split(b"\r\n")) if replies else {}
        return lines.get(b"master_replid") if lines.get(b"role") == b"master" else None

    def init(self, shard: int, lineage: bytes, epoch: bytes) -> bytes | Refusal:
        place = self._wire.places[shard]
        call = pack(("EVALSHA", SHA["INIT"], 1, place.header, lineage, epoch))
        replies = self._wire.ask(place, call, 1, urgent=True, counted=False)
        return _accepted(replies) or bytes(replies[0][1])  # type: ignore[index]

    def mark(
        self, stands: Mapping[int, Stand], writer: str, xid: str, names: Mapping[int, Names]
    ) -> dict[int, Marked | Refusal]:
        requests = {}
        for shard, stand in stands.items():
            place = self._wire.places[shard]
            calls = [self._mark(place, stand, writer, xid, part) for part in _parts(names[shard])]
            requests[place] = b"".join(calls), len(calls)
        answers = self._wire.ask_all(requests, urgent=True)
        return {shard: _marked(answers.get(self._wire.places[shard])) for shard in stands}

    def _mark(self, place: Place, stand: Stand, writer: str, xid: str, names: Names) -> bytes:
        keys, tags = names.keys, names.tags
        how = self._wire.topology.publish, place.channel, writer, xid, len(keys), len(tags)
        return place.call("MARK", stand, keys, *how, *keys, *tags, *names.watched)

    def done(
        self, shard: int, stand: Stand, writer: str, marked: Marked, names: Names, payloads: Mapping[str, Payload]
    ) -> None:
        place = self._wire.places[shard]
        for part in _parts(names):
            self._wire.post(place, self._done(place, stand, writer, marked, part, payloads))

    def _done(
        self, place: Place, stand: Stand, writer: str, marked: Marked, names: Names, payloads: Mapping[str, Payload]
    ) -> bytes:
        keys: list[Any] = []
        for key in names.keys:
            payload = payloads.get(key)
            if payload is None:
                keys += (key, "", "", "", 1)
            else:
                keys += (key, payload.tag, payload.generation, payload.entry, max(1, int(payload.ttl * 1000)))
        return place.call("DONE", stand, names.keys, writer, marked.change, len(names.keys), *keys, *names.tags)

    def resolve(self, shard: int, stand: Stand, name: str, change: bytes) -> None:
        place = self._wire.places[shard]
        self._wire.post(place, place.call("RESOLVE", stand, [name], name, change, "", "", "", 1))

    def drop(self, stands: Mapping[int, Stand], names: Mapping[int, Names]) -> dict[int, Marked | Refusal]:
        requests = {}
        for shard, stand in stands.items():
            place = self._wire.places[shard]
            calls = [self._drop(place, stand, part) for part in _parts(names[shard])]
            requests[place] = b"".join(calls), len(calls)
        answers = self._wire.ask_all(requests, urgent=True)
        return {shard: _marked(answers.get(self._wire.places[shard])) for shard in stands}

    def _drop(self, place: Place, stand: Stand, names: Names) -> bytes:
        how = self._wire.topology.publish, place.channel, len(names.keys)
        return place.call("DROP", stand, names.keys, *how, *names.keys, *names.tags)

    def beat(self, stands: Mapping[int, Stand], process: str, nonce: str) -> dict[int, int | Refusal]:
        requests = {}
        for shard, stand in stands.items():
            place = self._wire.places[shard]
            how = self._wire.topology.publish, place.channel, process, nonce
            requests[place] = place.call("HB", stand, (), *how), 1
        answers = self._wire.ask_all(requests, urgent=True, counted=False)
        return {shard: _beaten(answers.get(self._wire.places[shard])) for shard in stands}

    def marks(self, shard: int) -> dict[str, bytes]:
        place, cursor = self._wire.places[shard], b"0"
        found: dict[str, bytes] = {}
        while True:
            command = ("HSCAN", place.header, cursor, "MATCH", "m:*", "COUNT", 500)
            replies = self._wire.ask(place, pack(command), 1, counted=False)
            if replies is None:
                return found
            cursor, pairs = replies[0]
            found |= {pairs[i][2:].decode(): pairs[i + 1] for i in range(0, len(pairs), 2)}
            if cursor == b"0":
                return found


def _parts(names: Names) -> Sequence[Names]:
    """At most 500 names a call: the tags, whose number is small, with the first."""
    if len(names.keys) <= _MOST_KEYS:
        return (names,)
    cut = [names.keys[at : at + _MOST_KEYS] for at in range(0, len(names.keys), _MOST_KEYS)]
    return [Names(keys, names.tags if i == 0 else (), ()) for i, keys in enumerate(cut)]


def _accepted(replies: list[Any] | None) -> Refusal | None:
    """The refusal among the replies, or None."""
    if replies is None:
        return _LOST
    for reply in replies:
        if reply[0] != b"OK":
            return Refusal(reply[0].decode(), reply[1] if len(reply) > 1 else b"")
    return None


def _marked(replies: list[Any] | None) -> Marked | Refusal:
    refused = _accepted(replies)
    if refused is not None or replies is None:
        return refused or _LOST
    return Marked(replies[0][1], replies[-1][2], tuple(replies[0][3:]))


def _beaten(replies: list[Any] | None) -> int | Refusal:
    refused = _accepted(replies)
    return int(replies[0][1]) if refused is None and replies is not None else refused or _LOST

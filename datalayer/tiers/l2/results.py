"""``RedisResults``: lists of keys in Redis, each with the generations of the tags that it depends on.

A result lives in the shard of its first tag as ``R<guards>|<end, ms of the server's clock>|<entry>``; ``guards`` names
the epoch and generation of every tag. Those are read in the same round trip as the result, so a query of one table
costs one. Storing needs no script: generations never come back, so a late store is never believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...contracts.fence import Authority, Stand
from ...contracts.results import Recalled
from .links import pack
from .wire import Place, Wire

_INFO = pack(("INFO", "replication"))
_NOTHING = Recalled(None, 0.0, None, False)


class RedisResults:
    """See :class:`datalayer.contracts.results.SharedResults`. ``home`` says which name decides a tag's shard."""

    def __init__(self, wire: Wire, authority: Authority, home: Callable[[str], str]) -> None:
        self._wire = wire
        self._authority = authority
        self._home = home

    def recall(self, digest: str, tags: Sequence[str]) -> Recalled:
        first = self._place(tags[0])
        asked = pack(("GET", first.results + digest))
        stands, replies = self._ask(tags, {first: asked})
        guards = self._guards(tags, stands, replies)
        if guards is None:
            return _NOTHING
        settled = all(stand.settled for stand in stands.values())
        entry, ttl = self._believed(replies[first][0], guards, self._authority.server_offset(first.number))
        return Recalled(entry, ttl, guards, settled)

    def unchanged(self, tags: Sequence[str], guards: bytes) -> bool:
        return self._guards(tags, *self._ask(tags, {})) == guards

    def store(self, digest: str, tags: Sequence[str], guards: bytes, entry: bytes, ttl: float) -> None:
        place, px = self._place(tags[0]), max(1, int(ttl * 1000))
        end = (self._authority.clock() + self._authority.server_offset(place.number)) * 1000 + px
        value = b"R%b|%d|%b" % (guards, end, entry)
        self._wire.post(place, pack(("SET", place.results + digest, value, "PX", px)))

    def _place(self, tag: str) -> Place:
        return self._wire.place_of(self._home(tag))

    def _ask(self, tags: Sequence[str], before: Mapping[Place, bytes]) -> tuple[dict[Place, Stand], dict[Place, Any]]:
        """The stand and the replies of every shard that the tags live in: what comes before, guards, who answers."""
        groups: dict[Place, list[str]] = {}
        for tag in tags:
            groups.setdefault(self._place(tag), []).append(tag)
        stands = {place: stand for place in groups if (stand := self._authority.current(place.number)) is not None}
        if len(stands) < len(groups):
            return stands, {}
        requests = {
            place: (before.get(place, b"") + _fields(place, names) + _INFO, 3 if place in before else 2)
            for place, names in groups.items()
        }
        return stands, self._wire.ask_all(requests)

    def _guards(self, tags: Sequence[str], stands: Mapping[Place, Stand], replies: Mapping[Place, Any]) -> bytes | None:
        """Epoch and generation of every tag, or None when one of them cannot be trusted now."""
        found: dict[str, bytes] = {}
        for place, stand in stands.items():
            if place not in replies:
                return None
            *_, header, info = replies[place]
            if stand.probe not in info or b"role:master" not in info or header[0] != stand.epoch:
                self._authority.doubt(place.number, stand)
                return None
            names = [tag for tag in tags if self._place(tag) is place]
            for at, tag in enumerate(names):
                generation, marks = header[1 + 2 * at : 3 + 2 * at]
                if marks is not None:
                    self._authority.met(place.number, f"t:{tag}", marks)
                    return None
                found[tag] = stand.epoch + b":" + (generation or b"-")
        return b",".join([found[tag] for tag in tags]) if len(found) == len(set(tags)) else None

    def _believed(self, value: bytes | None, guards: bytes, offset: float) -> tuple[bytes | None, float]:
        head = b"R" + guards + b"|"
        if value is None or not value.startswith(head):
            return None, 0.0
        end, _, entry = value[len(head) :].partition(b"|")
        left = int(end) / 1000 - (self._authority.clock() + offset) if end.isdigit() else 0.0
        return (entry, left) if left > 0 else (None, 0.0)


def _fields(place: Place, tags: Sequence[str]) -> bytes:
    fields = [field for tag in tags for field in (f"n:{tag}", f"m:t:{tag}")]
    return pack(("HMGET", place.header, "e", *fields))

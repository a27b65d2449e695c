"""``RedisTier``: rows in Redis that may be believed.

A value is used only if this process holds a stand on the shard's epoch, the value carries that epoch and the generation
of its space, no write of the whole space is being committed, and the server is still the one of the epoch: its
``INFO replication`` is read after the value, in the same round trip. A fill is stored only if it still finds its token,
and a mark removes the token: the writer always wins.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from ...contracts.fence import Authority, Stand, State
from ...contracts.pauses import point
from ...contracts.tier import OVERLAY, Busy, Fill, Found, Key, Lease, Leave, Met, Queued
from .links import pack
from .wire import Place, Wire

T = TypeVar("T")

_TOKEN_PX = 3000
_MOST_SCANS = 200
_MOST_KEYS, _MOST_BYTES = 250, 1 << 18
_ABSENT = b"N"
#: A queued write is good for as long as it is there; L1 asks again after this many seconds.
_OVERLAY_LIFE = 60.0
_BUSY = Busy()
_QUEUED = Queued()
_INFO = pack(("INFO", "replication"))


class RedisTier:
    """The shared tier on Redis 7 or Valkey. Thread-safe; see :class:`datalayer.contracts.tier.SharedTier`."""

    enabled = True

    def __init__(self, wire: Wire, authority: Authority) -> None:
        self._wire = wire
        self._authority = authority
        self._guards: dict[tuple[str, int], bytes] = {}

    @property
    def round_trips(self) -> int:
        return self._wire.round_trips

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Found | None:
        """The usable value of one key: one round trip."""
        space, id = key
        name = f"{space}:{id}"
        wire, authority = self._wire, self._authority
        place = wire.places[0] if wire.alone else wire.place_of(name)
        stand = authority.stands[place.number]
        if stand.until <= authority.clock() or stand.state != State.ON:
            current = authority.current(place.number)
            if current is None:
                return None
            stand = current
        guard = self._guards.get((space, place.number)) or self._guard(space, place)
        point("read.after_lease_check")
        replies = wire.ask(place, pack(("GET", place.values + name)) + guard, 3)
        point("read.after_get")
        if replies is None:
            return None
        value, header, info = replies
        if stand.probe not in info or b"role:master" not in info:
            authority.doubt(place.number, stand)
            return None
        frame = self._frame(place, stand, header)
        if value is not None and value.startswith(OVERLAY) and header[0] == stand.epoch:
            return _overlaid(value, stand)
        return _believed(value, frame) if frame is not None and value is not None else None

    def same(self, key: Key, prefix: bytes) -> bool:
        place = self._wire.place_of(f"{key.space}:{key.id}")
        stand = self._authority.current(place.number)
        if stand is None:
            return False
        command = ("GETRANGE", place.values + f"{key.space}:{key.id}", 0, len(prefix) - 1)
        replies = self._wire.ask(place, pack(command) + self._fields(key.space, place) + _INFO, 3)
        if replies is None or replies[0] != prefix or not self._same_server(place, stand, replies[2]):
            return False
        return self._frame(place, stand, replies[1]) is not None

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]:
        """The usable values: one round trip a server."""
        found: dict[Key, Found] = {}
        groups = self._grouped(keys)
        stands = {place: self._authority.current(place.number) for place in groups}
        requests = {place: self._many(place, group) for place, group in groups.items() if stands[place] is not None}
        for place, replies in self._wire.ask_all(requests).items():
            stand = stands[place]
            if stand is not None and self._same_server(place, stand, replies[-1]):
                self._collect(place, stand, groups[place], replies, found)
        return found

    def _many(self, place: Place, keys: Sequence[Key]) -> tuple[bytes, int]:
        values = place.values
        get = pack(("MGET", *[f"{values}{space}:{id}" for space, id in keys]))
        spaces = dict.fromkeys([key[0] for key in keys])
        guards = b"".join([self._fields(space, place) for space in spaces])
        return get + guards + _INFO, len(spaces) + 2

    def _collect(
        self, place: Place, stand: Stand, keys: Sequence[Key], replies: list[Any], found: dict[Key, Found]
    ) -> None:
        spaces = dict.fromkeys([key[0] for key in keys])
        frames = {s: self._frame(place, stand, header) for s, header in zip(spaces, replies[1:-1], strict=True)}
        epoch = replies[1][0]
        for key, value in zip(keys, replies[0], strict=True):
            frame = frames[key[0]]
            if value is not None and value.startswith(OVERLAY) and epoch == stand.epoch:
                if (laid := _overlaid(value, stand)) is not None:
                    found[key] = laid
            elif value is not None and frame is not None and (one := _believed(value, frame)) is not None:
                found[key] = one

    def _guard(self, space: str, place: Place) -> bytes:
        """The rest of a hit's pipeline: the space's generations and marks, and who the server is."""
        guard = self._guards[space, place.number] = self._fields(space, place) + _INFO
        return guard

    def _fields(self, space: str, place: Place) -> bytes:
        whole, births = f"={space}", f"+{space}"
        return pack(("HMGET", place.header, "e", f"n:{whole}", f"m:t:{whole}", f"n:{births}", f"m:t:{births}"))

    def _same_server(self, place: Place, stand: Stand, info: Any) -> bool:
        if b"role:master" in info and stand.probe in info:
            return True
        self._authority.doubt(place.number, stand)
        return False

    def _frame(self, place: Place, stand: Stand, header: Any) -> Frame | None:
        """What a value must look like now to be believed; None when no value of the space may be."""
        epoch, generation, marked, births, newborn = header
        if epoch != stand.epoch:
            self._authority.doubt(place.number, stand)
            return None
        if marked is not None:
            return None
        now = self._authority.clock() + self._authority.server_offset(place.number)
        return _start(stand.prefix, generation or b"-"), None if newborn is not None else births or b"-", now * 1000

    # -- filling ---------------------------------------------------------------------------------------------------

    def lease(self, key: Key) -> Leave:
        """Leave to fill a key; its value, if one came meanwhile; or why it may not be filled."""
        return self.lease_many([key]).get(key)

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Leave]:
        given: dict[Key, Leave] = {}
        asked: dict[Place, tuple[Stand, list[list[tuple[Key, str]]]]] = {}
        requests: dict[Place, tuple[bytes, int]] = {}
        for place, group in self._grouped(keys).items():
            stand = self._authority.current(place.number)
            if stand is not None:
                parts = [[(key, secrets.token_hex(8)) for key in part] for part in _parts(group, lambda key: key)]
                asked[place] = stand, parts
                requests[place] = b"".join([self._lease_call(place, stand, part) for part in parts]), len(parts)
        for place, replies in self._wire.ask_all(requests).items():
            stand, parts = asked[place]
            for part, reply in zip(parts, replies, strict=True):
                answers = reply if isinstance(reply[0], list) else [reply] * len(part)  # refused as a whole
                for (key, token), answer in zip(part, answers, strict=True):
                    given[key] = self._leave(place, stand, key, token, answer)
        return given

    def _lease_call(self, place: Place, stand: Stand, part: Sequence[tuple[Key, str]]) -> bytes:
        names = [f"{space}:{id}" for (space, id), _ in part]
        space = part[0][0].space
        # Nothing may be filled before the epoch is settled, but what is queued has to be known.
        px = _TOKEN_PX if stand.settled else 0
        tokens = [item for name, (_, token) in zip(names, part, strict=True) for item in (name, token)]
        return place.call("LEASE", stand, names, f"={space}", f"+{space}", px, *tokens)

    def _leave(self, place: Place, stand: Stand, key: Key, token: str, reply: list[Any]) -> Leave:
        kind = reply[0]
        if kind == b"LEASE":
            births = b"" if reply[3] else reply[2]
            return Lease(b"L" + token.encode(), reply[1], births, stand)
        if kind == b"HIT":
            return self._read_in_script(place, stand, reply[1])
        if kind == b"WB":
            return _overlaid(reply[1], stand) or _QUEUED
        if kind == b"BUSY":
            return _BUSY
        if kind == b"MARK":
            self._authority.met(place.number, f"{key.space}:{key.id}", reply[1])
            return Met(reply[1] + b" " + reply[2] if stand.settled else None, stand)
        if kind == b"FREE":
            return Met(None, stand)
        if kind == b"HOLD":
            self._authority.met(place.number, f"t:={key.space}", reply[1])
            return Met(None, stand)
        self._authority.doubt(place.number, stand)
        return None

    def _read_in_script(self, place: Place, stand: Stand, value: bytes) -> Leave:
        """A value that LEASE found: the script has compared what a hit compares."""
        start = value.index(b"|", len(stand.prefix)) + 1
        generation, _, payload = value[start:].partition(b"|")
        births = payload[1:] if payload.startswith(_ABSENT) else None
        frame = self._frame(place, stand, (stand.epoch, generation, None, births, None))
        return _believed(value, frame) if frame is not None else None

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None:
        if entry or lease.births:
            place = self._wire.place_of(f"{key.space}:{key.id}")
            self._wire.post(place, self._fill_call(place, lease.stand, [Fill(key, lease, entry, ttl)]))

    def fill_many(self, fills: Sequence[Fill]) -> None:
        fills = [fill for fill in fills if fill.entry or fill.lease.births]
        groups: dict[tuple[int, Stand], list[Fill]] = {}
        for fill in fills:
            place = self._wire.place_of(f"{fill.key.space}:{fill.key.id}")
            groups.setdefault((place.number, fill.lease.stand), []).append(fill)
        for (number, stand), group in groups.items():
            place = self._wire.places[number]
            for part in _parts(group, lambda fill: fill.key, lambda fill: len(fill.entry)):
                self._wire.post(place, self._fill_call(place, stand, part))

    def _fill_call(self, place: Place, stand: Stand, part: Sequence[Fill]) -> bytes:
        space = part[0].key.space
        names: list[str] = []
        given: list[Any] = []
        for key, lease, entry, ttl in part:
            name = f"{key.space}:{key.id}"
            names.append(name)
            payload = entry or _ABSENT + lease.births
            given += (name, lease.generation, lease.births, lease.expect, payload, max(1, int(ttl * 1000)))
        return place.call("FILL", stand, names, f"={space}", f"+{space}", *given)

    def release(self, key: Key, lease: Lease) -> None:
        name = f"{key.space}:{key.id}"
        place = self._wire.place_of(name)
        self._wire.post(place, place.call("RELEASE", lease.stand, [name], lease.expect))

    def extend(self, key: Key, found: Found, entry: bytes, ttl: float) -> None:
        if found.queued:
            return  # the queued write is newer than whatever the database has
        stand = self._authority.current(self._wire.place_of(f"{key.space}:{key.id}").number)
        if stand is not None:  # in another epoch than the value's, it will not be found
            self.fill(key, Lease(found.prefix, found.prefix.split(b"|")[2], b"", stand), entry, ttl)

    def resolve(self, key: Key, met: Met, entry: bytes | None, ttl: float) -> None:
        if met.record is None:
            return
        record, _, generation = met.record.rpartition(b" ")
        name = f"{key.space}:{key.id}"
        place = self._wire.place_of(name)
        change, px = record.partition(b"|")[0], max(1, int(ttl * 1000))
        under = name, change, f"={key.space}", generation
        self._wire.post(place, place.call("RESOLVE", met.stand, [name], *under, entry or b"", px))

    def discard(self, key: Key, found: Found) -> None:
        if found.queued:
            return
        place = self._wire.place_of(f"{key.space}:{key.id}")
        self._wire.post(place, pack(("DEL", place.values + f"{key.space}:{key.id}")))

    def matching(self, space: str, glob: str) -> set[str] | None:
        """The ids under a space that match a glob: one SCAN of every server, given up (None) when it is too long."""
        found: set[str] = set()
        pattern = f"{self._wire.pattern}:v:{space}:{glob.replace(chr(92), chr(92) * 2).replace('[!', '[^')}"
        for places in self._wire.by_server(self._wire.places):
            names = self._scan(places[0], pattern)
            if names is None:
                return None
            found |= {name.decode().split(f":v:{space}:", 1)[1] for name in names}
        return found

    def _scan(self, place: Place, pattern: str) -> set[bytes] | None:
        cursor, found = b"0", set()
        for _ in range(_MOST_SCANS):
            replies = self._wire.ask(place, pack(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)), 1)
            if replies is None:
                return None
            cursor, names = replies[0]
            found |= set(names)
            if cursor == b"0":
                return found
        return None

    def _grouped(self, keys: Sequence[Key]) -> Mapping[Place, Sequence[Key]]:
        if self._wire.alone:
            return {self._wire.places[0]: keys} if keys else {}
        groups: dict[Place, list[Key]] = {}
        for key in keys:
            groups.setdefault(self._wire.place_of(f"{key.space}:{key.id}"), []).append(key)
        return groups

    # -- the rest --------------------------------------------------------------------------------------------------

    def ping(self) -> bool:
        """Whether the first shard's server answers now."""
        return self._wire.ask(self._wire.places[0], pack(("PING",)), 1) is not None

    def reset_after_fork(self) -> None:
        self._wire.reset_after_fork()

    def close(self) -> None:
        self._wire.close()


def _parts(items: Sequence[T], key_of: Callable[[T], Key], size: Callable[[T], int] = lambda _: 0) -> Iterator[list[T]]:
    """Items of one space, not so many at once that one call would keep the server from its other work."""
    part: list[T] = []
    weight = 0
    for item in items:
        weight += size(item)
        if part and (len(part) == _MOST_KEYS or weight > _MOST_BYTES or key_of(item).space != key_of(part[0]).space):
            yield part
            part, weight = [], size(item)
        part.append(item)
    if part:
        yield part


#: How a value of the epoch and generation begins, the generation of births (None: there are some just now), and the
#: server's time in milliseconds.
Frame = tuple[Callable[[bytes], re.Match[bytes] | None], bytes | None, float]


@lru_cache(maxsize=256)
def _start(prefix: bytes, generation: bytes) -> Callable[[bytes], re.Match[bytes] | None]:
    """Matches the start of a value, up to its payload; its first group is its end."""
    return re.compile(re.escape(prefix) + rb"[^|.]*\.(\d+)\|" + re.escape(generation) + rb"\|").match


def _overlaid(value: bytes, stand: Stand) -> Found | None:
    """What a queued write left; None if it is of another epoch or does not say what the row is now."""
    if not value.startswith(stand.prefix[1:], 1):
        return None
    at = value.find(b"|", len(stand.prefix)) + 1
    if not at or at == len(value):
        return None
    entry = value[at:]
    return Found(b"" if entry == _ABSENT else entry, _OVERLAY_LIFE, value[:at])


def _believed(value: bytes, frame: Frame) -> Found | None:
    start, births, now = frame
    found = start(value)
    if found is None:
        return None
    at, left = found.end(), int(found[1]) - now
    if left <= 0:
        return None
    if not value.startswith(_ABSENT, at):
        return Found(value[at:], left / 1000, value[:at])
    return Found(b"", left / 1000, value[:at]) if value[at + 1 :] == births else None

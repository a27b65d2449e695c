"""``RedisTier``: rows in Redis that may be believed, and invalidations that are never forgotten.

Everything lies under an *epoch*. A value is used only if it carries the epoch that this process holds and that the
shard's header names, and the generation of its space. An invalidation that could not be confirmed ends the epoch here:
nothing is read or filled until a new one has been opened in Redis, under which every value written before is a miss.

A fill is stored only if it still finds its token, and a delete removes the token: the writer always wins. Reads and
fills never raise because of Redis; they answer "nothing".
"""

from __future__ import annotations

import logging
import secrets
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ...contracts.tier import Found, Key, Lease
from ..breaker import Breaker
from .links import Command, Link, Links
from .scripts import FILL_SHA, LEASE_SHA, MANY_SHA, OPEN_SHA
from .topology import topology_of

log = logging.getLogger("datalayer.l2")

R = TypeVar("R")

_TOKEN_PX = 3000
_MOVED = ("MOVED", "ASK", "CLUSTERDOWN", "READONLY", "TRYAGAIN", "MASTERDOWN")


class _Shard:
    """One shard's names, and the epoch that this process believes in."""

    __slots__ = ("epoch", "header", "least", "lock", "renew", "tag", "values")

    def __init__(self, prefix: str, number: int) -> None:
        self.tag = f"{{{prefix}:{number}}}"
        self.header = f"{self.tag}:h"
        self.values = f"{self.tag}:v:"
        self.lock = threading.Lock()
        self.epoch: bytes | None = None
        self.least = 1
        self.renew = False


class RedisTier:
    """The shared tier on Redis 7 or Valkey. Thread-safe.

    ``timeout`` in seconds bounds every wait; a read on a connection that had died in the pool is repeated ``retries``
    times, never after a timeout. ``on_error`` is told each failure's kind. ``round_trips`` counts waits for replies.
    """

    enabled = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "dl",
        timeout: float = 0.25,
        retries: int = 1,
        breaker: Breaker,
        max_connections: int = 100,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self._topology = topology_of(url, timeout=timeout, most=max_connections)
        self._shards = [_Shard(prefix, number) for number in range(self._topology.shards)]
        self._breaker = breaker
        self._retries = retries
        self._on_error = on_error or (lambda _kind: None)
        self._loud = True
        self.round_trips = 0

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Found | None:
        """The usable value of one key: one round trip."""
        shard = self._shard(key)
        epoch = self._epoch(shard)
        if epoch is None:
            return None
        name = shard.values + f"{key.space}:{key.id}"
        commands = ("GET", name), ("PTTL", name), ("HMGET", shard.header, "e", "n:" + key.space)
        replies = self._ask(shard, lambda link: link.ask(*commands))
        if replies is None:
            return None
        value, ttl, (stored, generation) = replies
        return self._usable(shard, epoch, value, ttl, stored, generation)

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]:
        """The usable values: one round trip a shard, and the shards of one server together."""
        found: dict[Key, Found] = {}
        for shard, group in self._grouped(keys):
            epoch = self._epoch(shard)
            if epoch is not None:
                found |= self._get_group(shard, epoch, group)
        return found

    def _get_group(self, shard: _Shard, epoch: bytes, keys: Sequence[Key]) -> dict[Key, Found]:
        names = [shard.values + f"{key.space}:{key.id}" for key in keys]
        spaces = list(dict.fromkeys(key.space for key in keys))
        fields = [f"n:{space}" for space in spaces]
        # A script, because reading one reply for each key's remaining life would cost more than all the rest.
        command = ("EVALSHA", MANY_SHA, len(names) + 1, shard.header, *names, *fields)
        replies = self._ask(shard, lambda link: link.ask(command))
        if replies is None:
            return {}
        values, ttls, (stored, *generations) = replies[0]
        of = dict(zip(spaces, generations, strict=True))
        found = {}
        for key, value, ttl in zip(keys, values, ttls, strict=True):
            usable = self._usable(shard, epoch, value, ttl, stored, of[key.space])
            if usable is not None:
                found[key] = usable
        return found

    def _usable(
        self, shard: _Shard, epoch: bytes, value: bytes | None, ttl: int, stored: bytes | None, generation: bytes | None
    ) -> Found | None:
        if stored != epoch:
            self._lost(shard, epoch)
            return None
        if value is None or ttl <= 0 or not value.startswith(b"V" + epoch + b"|"):
            return None
        a = value.find(b"|", len(epoch) + 2)
        b = value.find(b"|", a + 1)
        if a < 0 or b < 0 or value[a + 1 : b] != (generation or b"-"):
            return None
        return Found(value[b + 1 :], ttl / 1000, value[: b + 1])

    # -- filling ---------------------------------------------------------------------------------------------------

    def lease(self, key: Key) -> Lease | Found | None:
        """Leave to fill a key; the value, if one came meanwhile; None if somebody else is filling it."""
        return self._leases([key]).get(key)

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Lease]:
        return {key: lease for key, lease in self._leases(keys).items() if isinstance(lease, Lease)}

    def _leases(self, keys: Sequence[Key]) -> dict[Key, Lease | Found]:
        given: dict[Key, Lease | Found] = {}
        for shard, group in self._grouped(keys):
            epoch = self._epoch(shard)
            if epoch is None:
                continue
            tokens = [secrets.token_hex(8) for _ in group]
            commands = [self._lease_command(shard, epoch, key, token) for key, token in zip(group, tokens, strict=True)]
            replies = self._ask(shard, lambda link, commands=commands: link.ask(*commands))  # type: ignore[misc]
            for key, token, reply in zip(group, tokens, replies or (), strict=False):
                answer = self._leased(shard, epoch, token, reply)
                if answer is not None:
                    given[key] = answer
        return given

    def _lease_command(self, shard: _Shard, epoch: bytes, key: Key, token: str) -> Command:
        name = shard.values + f"{key.space}:{key.id}"
        return ("EVALSHA", LEASE_SHA, 2, shard.header, name, epoch, f"n:{key.space}", token, _TOKEN_PX)

    def _leased(self, shard: _Shard, epoch: bytes, token: str, reply: list[Any]) -> Lease | Found | None:
        if reply[0] == b"L":
            return Lease(b"L" + token.encode(), reply[1].decode())
        if reply[0] == b"V":
            end = reply[1].index(b"|", reply[1].index(b"|", len(epoch) + 2) + 1) + 1
            return Found(reply[1][end:], max(reply[2], 1) / 1000, reply[1][:end])
        if reply[0] == b"E":
            self._lost(shard, epoch)
        return None

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None:
        """Store a value under a lease; nobody waits for it."""
        self.fill_many({key: (lease, entry)}, ttl)

    def fill_many(self, fills: Mapping[Key, tuple[Lease, bytes]], ttl: float) -> None:
        for shard, group in self._grouped(fills):
            epoch = shard.epoch
            if epoch is None:
                continue
            commands = [self._fill_command(shard, epoch, key, *fills[key], ttl) for key in group]
            self._ask(shard, lambda link, commands=commands: [link.post(c) for c in commands], waits=False)  # type: ignore[misc]

    def _fill_command(self, shard: _Shard, epoch: bytes, key: Key, lease: Lease, entry: bytes, ttl: float) -> Command:
        name = shard.values + f"{key.space}:{key.id}"
        field, px = f"n:{key.space}", max(1, int(ttl * 1000))
        return ("EVALSHA", FILL_SHA, 2, shard.header, name, epoch, field, lease.generation, lease.expect, entry, px)

    # -- invalidation ----------------------------------------------------------------------------------------------

    def delete(self, keys: Sequence[Key]) -> bool:
        """Remove values and tokens. False when the server did not confirm it: then the epoch has ended here."""
        done = True
        for shard, group in self._grouped(keys):
            names = [shard.values + f"{key.space}:{key.id}" for key in group]
            done &= self._confirmed(shard, [("DEL", *names)])
        return done

    def bump(self, spaces: Sequence[str]) -> bool:
        """Make every value of some spaces a miss, whatever their number."""
        done = True
        for shard in self._shards:
            fields = [part for space in spaces for part in (f"n:{space}", secrets.token_hex(8))]
            done &= self._confirmed(shard, [("HSET", shard.header, *fields)])
        return done

    def _confirmed(self, shard: _Shard, commands: list[Command]) -> bool:
        for _ in range(2):  # a second time on a slot that moved, or a connection that had died
            if self._ask(shard, lambda link: link.ask(*commands)) is not None:
                return True
        with shard.lock:
            shard.epoch, shard.renew = None, True
        return False

    # -- epochs ----------------------------------------------------------------------------------------------------

    def _epoch(self, shard: _Shard) -> bytes | None:
        return shard.epoch if shard.epoch is not None else self._open(shard)

    def _open(self, shard: _Shard) -> bytes | None:
        """Adopt the shard's epoch, or make a new one if an invalidation was lost."""
        with shard.lock:
            if shard.epoch is not None:
                return shard.epoch
            renew = shard.renew
            command = ("EVALSHA", OPEN_SHA, 1, shard.header, shard.least, secrets.token_hex(6), int(renew))
            replies = self._ask(shard, lambda link: link.ask(command))
            if replies is None:
                return None
            shard.renew = False
            return self._adopt(shard, replies[0], renewed=renew)

    def _adopt(self, shard: _Shard, epoch: bytes, *, renewed: bool) -> bytes:
        shard.epoch = epoch
        shard.least = int(epoch.split(b".")[0])
        log.info("shard %s uses epoch %s%s", shard.tag, epoch.decode(), " after a lost invalidation" if renewed else "")
        return epoch

    def _lost(self, shard: _Shard, epoch: bytes) -> None:
        """The header names another epoch, or none: data were lost, or somebody opened a new one."""
        with shard.lock:
            if shard.epoch == epoch:
                shard.epoch = None
                log.warning("shard %s no longer has epoch %s", shard.tag, epoch.decode())

    # -- talking ---------------------------------------------------------------------------------------------------

    def _shard(self, key: Key) -> _Shard:
        if len(self._shards) == 1:
            return self._shards[0]
        return self._shards[zlib.crc32(f"{key.space}:{key.id}".encode()) % len(self._shards)]

    def _grouped(self, keys: Iterable[Key]) -> Iterable[tuple[_Shard, list[Key]]]:
        groups: dict[_Shard, list[Key]] = {}
        for key in keys:
            groups.setdefault(self._shard(key), []).append(key)
        return groups.items()

    def _ask(self, shard: _Shard, work: Callable[[Link], R], *, waits: bool = True) -> R | None:
        """Run ``work`` on a held connection; None when Redis failed it."""
        if not self._breaker.allow():
            return None
        for attempt in range(self._retries + 1):
            links: Links | None = None
            link: Link | None = None
            try:
                links = self._topology.links(shard.tag)
                link = links.take()
                answer = work(link)
            except (RedisError, OSError, ValueError) as error:
                stale = link is not None and not link.fresh
                if links is not None and link is not None:
                    links.drop(link)
                if attempt < self._retries and stale and _died_in_pool(error):
                    continue
                self._failed(error)
                return None
            except BaseException:
                if links is not None and link is not None:
                    links.drop(link)
                raise
            links.give(link)
            self.round_trips += waits
            self._breaker.success()
            return answer
        return None

    def _failed(self, error: Exception) -> None:
        kind = _kind(error)
        self._on_error(kind)
        if kind == "auth" and self._loud:
            self._loud = False
            log.error(
                "Redis refuses our credentials (%s); the shared cache is off until they are right", type(error).__name__
            )
        if kind in ("moved", "connection", "timeout"):
            self._topology.refresh()
        if kind not in ("refused", "moved"):
            self._breaker.failure()

    def ping(self) -> bool:
        """Whether the first shard's server answers now."""
        return self._ask(self._shards[0], lambda link: link.ask(("PING",))) is not None

    def reset_after_fork(self) -> None:
        self._topology.forget()
        self._breaker.reset_after_fork()
        for shard in self._shards:
            shard.lock = threading.Lock()
            shard.epoch = None

    def close(self) -> None:
        self._topology.close()


def _died_in_pool(error: Exception) -> bool:
    return isinstance(error, RedisConnectionError | OSError) and not isinstance(
        error, TimeoutError | BusyLoadingError | AuthenticationError
    )


def _kind(error: Exception) -> str:
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return "auth"
    if isinstance(error, BusyLoadingError):
        return "loading"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ResponseError):
        return (
            "moved"
            if str(error).startswith(_MOVED) or type(error).__name__.removesuffix("Error").upper() in _MOVED
            else "refused"
        )
    return "connection"

"""Talking to the shards: packed commands out, replies back, and what happens when a server fails.

Nothing here raises because of Redis: the answer is None. A connection that had died in the pool is replaced within the
call, a timeout is never repeated, and the breaker keeps a dead server from costing anything.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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

from ...contracts.fence import Stand
from ..breaker import Breaker
from .links import Link, Links, pack
from .scripts import SHA
from .topology import Topology

log = logging.getLogger("datalayer.l2")

_MOVED = ("MOVED", "ASK", "CLUSTERDOWN", "READONLY", "TRYAGAIN", "MASTERDOWN")

Request = tuple[bytes, int]


class Place:
    """The names of one shard. Its hash tag puts header, values and channel into one slot."""

    __slots__ = ("channel", "header", "number", "results", "tag", "values")

    def __init__(self, prefix: str, number: int, database: int) -> None:
        self.number = number
        self.tag = f"{{{prefix}:{number}}}"
        self.header = f"{self.tag}:h"
        self.values = f"{self.tag}:v:"
        self.results = f"{self.tag}:r:"
        # Channels, unlike keys, are the same in all databases of a server.
        self.channel = f"{self.tag}:b:{database}" if database else f"{self.tag}:b"

    def call(self, script: str, stand: Stand, names: Sequence[str], *arguments: Any) -> bytes:
        """The packed call of a script under a stand, on the values of some keys."""
        values = self.values
        head = ("EVALSHA", SHA[script], 1 + len(names), self.header)
        return pack((*head, *[values + name for name in names], stand.lineage, stand.epoch, *arguments))


class Wire:
    """The shards of one Redis. Thread-safe. ``round_trips`` counts a caller's waits for replies.

    ``on_error`` is told each failure's kind: connection, timeout, moved, refused, loading or auth.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        prefix: str,
        retries: int,
        breaker: Breaker,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self.topology = topology
        self.places = [Place(prefix, number, topology.database) for number in range(topology.shards)]
        self.alone = len(self.places) == 1
        self.pattern = f"{{{prefix}:*}}"
        self.round_trips = 0
        self._breaker = breaker
        self._retries = retries
        self._on_error = on_error or (lambda _kind: None)
        self._loud = True

    def place_of(self, name: str) -> Place:
        """The shard that a key or tag belongs to."""
        if len(self.places) == 1:
            return self.places[0]
        return self.places[zlib.crc32(name.encode()) % len(self.places)]

    def ask(
        self,
        place: Place,
        data: bytes,
        count: int,
        *,
        urgent: bool = False,
        once: bool = False,
        counted: bool = True,
    ) -> list[Any] | None:
        """The replies to ``count`` commands in one write, or None when Redis failed any of them.

        ``urgent``: even a server that the breaker keeps from reads is asked. ``once``: the commands may not run
        twice, and may have run when their connection is found dead. ``counted``: somebody waits for it.
        """
        if not urgent and not self._breaker.allow():
            return None
        self.round_trips += counted
        try:
            return self._attempt(place, data, count, Links.take)
        except _Failed as failure:
            if not (failure.stale and self._retries and not once):
                self._failed(failure.error)
                return None
        try:
            # Those that lie in the pool died with it, perhaps: a new connection answers for certain.
            return self._attempt(place, data, count, Links.open)
        except _Failed as failure:
            self._failed(failure.error)
            return None

    def _attempt(self, place: Place, data: bytes, count: int, take: Callable[[Links], Link]) -> list[Any]:
        link: Link | None = None
        try:
            links = self.topology.links(place.tag)
            link = take(links)
            replies = link.ask(data, count)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except BaseException as error:
            stale = link is not None and not link.fresh and _died_in_pool(error)
            if link is not None:
                links.drop(link)
            if isinstance(error, RedisError | OSError | ValueError):
                raise _Failed(error, stale) from error
            raise  # interrupted half-way: nobody knows what the connection would say next
        links.give(link)
        if self._breaker.failed:
            self._breaker.success()
        return replies

    def ask_all(
        self, requests: Mapping[Place, Request], *, urgent: bool = False, counted: bool = True
    ) -> dict[Place, list[Any]]:
        """The replies of the shards that answered; the shards of one server share a round trip."""
        if len(requests) == 1:
            ((place, (data, count)),) = requests.items()
            replies = self.ask(place, data, count, urgent=urgent, counted=counted)
            return {} if replies is None else {place: replies}
        answers: dict[Place, list[Any]] = {}
        for places in self.by_server(requests):
            data = b"".join([requests[place][0] for place in places])
            total = sum(requests[place][1] for place in places)
            together = self.ask(places[0], data, total, urgent=urgent, counted=counted)
            if together is None:  # one of them may have moved: each for itself
                alone = [(place, self.ask(place, *requests[place], urgent=urgent)) for place in places[1:] and places]
                answers |= {place: replies for place, replies in alone if replies is not None}
                continue
            at = 0
            for place in places:
                answers[place] = together[at : at + requests[place][1]]
                at += requests[place][1]
        return answers

    def by_server(self, places: Iterable[Place]) -> list[list[Place]]:
        """The shards that each server holds."""
        groups: dict[int, list[Place]] = {}
        for place in places:
            try:
                server = id(self.topology.links(place.tag))
            except (RedisError, OSError) as error:
                self._failed(error)
                continue
            groups.setdefault(server, []).append(place)
        return list(groups.values())

    def post(self, place: Place, data: bytes) -> bool:
        """Send one command whose reply nobody waits for; whether it could be sent."""
        if not self._breaker.allow():
            return False
        link: Link | None = None
        try:
            links = self.topology.links(place.tag)
            link = links.take()
            link.post(data)
        except (RedisError, OSError, ValueError) as error:
            if link is not None:
                links.drop(link)
            self._failed(error)
            return False
        except BaseException:
            if link is not None:
                links.drop(link)
            raise
        links.give(link)
        return True

    def links(self, place: Place) -> Links:
        """The held connections to a shard's server; RedisError if there is none now."""
        return self.topology.links(place.tag)

    def _failed(self, error: Exception) -> None:
        kind = _kind(error)
        self._on_error(kind)
        if kind == "auth" and self._loud:
            self._loud = False
            name = type(error).__name__
            log.error("Redis refuses our credentials (%s); the shared cache is off until they are right", name)
        if kind in ("moved", "connection", "timeout"):
            self.topology.refresh()
        if kind not in ("refused", "moved"):
            self._breaker.failure()

    def reset_after_fork(self) -> None:
        self.topology.forget()
        self._breaker.reset_after_fork()

    def close(self) -> None:
        self.topology.close()


class _Failed(Exception):
    """Redis failed an attempt; ``stale``: on a connection that had worked before and was found dead."""

    def __init__(self, error: Exception, stale: bool) -> None:
        self.error = error
        self.stale = stale


def _died_in_pool(error: BaseException) -> bool:
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
        name = type(error).__name__.removesuffix("Error").upper()
        return "moved" if str(error).startswith(_MOVED) or name in _MOVED else "refused"
    return "connection"

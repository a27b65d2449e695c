"""Held connections: a redis-py ``Connection`` is kept and spoken to directly, last in first out.

redis-py's client spends most of a GET in its own pool, hooks and retries; its ``Connection`` has public methods for
what is needed here. A command whose reply nobody waits for leaves the reply to be read before the next one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from . import scripts

Command = tuple[Any, ...]

_MOST_PENDING = 64


class Link:
    """One connection in the hands of one thread. ``fresh`` until its first reply."""

    __slots__ = ("connection", "fresh", "pending")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.pending = 0
        self.fresh = True
        connection.connect()
        # Scripts live in the server's memory: whoever connects brings them along, without waiting.
        for script in scripts.ALL:
            self.post(("SCRIPT", "LOAD", script))

    def send(self, *commands: Command) -> None:
        self.connection.send_packed_command([b"".join(map(hiredis.pack_command, commands))], check_health=False)

    def post(self, command: Command) -> None:
        """Send without waiting for the reply."""
        self.send(command)
        self.pending += 1
        if self.pending > _MOST_PENDING:
            self.drain()

    def drain(self) -> None:
        while self.pending:
            self.pending -= 1
            try:
                self.connection.read_response()
            except ResponseError:
                continue  # a refused fill: the value is not there, which is what a miss means

    def read(self) -> Any:
        if self.pending:
            self.drain()
        reply = self.connection.read_response()
        self.fresh = False
        return reply

    def ask(self, *commands: Command) -> list[Any]:
        """Send all, then read all: one round trip."""
        self.send(*commands)
        return [self.read() for _ in commands]


class Links:
    """The held connections to one server. Thread-safe without a lock: deque operations are atomic."""

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self._make = make
        self._free: deque[Link] = deque()
        self._most = most
        self._made = itertools.count(1)
        self._lost = 0

    def take(self) -> Link:
        try:
            return self._free.pop()
        except IndexError:
            if next(self._made) - self._lost > self._most:
                self._lost += 1
                raise RedisConnectionError(f"all {self._most} connections to Redis are in use") from None
        try:
            return Link(self._make())
        except BaseException:
            self._lost += 1
            raise

    def give(self, link: Link) -> None:
        self._free.append(link)

    def drop(self, link: Link) -> None:
        """Close a connection whose state is not known."""
        self._lost += 1
        link.connection.disconnect()

    def close(self) -> None:
        while self._free:
            self.drop(self._free.pop())

    def forget(self) -> None:
        """After a fork: the sockets are the parent's to use."""
        self._free = deque()

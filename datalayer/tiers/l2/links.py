"""Held connections: redis-py opens them, then the socket is spoken to directly, last in first out.

redis-py's client spends most of a GET in its own pool, hooks, retries and response handling. Here a request is one
``send`` of packed bytes and its replies one ``recv`` into a hiredis reader. A command whose reply nobody waits for
leaves the reply to be read before the next one's.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from . import behind, scripts

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command

_MOST_PENDING = 64
_CHUNK = 65536
_LOUD: dict[str, type[Exception]] = {
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
    "NOPERM": NoPermissionError,
}


def _reply_error(text: str) -> Exception:
    return _LOUD.get(text.partition(" ")[0], ResponseError)(text)


class Link:
    """One connection in the hands of one thread. ``fresh`` until its first reply."""

    __slots__ = ("_connection", "_feed", "_next", "_recv", "_send", "fresh", "pending")

    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        connection.connect()
        sock = connection._sock
        if type(sock) is socket.socket:
            # A socket with a timeout of Python's own polls before every call; the kernel's costs nothing.
            sock.settimeout(None)
            limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        reader = hiredis.Reader(protocolError=RedisConnectionError, replyError=_reply_error)
        self._send, self._recv, self._feed, self._next = sock.sendall, sock.recv, reader.feed, reader.gets
        self.pending = 0
        self.fresh = True
        # Scripts live in the server's memory: whoever connects brings them along, without waiting.
        for script in (*scripts.ALL.values(), *behind.ALL.values()):
            self.post(pack(("SCRIPT", "LOAD", script)))

    def post(self, data: bytes) -> None:
        """Send one packed command without waiting for its reply."""
        self._write(data)
        self.pending += 1
        if self.pending > _MOST_PENDING:
            self._read(0)

    def ask(self, data: bytes, count: int) -> list[Any]:
        """Send ``count`` packed commands, then read their replies: one round trip. Errors are among the replies."""
        self._write(data)
        return self._read(count)

    def _write(self, data: bytes) -> None:
        try:
            self._send(data)
        except (BlockingIOError, TimeoutError) as error:
            raise RedisTimeoutError("Redis took no bytes in time") from error

    def _read(self, count: int) -> list[Any]:
        """The last ``count`` replies; those that nobody waited for come first and are thrown away."""
        skip, self.pending = self.pending, 0
        wanted, following = skip + count, self._next
        replies: list[Any] = []
        if wanted:
            self._more()
        while len(replies) < wanted:
            reply = following()
            if reply is False:  # hiredis says "not yet" with False, which no reply of protocol 2 is
                self._more()
            else:
                replies.append(reply)
        self.fresh = False
        return replies[skip:] if skip else replies

    def _more(self) -> None:
        try:
            data = self._recv(_CHUNK)
        except (BlockingIOError, TimeoutError) as error:
            raise RedisTimeoutError("Redis did not answer in time") from error
        if not data:
            raise RedisConnectionError("Redis closed the connection")
        self._feed(data)

    def close(self) -> None:
        self._connection.disconnect()


class Links:
    """The held connections to one server. Thread-safe without a lock: deque operations are atomic."""

    def __init__(self, make: Callable[[], Any], most: int, timeout: float) -> None:
        self._make = make
        self._free: deque[Link] = deque()
        self._most = most
        self._timeout = timeout
        self._made = itertools.count(1)
        self._lost = 0

    def take(self) -> Link:
        try:
            return self._free.pop()
        except IndexError:
            return self.open()

    def open(self) -> Link:
        """A connection that was not in the pool; ConnectionError when there are as many as there may be."""
        if next(self._made) - self._lost > self._most:
            self._lost += 1
            raise RedisConnectionError(f"all {self._most} connections to Redis are in use")
        try:
            return Link(self._make(), self._timeout)
        except BaseException:
            self._lost += 1
            raise

    def give(self, link: Link) -> None:
        self._free.append(link)

    def drop(self, link: Link) -> None:
        """Close a connection whose state is not known."""
        self._lost += 1
        link.close()

    def connection(self) -> Any:
        """A connection of redis-py that is the caller's own, not yet connected: for the bus."""
        return self._make()

    def close(self) -> None:
        while self._free:
            self.drop(self._free.pop())

    def forget(self) -> None:
        """After a fork: the sockets are the parent's to use."""
        self._free = deque()

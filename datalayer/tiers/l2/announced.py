"""Hears what programs outside the layer announce as changed: ``PUBLISH <channel> "table:key"``.

For writers that know no layer and no triggers, but Redis. Nothing says how many announcements there were, so after
every break of the connection whatever might have been announced is forgotten. An announcement is as late as its
sender: rows are stale from the commit until then.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import hiredis
from redis.exceptions import RedisError

from ...contracts.coherence import WriteSet
from ...contracts.keys import parse_key
from ...observe.daemon import Daemon
from .links import pack
from .wire import Wire

log = logging.getLogger("datalayer.l2")

_TICK = 0.25
_PAUSE = 0.5
_PING = 5.0
_DEAF = 12.0
_WHOLE = "*"

Broken = (RedisError, OSError, ValueError, hiredis.HiredisError)


class Announcements:
    """The listener of one layer: one thread, one connection. Thread-safe. It starts with the first cached model.

    ``patterns`` (``table:*``) say which announcements are heeded; none: all. ``models`` are the ladders of every model
    of the layer, ``forget`` drops what a write set names from every tier. ``heeded`` and ``ignored`` count.
    """

    def __init__(
        self,
        wire: Wire,
        channel: str,
        patterns: Sequence[str],
        models: Callable[[], Iterable[Any]],
        forget: Callable[[WriteSet], object],
    ) -> None:
        self.heeded = 0
        self.ignored = 0
        self._wire = wire
        self._channel = channel
        self._patterns = tuple(patterns)
        self._models = models
        self._forget = forget
        self._daemon = Daemon("datalayer-announcements", _run, weakref.ref(self))

    def start(self) -> None:
        self._daemon.start()

    def connect(self) -> Any:
        """A connection that has asked to be subscribed; RedisError or OSError when the server is away."""
        connection = self._wire.links(self._wire.places[0]).connection()
        connection.connect()
        connection._sock.sendall(pack(("SUBSCRIBE", self._channel)))
        return connection

    def hear(self, text: str) -> None:
        """Forget what one announcement names: ``table:key`` or ``table:*``, the key as in the layer's keys in Redis."""
        table, colon, id = text.strip().partition(":")
        found = [ladder for ladder in self._models() if table in (ladder.base_table, ladder.space)]
        if not colon or not found or not self._heeds(text.strip()):
            self.ignored += 1
            return
        written = WriteSet()
        for ladder in found:
            key = None if id == _WHOLE else parse_key(id, ladder.schema.key_types)
            if key is None:
                written.tables.add(ladder.base_table)
            else:
                written.touch(ladder.base_table, key if isinstance(key, tuple) else (key,), (ladder.base_table,))
        self._forget(written)
        self.heeded += 1

    def _heeds(self, text: str) -> bool:
        return not self._patterns or any(fnmatchcase(text, pattern) for pattern in self._patterns)

    def missed(self) -> None:
        """Announcements may have been lost: forget everything that one could name."""
        tables = {ladder.base_table for ladder in self._models()}
        if self._patterns:
            heads = [pattern.partition(":")[0] for pattern in self._patterns]
            tables = {table for table in tables if any(fnmatchcase(table, head) for head in heads)}
        if tables:
            self._forget(WriteSet(tables=tables))

    def refresh(self) -> None:
        """The servers may have changed places."""
        self._wire.topology.refresh()

    def close(self) -> None:
        self._daemon.close()

    def reset_after_fork(self) -> None:
        """The parent's thread and connection stay the parent's."""
        if self._daemon.reset_after_fork():
            self.start()


def _run(owner: weakref.ref[Announcements], stop: threading.Event) -> None:
    first, told = True, False
    while not stop.is_set() and (announcements := owner()) is not None:
        connection = None
        try:
            connection = announcements.connect()
            del announcements
            _listen(owner, connection, stop, first)
            first = told = False
        except Exception as error:
            if not told:
                log.warning("announcements of outside writes are not heard (%s)", type(error).__name__)
            first, told = False, True
            if (announcements := owner()) is not None and isinstance(error, Broken):
                announcements.refresh()
        finally:
            announcements = None
            if connection is not None:
                connection.disconnect()
        stop.wait(_PAUSE)


def _listen(owner: weakref.ref[Announcements], connection: Any, stop: threading.Event, first: bool) -> None:
    """Hear until the connection breaks, is silent for too long, or something could not be forgotten."""
    reader, heard, asked = hiredis.Reader(), time.monotonic(), time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(connection._sock, selectors.EVENT_READ)
        while not stop.is_set():
            ready = selector.select(_TICK)
            announcements, now = owner(), time.monotonic()
            if announcements is None:
                return
            if ready:
                data = connection._sock.recv(65536)
                if not data:
                    raise ConnectionError("Redis closed the channel")
                heard = now
                reader.feed(data)
                _tell(announcements, reader, first)
            if now - heard > _DEAF:
                raise ConnectionError("Redis is silent")
            if now - asked > _PING:
                asked = now
                connection._sock.sendall(pack(("PING",)))
            del announcements


def _tell(announcements: Announcements, reader: Any, first: bool) -> None:
    while (reply := reader.gets()) is not False:
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"subscribe" and not first:
            announcements.missed()
        elif reply[0] == b"message":
            for line in reply[2].decode("utf-8", "replace").splitlines():
                announcements.hear(line)

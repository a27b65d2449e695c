"""Hears the channels of all shards: one thread, one connection a server, subscribed anew whenever one breaks.

Nothing that is heard is believed to be complete: that is the bus's business (:mod:`datalayer.coherence.bus`), which
also says when it has been silent for too long, so that a connection to a server that is no longer the master is given
up.
"""

from __future__ import annotations

import logging
import random
import select
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import RedisError

from ...contracts.fence import Message
from .links import pack
from .wire import Place, Wire

log = logging.getLogger("datalayer.l2")

_TICK = 0.25
_LONGEST_PAUSE = 5.0


class _Ear:
    """A subscribed connection."""

    def __init__(self, connection: Any, subscribe: str, places: list[Place]) -> None:
        connection.connect()
        self._connection = connection
        self._sock = connection._sock
        self._reader = hiredis.Reader()
        self._sock.sendall(b"".join([pack((subscribe, place.channel)) for place in places]))

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def messages(self) -> list[tuple[bytes, bytes]]:
        """What has arrived; OSError when the connection is gone."""
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("Redis closed the bus")
        self._reader.feed(data)
        found = []
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                raise reply
            if reply[0] in (b"message", b"smessage"):
                found.append((reply[1], reply[2]))
        return found

    def close(self) -> None:
        self._connection.disconnect()


class Subscriber:
    """See :class:`datalayer.coherence.bus.Listener`. Holds whom it calls weakly; stops when they are gone."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._shards = {place.channel.encode(): place.number for place in wire.places}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, hear: Callable[[Message], object], silent: Callable[[], bool]) -> None:
        """Begin to listen; ``hear`` is called in the listener's thread, ``silent`` asked now and then."""
        target = _Loop(self, weakref.WeakMethod(hear), weakref.WeakMethod(silent), self._stop)
        self._thread = threading.Thread(target=target.run, name="datalayer-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def reset_after_fork(self) -> None:
        self._stop, self._thread = threading.Event(), None

    def open(self) -> list[_Ear]:
        """Subscribe to every shard; RedisError or OSError when a server is away."""
        subscribe = "SSUBSCRIBE" if self._wire.topology.publish == "SPUBLISH" else "SUBSCRIBE"
        ears: list[_Ear] = []
        try:
            for places in self._wire.by_server(self._wire.places):
                ears.append(_Ear(self._wire.links(places[0]).connection(), subscribe, places))
        except BaseException:
            for ear in ears:
                ear.close()
            raise
        return ears

    def message(self, channel: bytes, data: bytes) -> Message | None:
        kind, epoch, sequence, *rest = data.decode("utf-8", "surrogateescape").split(" ")
        shard = self._shards.get(channel)
        return None if shard is None else Message(kind, shard, epoch.encode(), int(sequence), rest)

    def refresh(self) -> None:
        """The servers may have changed places."""
        self._wire.topology.refresh()


class _Loop:
    def __init__(self, owner: Subscriber, hear: Any, silent: Any, stop: threading.Event) -> None:
        self._owner = owner
        self._hear = hear
        self._silent = silent
        self._stop = stop

    def run(self) -> None:
        pause = _TICK / 5
        while not self._stop.is_set() and self._hear() is not None:
            try:
                ears = self._owner.open()
            except (RedisError, OSError, ValueError):
                self._owner.refresh()
                self._stop.wait(pause * (0.75 + 0.5 * random.random()))
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _TICK / 5
            try:
                self._listen(ears)
            except (RedisError, OSError, ValueError, hiredis.HiredisError) as error:
                log.info("the bus broke (%s); subscribing anew", type(error).__name__)
                self._owner.refresh()
            finally:
                for ear in ears:
                    ear.close()

    def _listen(self, ears: list[_Ear]) -> None:
        quiet, looked = 0, time.monotonic()
        wait = _waiting(ears)
        while not self._stop.is_set():
            ready = wait()
            for ear in ready:
                self._tell(ear.messages())
            if (now := time.monotonic()) - looked >= _TICK or not ready:
                looked, silent = now, self._silent()
                quiet = quiet + 1 if silent is None or silent() else 0
                if self._hear() is None or (quiet > 8 and not ready):
                    return

    def _tell(self, messages: list[tuple[bytes, bytes]]) -> None:
        hear, understand = self._hear(), self._owner.message
        for channel, data in messages:
            message = understand(channel, data)
            if hear is not None and message is not None:
                hear(message)


def _waiting(ears: Sequence[_Ear]) -> Callable[[], list[_Ear]]:
    """Waits for a tick at most, and says who can be read. Every write of any process wakes it: it must be cheap."""
    poll, by_number = select.poll(), {ear.fileno(): ear for ear in ears}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return lambda: [by_number[number] for number, _ in poll.poll(_TICK * 1000)]

"""Frees a thread that waits for a server which will never answer: shuts the socket down when a deadline passes.

The driver has no read timeout of its own: it hangs on a stopped backend or a black hole whatever the keep-alive
settings say. One thread watches all connections of a layer; watching costs two dict operations a statement.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from ..contracts.clock import Clock
from ..observe.rounds import Rounds

log = logging.getLogger("datalayer.l3")


class Watchdog:
    """Deadlines of statements in flight. Thread-safe. ``limit`` is in seconds; 0 switches it off."""

    def __init__(self, limit: float, clock: Clock) -> None:
        self.limit = limit
        self.fired = 0
        self._now = clock.monotonic
        self._watched: dict[int, tuple[float, Any]] = {}
        self._rounds = Rounds("datalayer-watchdog", min(max(limit / 8, 0.02), 1.0), self.check)

    @contextlib.contextmanager
    def watching(self, connection: Any) -> Iterator[None]:
        """Shut ``connection`` (a psycopg connection) down if the block outlives the limit."""
        self.watch(connection)
        try:
            yield
        finally:
            self.release(connection)

    def watch(self, connection: Any) -> None:
        if self.limit:
            self._watched[id(connection)] = (self._now() + self.limit, connection)
            if not self._rounds.started:
                self._rounds.start()

    def release(self, connection: Any) -> None:
        self._watched.pop(id(connection), None)

    def check(self) -> None:
        """Shut down every connection whose deadline has passed."""
        now = self._now()
        for slot, (deadline, connection) in list(self._watched.items()):
            if deadline < now and self._watched.pop(slot, None) is not None:
                self.fired += 1
                log.error("the database did not answer within %.1f s; its connection is shut down", self.limit)
                _shut(connection)

    def reset_after_fork(self) -> None:
        self._watched.clear()
        self._rounds.reset_after_fork()

    def close(self) -> None:
        self._rounds.close()


def _shut(connection: Any) -> None:
    """Shut the socket down through a duplicate: closing the driver's own descriptor would free its number for reuse."""
    with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)

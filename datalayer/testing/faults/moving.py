"""Clients of a Redis that learn late that the master is another one now: each process moves when its test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from datalayer.testing.ports import HOST
from datalayer.tiers import l2
from datalayer.tiers.l2.links import Links


class Moving:
    """A topology of one shard whose server is on the port that ``port()`` says at the moment. Thread-safe."""

    shards = 1
    publish = "PUBLISH"
    database = 0

    def __init__(self, port: Callable[[], int], *, timeout: float, most: int) -> None:
        self._port = port
        self._timeout = timeout
        self._most = most
        self._known: dict[int, Links] = {}

    def links(self, tag: str) -> Links:
        port = self._port()
        found = self._known.get(port)
        if found is None:
            pool = redis.ConnectionPool(
                host=HOST,
                port=port,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
            found = self._known.setdefault(port, Links(pool.make_connection, self._most, self._timeout))
        return found

    def refresh(self) -> None:
        """``port()`` is asked every time."""

    def close(self) -> None:
        for links in self._known.values():
            links.close()

    def forget(self) -> None:
        for links in self._known.values():
            links.forget()


@contextmanager
def move_clients(port: Callable[[], int]) -> Iterator[None]:
    """Layers that are made inside the block talk to Redis on ``port()``, whatever their URL says."""
    original = l2.topology_of

    def moving(url: str, *, timeout: float, most: int) -> Moving:
        return Moving(port, timeout=timeout, most=most)

    l2.topology_of = moving
    try:
        yield
    finally:
        l2.topology_of = original

"""A call on many keys is one round trip: all that it asks for has reached the servers before the first answer is read.

No clock is involved: answers are kept back until the servers have counted every command, and then nothing more comes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import redis
from redis.cluster import ClusterNode
from redis.cluster import RedisCluster as ClusterClient
from relay import HOST, Relay

from datalayer.contracts.provider import Provider
from datalayer.tables import MemcachedProvider, RedisProvider, Tables
from datalayer.testing.servers import MemcachedServer, RedisServer, start_cluster, start_memcached, start_redis

MANY = {f"t:{number}": b"x" * 20 for number in range(200)}
_PATIENCE = 10.0


class Place(NamedTuple):
    """A provider behind relays, how many commands its servers have had, and what many keys are to them."""

    provider: Any
    relays: list[Relay]
    count: Callable[[], int]
    get_many: int
    delete_many: int


def redis_commands(*urls: str) -> tuple[Callable[[], int], ExitStack]:
    """Counts what the servers were asked for, but for the counting itself."""
    stack = ExitStack()
    clients = [stack.enter_context(redis.Redis.from_url(url)) for url in urls]
    names = ("get", "mget", "set", "unlink", "del", "exists", "pttl")

    def count() -> int:
        stats = [client.info("commandstats") for client in clients]
        return sum(stat.get(f"cmdstat_{name}", {"calls": 0})["calls"] for stat in stats for name in names)

    return count, stack


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "://" in url else f"//{url}")
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@pytest.fixture(scope="module")
def single(redis_server: RedisServer) -> Iterator[Place]:
    """A server of its own, as the one that all share would count what others ask for."""
    server = start_redis()
    count, stack = redis_commands(server.url)
    with stack, Relay(address(server.url)) as relay:
        provider = RedisProvider(f"redis://{HOST}:{relay.port}/0", timeout=_PATIENCE)
        yield Place(provider, [relay], count, 1, 1)
        provider.close()
    server.stop()


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Place]:
    started = start_cluster(masters=3, replicas=0)
    count, stack = redis_commands(*started.urls)
    with stack:
        relays = {address(url): stack.enter_context(Relay(address(url))) for url in started.urls}
        client = ClusterClient(
            startup_nodes=[ClusterNode(HOST, next(iter(relays.values())).port)],
            address_remap=lambda node: (HOST, relays[node].port) if node in relays else node,
            socket_timeout=_PATIENCE,
        )
        yield Place(RedisProvider(client), list(relays.values()), count, len(MANY), len(MANY))
        client.close()
    started.stop()


@pytest.fixture(scope="module")
def memcached(memcached_server: MemcachedServer) -> Iterator[Place]:
    server = start_memcached()
    with Relay(address(server.url)) as relay, socket.create_connection(address(server.url)) as line:
        provider = MemcachedProvider(f"{HOST}:{relay.port}", timeout=_PATIENCE)
        yield Place(provider, [relay], lambda: memcached_commands(line), len(MANY), len(MANY))
        provider.close()
    server.stop()


def memcached_commands(line: socket.socket) -> int:
    line.sendall(b"stats\r\n")
    reply = b""
    while not reply.endswith(b"END\r\n"):
        reply += line.recv(1 << 16)
    stats = dict(row.split()[1:3] for row in reply.decode().splitlines() if row.startswith("STAT"))
    return sum(int(stats[name]) for name in ("cmd_get", "cmd_set", "delete_hits", "delete_misses"))


CALLS: dict[str, tuple[Callable[[Any], object], Callable[[Place], int]]] = {
    "set_many": (lambda provider: provider.set_many(MANY), lambda _: len(MANY)),
    "set_many for a while": (lambda provider: provider.set_many(MANY, 60), lambda _: len(MANY)),
    "get_many": (lambda provider: provider.get_many(MANY), lambda place: place.get_many),
    "delete_many": (lambda provider: provider.delete_many(MANY), lambda place: place.delete_many),
    "exists": (lambda provider: provider.exists("t:1"), lambda _: 1),
    "ttl": (lambda provider: provider.ttl("t:1"), lambda _: 1),
    "add": (lambda provider: provider.add("t:new", b"x"), lambda _: 1),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["single", "cluster", "memcached"])
def test_all_is_asked_before_an_answer_is_read(request: pytest.FixtureRequest, kind: str, call: str) -> None:
    place: Place = request.getfixturevalue(kind)
    place.provider.set_many(MANY)  # opens a connection to each server
    place.provider.delete("t:new")
    act, commands = CALLS[call]
    check_asked_before_an_answer(place, lambda: act(place.provider), commands(place))


def check_asked_before_an_answer(place: Place, call: Callable[[], object], commands: int) -> None:
    """So many commands must reach the servers while nothing is answered, and none after that."""
    before = place.count()
    for relay in place.relays:
        relay.hold()
    caller = threading.Thread(target=call, name="datalayer-caller")
    caller.start()
    try:
        deadline = time.monotonic() + _PATIENCE / 2
        while (asked := place.count() - before) < commands:
            assert time.monotonic() < deadline, f"{asked} of {commands} commands came before the first answer"
        assert caller.is_alive(), "it did not wait for an answer"
    finally:
        for relay in place.relays:
            relay.release()
        caller.join()
    assert place.count() - before == commands, "it asked again after the first answers"


@pytest.mark.parametrize("kind", ["single", "cluster", "memcached"])
def test_a_table_s_call_on_many_keys_is_one_call_to_the_provider(request: pytest.FixtureRequest, kind: str) -> None:
    place: Place = request.getfixturevalue(kind)
    held: Provider = place.provider
    table = Tables(held).table("t", str)
    values = {key.removeprefix("t:"): "text" for key in MANY}
    table.set_many(values)
    check_asked_before_an_answer(place, lambda: table.set_many(values), len(MANY))
    check_asked_before_an_answer(place, lambda: table.get_many(values), place.get_many)
    check_asked_before_an_answer(place, lambda: table.delete_many(values), place.delete_many)

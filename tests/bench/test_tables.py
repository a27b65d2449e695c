"""Tables and their providers beside a dict and bare redis-py: calls a second and the slowest hundredth, in one run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from kept import Kept

from datalayer.contracts.provider import Provider
from datalayer.tables import (
    Compressed,
    Encrypted,
    Layers,
    MemcachedProvider,
    MemoryProvider,
    RedisProvider,
    StoreProvider,
    Tables,
)
from datalayer.testing.servers import ServersMissing, find_memcached, find_redis

Report = Callable[[str, str, str], None]
Calls = tuple[Callable[[str], object], Callable[[str], object]]

KEYS = [f"bench:{number}" for number in range(500)]
VALUE = b"x" * 200
ROUNDS = 8


@dataclass
class User:
    id: int
    name: str
    email: str
    age: int
    score: float
    active: bool


ANN = User(1, "Ann Surname", "ann@example.com", 33, 0.37, True)


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Provider]]:
    server = find_redis()
    made: dict[str, Provider] = {
        "memory": MemoryProvider(),
        "memory, compressed": Compressed(MemoryProvider()),
        "memory, encrypted": Encrypted(MemoryProvider(), keys={"k": bytes(range(32))}),
        "store in a dict": StoreProvider(Kept()),
        "redis": RedisProvider(server.url),
        "layers memory, redis": Layers(("L1", MemoryProvider()), ("L2", RedisProvider(server.url))),
    }
    stops: list[Any] = [*made.values(), server]
    try:
        memcached = find_memcached()
        made["memcached"] = MemcachedProvider(memcached.url)
        stops += [made["memcached"], memcached]
    except ServersMissing:
        pass  # its line is missing then
    made["bare"] = server  # type: ignore[assignment]
    yield made
    for each in stops:
        (each.close if hasattr(each, "close") else each.stop)()


def through_dict() -> Calls:
    held: dict[str, bytes] = {}
    return held.get, lambda key: held.__setitem__(key, VALUE)


def through(provider: Provider) -> Calls:
    return provider.get, lambda key: provider.set(key, VALUE)


def test_calls_a_second_and_the_slowest_hundredth(places: dict[str, Any], report: Report) -> None:
    client = redis.Redis.from_url(places.pop("bare").url)
    tables = Tables(MemoryProvider())
    users = tables.table("users", User)
    cases: dict[str, Calls] = {
        "dict": through_dict(),
        **{name: through(provider) for name, provider in places.items()},
        "bare redis-py": (client.get, lambda key: client.set(key, VALUE)),
        "Table of a dataclass, memory": (users.get, lambda key: users.set(key, ANN)),
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    for _ in range(ROUNDS):
        for name, (get, put) in cases.items():
            gc.collect()
            for call, took in ((put, times[name][1]), (get, times[name][0])):
                took += measured(call)
    for what, position in (("get", 0), ("set", 1)):
        for name in cases:
            report("", f"{what}: {name}", figure(times[name][position], times["bare redis-py"][position]))
    client.flushdb()
    client.close()
    tables.close()


def measured(call: Callable[[str], object]) -> list[float]:
    took = []
    clock = time.perf_counter
    for key in KEYS:
        began = clock()
        call(key)
        took.append(clock() - began)
    return took


def figure(times: list[float], base: list[float]) -> str:
    ordered = sorted(times)
    median, slow = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    ratio = median / sorted(base)[len(base) // 2]
    return f"{1 / median:11,.0f}/s  p99 {slow * 1e6:8.1f} us  {ratio:6.2f} x bare redis-py"


def test_many_keys_at_once(places: dict[str, Any], report: Report) -> None:
    items = dict.fromkeys(KEYS, VALUE)
    for name, provider in places.items():
        if isinstance(provider, Provider):
            best: dict[str, float] = {}
            for _ in range(5):
                for what, call in (
                    ("set_many", lambda p=provider: p.set_many(items)),
                    ("get_many", lambda p=provider: p.get_many(items)),
                ):
                    began = time.perf_counter()
                    call()
                    best[what] = min(best.get(what, 1e9), time.perf_counter() - began)
            for what, took in best.items():
                report(
                    "",
                    f"{what} of {len(KEYS)}: {name}",
                    f"{took * 1e3:8.2f} ms  {took / len(KEYS) * 1e6:8.2f} us a key",
                )

"""Every engine of stores and every provider of tables beside a dict, sqlite3 and bare redis-py, all in one run.

Calls are interleaved in short batches, round after round; figures are calls a second by the median, the slowest
hundredth, and the ratio to the baseline of its kind. What writes to a disk waits for it, as the baseline does.
"""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import sqlalchemy as sa

from datalayer.kv import FileStore, MemoryStore, Overlay, SqlStore, fsck
from datalayer.tables import Layers, MemcachedProvider, MemoryProvider, RedisProvider, StoreProvider
from datalayer.testing.servers import ServersMissing, find_memcached, find_postgres, find_redis

Report = Callable[[str, str, str], None]

COUNT, ROUNDS = 100, 8
SLOW_COUNT = 20  # of calls that wait for a disk
KEYS = [b"bench:%d" % number for number in range(COUNT)]
VALUE = b"x" * 200
LARGE = bytes(range(256)) * (10 * (1 << 20) // 256)
MANY = 100_000


class Case(NamedTuple):
    """How a place is written and read; ``base`` is what it is compared with, ``waits`` says that a disk is waited for.

    ``key`` makes its keys."""

    get: Callable[[Any], object]
    put: Callable[[Any, bytes], object]
    base: str
    waits: bool = False
    key: Callable[[bytes], Any] = bytes


def text(key: bytes) -> str:
    return key.decode()


class Sqlite:
    """The least that one writes oneself: a table, one connection, a commit a write."""

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def get(self, key: bytes) -> object:
        return self.connection.execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()

    def put(self, key: bytes, value: bytes) -> object:
        return self.connection.execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

    def close(self) -> None:
        self.connection.close()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    place = tmp_path_factory.mktemp("kv")
    with ExitStack() as stack:

        def kept(thing: Any) -> Any:
            stack.callback(thing.close if hasattr(thing, "close") else thing.stop)
            return thing

        yield {**baselines(place, kept), **stores(place, kept, stack), **providers(place, kept)}


def baselines(place: Path, kept: Callable[[Any], Any]) -> dict[str, Case]:
    held: dict[bytes, bytes] = {}
    plain = kept(Sqlite(f"{place / 'plain.db'}"))
    server = kept(find_redis())
    client = kept(redis.Redis.from_url(server.url))
    client.flushdb()
    return {
        "dict": Case(held.get, held.__setitem__, "dict"),
        "sqlite3": Case(plain.get, plain.put, "sqlite3", waits=True),
        "bare redis-py": Case(client.get, client.set, "bare redis-py"),
    }


def stores(place: Path, kept: Callable[[Any], Any], stack: ExitStack) -> dict[str, Case]:
    sqlite = sa.create_engine(f"sqlite:///{place / 'sql.db'}")
    postgres = kept(find_postgres())
    database = sa.create_engine(postgres.create_database("bench_kv"))
    for engine in (sqlite, database):
        stack.callback(engine.dispose)
    made: dict[str, tuple[Any, str, bool]] = {
        "MemoryStore": (MemoryStore(), "dict", False),
        "MemoryStore, bounded": (MemoryStore(max_entries=50_000, full="evict"), "dict", False),
        "Overlay of a MemoryStore": (Overlay(MemoryStore()), "dict", False),
        "FileStore": (FileStore(place / "file"), "sqlite3", True),
        "FileStore, sync=False": (FileStore(place / "quick", sync=False), "sqlite3", True),
        "SqlStore, SQLite": (SqlStore(sqlite), "sqlite3", True),
        "SqlStore, PostgreSQL": (SqlStore(database), "bare redis-py", True),
    }
    return {name: Case(kept(store).get, store.put, base, waits) for name, (store, base, waits) in made.items()}


def providers(place: Path, kept: Callable[[Any], Any]) -> dict[str, Case]:
    url = kept(find_redis()).url
    made: dict[str, tuple[Any, str, bool]] = {
        "MemoryProvider": (MemoryProvider(), "dict", False),
        "StoreProvider of a MemoryStore": (StoreProvider(MemoryStore()), "dict", False),
        "StoreProvider of a FileStore": (StoreProvider(FileStore(place / "provider")), "sqlite3", True),
        "RedisProvider": (RedisProvider(url), "bare redis-py", False),
        "Layers of memory and Redis": (
            Layers(("L1", MemoryProvider()), ("L2", RedisProvider(url))),
            "bare redis-py",
            False,
        ),
    }
    try:
        memcached = kept(find_memcached())
    except ServersMissing:
        pass  # its line is missing then
    else:
        made["MemcachedProvider"] = (MemcachedProvider(memcached.url), "bare redis-py", False)
    return {name: Case(kept(one).get, one.set, base, waits, text) for name, (one, base, waits) in made.items()}


class Times(NamedTuple):
    get: list[float]
    put: list[float]


def test_gets_and_puts_a_second_and_the_slowest_hundredth(cases: dict[str, Case], report: Report) -> None:
    times = {name: Times([], []) for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            keys = [case.key(key) for key in KEYS[: SLOW_COUNT if case.waits else COUNT]]
            gc.collect()
            times[name].put.extend(measured(lambda key, put=case.put: put(key, VALUE), keys))  # type: ignore[misc]
            times[name].get.extend(measured(case.get, keys * (COUNT // len(keys))))
    for what in Times._fields:
        for name, case in cases.items():
            base = median(getattr(times[case.base], what))
            report("kv", f"{what}: {name}", figure(getattr(times[name], what), base, case.base))
    # What requirement 004 asks of the engine in memory.
    assert median(times["MemoryStore"].get) < 1e-3
    assert median(times["MemoryStore"].put) < 1e-3


def measured(call: Callable[[Any], object], keys: list[Any]) -> list[float]:
    took = []
    clock = time.perf_counter
    for key in keys:
        began = clock()
        call(key)
        took.append(clock() - began)
    return took


def median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]


def figure(times: list[float], base: float, what: str) -> str:
    slow = sorted(times)[len(times) * 99 // 100]
    return f"{1 / median(times):11,.0f}/s  p99 {slow * 1e6:9.1f} us  {median(times) / base:7.2f} x {what}"


def test_ten_megabytes(cases: dict[str, Case], report: Report) -> None:
    best: dict[tuple[str, str], float] = {}
    picked = {
        name: case
        for name, case in cases.items()
        if not name.startswith(("Memcached", "Overlay", "StoreProvider of a File"))  # an item of memcached ends at 1 MB
    }
    for _ in range(3):
        for name, case in picked.items():
            for what, call in (
                ("put", lambda c=case: c.put(c.key(b"l"), LARGE)),
                ("get", lambda c=case: c.get(c.key(b"l"))),
            ):
                gc.collect()
                began = time.perf_counter()
                call()
                best[what, name] = min(best.get((what, name), 1e9), time.perf_counter() - began)
    for (what, name), took in best.items():
        ratio = took / best[what, picked[name].base]
        report("kv", f"{what} of 10 MB: {name}", f"{took * 1e3:9.2f} ms  {ratio:7.2f} x {picked[name].base}")
    assert best["get", "FileStore"] < 1.0
    assert best["put", "FileStore"] < 5.0


def test_open_with_a_hundred_thousand_keys(tmp_path: Path, report: Report) -> None:
    items = [(b"key:%06d" % number, VALUE) for number in range(MANY)]
    with closing(FileStore(tmp_path / "kv", sync=False)) as store:
        began = time.perf_counter()
        for key, value in items:
            store.put(key, value)
        took = time.perf_counter() - began
        report("kv", f"put of {MANY:,} keys, FileStore, sync=False", f"{took:9.2f} s  {MANY / took:11,.0f}/s")
    with closing(sqlite3.connect(tmp_path / "plain.db")) as plain:
        plain.execute("CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        plain.executemany("INSERT INTO kv VALUES (?, ?)", items)
        plain.commit()
    opened = min(timed(lambda: FileStore(tmp_path / "kv").close()) for _ in range(3))
    listed = timed(lambda: all_keys_of_sqlite(tmp_path / "plain.db"))
    report("kv", f"open with {MANY:,} keys: FileStore", f"{opened:9.3f} s")
    report("kv", f"open and list {MANY:,} keys: sqlite3", f"{listed:9.3f} s")
    with closing(FileStore(tmp_path / "kv")) as store:
        assert len(store) == MANY
        took = timed(lambda: len(list(store.keys())))
        report("kv", f"list {MANY:,} keys in order: FileStore", f"{took:9.3f} s")
    took = timed(lambda: fsck(tmp_path / "kv"))
    report("kv", f"fsck of {MANY:,} keys", f"{took:9.2f} s  {MANY / took:11,.0f} files/s")
    assert opened < 10


def all_keys_of_sqlite(path: Path) -> int:
    with closing(sqlite3.connect(path)) as plain:
        return len(plain.execute("SELECT key FROM kv ORDER BY key").fetchall())


def timed(call: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

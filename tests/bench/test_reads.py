"""The read path beside its floors and its peers. Ratios of one interleaved run; only call counts are asserted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import redis
import sqlalchemy as sa
from advanced_alchemy.cache import CacheConfig, CacheManager
from advanced_alchemy.repository import SQLAlchemySyncRepository
from dogpile.cache import make_region
from sqlalchemy.orm import Session

from datalayer.testing.counting import Statements

Report = Callable[[str, str, str], None]


def each(call: Callable[[Any], Any], keys: Sequence[Any]) -> tuple[Callable[[], None], int]:
    def run() -> None:
        for key in keys:
            call(key)

    return run, len(keys)


def test_hits_of_the_first_tier(place: Any, times: Any, report: Report) -> None:
    with place.layer() as layer, Statements(layer.engine) as statements:
        users = layer.repository(place.User)
        for key in place.ids:
            users.get(key)
            users.get_snapshot(key)
        held = dict.fromkeys(place.ids, 1)
        region = make_region().configure("dogpile.cache.memory")
        engine = sa.create_engine(place.url)
        with Session(engine) as session:
            for instance in session.scalars(sa.select(place.User)):
                session.expunge(instance)
                region.set(instance.id, instance)
        manager = CacheManager(CacheConfig(backend="dogpile.cache.memory", arguments={}))
        merging, advanced = Session(engine), Session(engine)
        merging.connection(), advanced.connection()
        repository = _advanced(place, advanced, manager)
        for key in place.ids[:200]:
            repository.get(key)

        def floor(key: str) -> Any:
            return held.get(key)

        def dogpile(key: str) -> Any:
            found = merging.merge(region.get(key), load=False)
            merging.expunge(found)
            return found

        def advanced_alchemy(key: str) -> Any:
            found = repository.get(key)
            advanced.expunge(found)
            return found

        def first_reads() -> None:
            with layer.session() as session:
                kept = [session.get(place.User, key) for key in place.ids]
            del kept

        plain = Session(engine)
        kept = [plain.get(place.User, key) for key in place.ids]
        statements.taken()
        some = place.ids[:200]
        times.run(
            {
                "floor": each(floor, place.ids),
                "get": each(users.get, place.ids),
                "snapshot": each(users.get_snapshot, place.ids),
                "dogpile get": each(region.get, place.ids),
                "dogpile": each(dogpile, some),
                "advanced": each(advanced_alchemy, some),
                "identity": each(lambda key: plain.get(place.User, key), place.ids),
                "session": (first_reads, len(place.ids)),
            }
        )
        assert statements.taken() == 0
        report("P1", "L1 hit, owned instance / dict.get         (target <= 10)", times.ratio("get", "floor"))
        report("", "  dogpile memory + merge / ours", times.ratio("dogpile", "get"))
        report("", "  advanced-alchemy cached get / ours", times.ratio("advanced", "get"))
        report("P2", "get_snapshot / dict.get                   (target <= 3.5)", times.ratio("snapshot", "floor"))
        report("", "  dogpile region.get / ours", times.ratio("dogpile get", "snapshot"))
        report("P3", "first session.get of an L1 hit / identity (target <= 6)", times.ratio("session", "identity"))
        _attribute_reads(place, users, times, report)
        del kept
        for session in (merging, advanced, plain):
            session.close()
        engine.dispose()


def _advanced(place: Any, session: Session, manager: CacheManager) -> Any:
    class Users(SQLAlchemySyncRepository[Any]):
        model_type = place.User

    return Users(session=session, cache_manager=manager)


def _attribute_reads(place: Any, users: Any, times: Any, report: Report) -> None:
    class Slots:
        __slots__ = ("name",)

    plain = Slots()
    plain.name = "x"
    snapshot = users.get_snapshot(place.ids[0])

    def read(obj: Any) -> Callable[[], None]:
        def run() -> None:
            for _ in range(20_000):
                obj.name  # noqa: B018  # the read is what is measured

        return run

    times.run({"slots read": (read(plain), 20_000), "snapshot read": (read(snapshot), 20_000)})
    report(
        "P2", "snapshot attribute / slots attribute      (target <= 1.5)", times.ratio("snapshot read", "slots read")
    )


def test_hits_of_the_second_tier(place: Any, times: Any, report: Report) -> None:
    keys = place.ids[:500]
    client = redis.Redis.from_url(place.redis_url)
    layer = place.layer(redis=place.redis_url, ttl_jitter=0.0)
    users = layer.repository(place.User)
    for key in keys:
        users.get(key)
    ladder = layer.caches.ladders()[0]
    for key in keys:
        client.set("bare:" + key, msgpack.packb(list(place.row(int(key[-5:])).values()), datetime=True))
    region = make_region().configure("dogpile.cache.redis", arguments={"url": place.redis_url})
    engine = sa.create_engine(place.url)
    merging = Session(engine)
    with Session(engine) as session:
        for instance in session.scalars(sa.select(place.User).where(place.User.id.in_(keys))):
            session.expunge(instance)
            region.set(instance.id, instance)

    def second_tier() -> None:
        ladder.l1.clear()
        for key in keys:
            users.get(key)

    def bare(key: str) -> Any:
        return msgpack.unpackb(client.get("bare:" + key), timestamp=3)

    def dogpile(key: str) -> Any:
        found = merging.merge(region.get(key), load=False)
        merging.expunge(found)
        return found

    hundred, names = keys[:100], ["bare:" + key for key in keys[:100]]

    def many() -> None:
        ladder.l1.clear()
        assert len(users.get_many(hundred)) == 100

    with Statements(layer.engine) as statements:
        trips = layer._parts.l2.round_trips
        second_tier()
        assert (statements.taken(), layer._parts.l2.round_trips - trips) == (0, len(keys))
        trips = layer._parts.l2.round_trips
        many()
        assert (statements.taken(), layer._parts.l2.round_trips - trips) == (0, 1)
        times.run(
            {
                "l2": (second_tier, len(keys)),
                "bare": each(bare, keys),
                "dogpile": each(dogpile, keys),
                "many": (many, 1),
                "mget": (lambda: client.mget(names), 1),
            },
            rounds=25,
        )
        assert statements.taken() == 0
    report("P4", "L2 hit + L1 fill / bare get + decode      (target <= 0.65)", times.ratio("l2", "bare"))
    report("", "  dogpile redis + merge / ours", times.ratio("dogpile", "l2"))
    report("P7", "get_many(100) from L2 / bare MGET         (target <= 3.5)", times.ratio("many", "mget"))
    merging.close()
    engine.dispose()
    layer.close()
    client.close()


def test_loads_from_the_database(place: Any, times: Any, report: Report) -> None:
    keys = place.ids[:300]
    client = redis.Redis.from_url(place.redis_url)
    engine = sa.create_engine(place.url)
    alone, layer = place.layer(), place.layer(redis=place.redis_url)
    lonely, users = alone.repository(place.User), layer.repository(place.User)
    lonely.get(keys[0]), users.get(keys[0])
    region = make_region().configure("dogpile.cache.redis", arguments={"url": place.redis_url})

    def session_get(key: str) -> Any:
        with Session(engine) as session:
            return session.get(place.User, key)

    def from_database() -> None:
        with alone.consistency("database"):
            for key in keys:
                lonely.get(key)

    ladder = layer.caches.ladders()[0]

    def forget() -> None:
        ladder.l1.clear()
        users.invalidate_all()

    def misses() -> None:
        for key in keys:
            users.get(key)

    def dogpile_misses() -> None:
        for key in keys:
            region.get_or_create("miss:" + key, lambda key=key: session_get(key))

    def in_many() -> None:
        with Session(engine) as session:
            assert len(session.scalars(sa.select(place.User).where(place.User.id.in_(place.ids[:1000]))).all()) == 1000

    cached = alone.caches.ladders()[0]

    def get_many() -> None:
        cached.l1.clear()
        assert len(lonely.get_many(place.ids[:1000])) == 1000

    for _ in range(12):
        forget()
        client.delete(*["miss:" + key for key in keys])
        times.run(
            {
                "orm": each(session_get, keys),
                "load": (from_database, len(keys)),
                "miss": (misses, len(keys)),
                "dogpile": (dogpile_misses, len(keys)),
                "orm in": (in_many, 1),
                "many": (get_many, 1),
            },
            rounds=1,
        )
    with Statements(layer.engine) as statements:
        forget()
        trips = layer._parts.l2.round_trips
        users.get(keys[0])
        # Nothing but misses before it: the look before the lease is saved.
        assert (statements.taken(), layer._parts.l2.round_trips - trips) == (1, 1)
        users.get(keys[0])
        assert statements.taken() == 0
    report("P5", "load from PostgreSQL / Session.get        (target <= 0.25)", times.ratio("load", "orm"))
    report("P6", "full miss with both fills / Session.get   (target <= 0.45)", times.ratio("miss", "orm"))
    report("", "  dogpile redis get_or_create / ours", times.ratio("dogpile", "miss"))
    report("P7", "get_many(1000) from PostgreSQL / ORM IN   (target <= 0.45)", times.ratio("many", "orm in"))
    for each_layer in (alone, layer):
        each_layer.close()
    engine.dispose()
    client.close()


def test_threads_do_not_slow_each_other(place: Any, report: Report) -> None:
    with place.layer() as layer:
        users = layer.repository(place.User)
        for key in place.ids:
            users.get(key)

        def work() -> None:
            for _ in range(30):
                for key in place.ids:
                    users.get(key)

        def throughput(count: int) -> float:
            threads = [threading.Thread(target=work) for _ in range(count)]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return count / (time.perf_counter() - began)

        one, four = (max(throughput(n) for _ in range(4)) for n in (1, 4))
        report("P11", "4 threads of L1 hits / one                (target >= 0.85)", f"{four / one:7.2f} x")


def test_memory_of_a_cached_row(place: Any, report: Report) -> None:
    with place.layer() as layer:
        users = layer.repository(place.User)
        users.get_many(place.ids[:10])
        ladder = layer.caches.ladders()[0]
        ladder.l1.clear()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for at in range(0, len(place.ids), 100):
            users.get_many(place.ids[at : at + 100])
        size = (tracemalloc.get_traced_memory()[0] - before) / len(ladder.l1)
        tracemalloc.stop()
        report("P12", "bytes of a cached ten-column row          (target <= 1.2 KB)", f"{size / 1024:7.2f} KB")


def test_import_time(report: Report, tmp_path: Path) -> None:
    """Of byte code, as it lies beside every installed package: the first run makes it."""
    required = (
        "sqlalchemy, sqlalchemy.orm, psycopg, redis, redis.cluster, redis.sentinel, hiredis, cachetools, alembic, "
    )
    required += "alembic.autogenerate, alembic.operations, msgpack"
    program = f"import time, {required}\nt = time.perf_counter()\nimport datalayer\nprint(time.perf_counter() - t)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    command = [sys.executable, "-c", program]
    best = min(
        float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
        for _ in range(6)
    )
    report("P14", "import beyond the required dependencies   (target <= 60 ms)", f"{best * 1000:7.1f} ms")

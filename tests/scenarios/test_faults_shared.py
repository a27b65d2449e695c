"""What the layer does when its Redis is lost, full, slow or deaf, and when its database refuses: the rows of the table
of faults that one process can show."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.contracts.fence import State
from datalayer.errors import DataLayerError, L2UnavailableError, PoolTimeout
from datalayer.testing.counting import Statements
from datalayer.testing.faults import (
    cut_bus,
    die_with_parent,
    evict_headers,
    freeze,
    lock_rows,
    move_clients,
    restart_redis,
)
from datalayer.testing.faults.pair import RedisPair
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_redis
from datalayer.testing.servers.cluster import wait_until
from datalayer.testing.servers.redis_server import PrivateRedis, ask

LEASE, L1_LEASE = 1.0, 0.3
AT_LEISURE = {"fence_lease": 20.0, "l1_lease": 10.0, "redis_timeout": 2.0}
"""For tests of what is kept, not of when it ends: a machine that stands still for a second must not end it."""


class Part(Model):
    __tablename__ = "fault_parts"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def server() -> Iterator[PrivateRedis]:
    server = start_redis()
    yield server
    server.stop()


@pytest.fixture
def make(pg_url: str) -> Iterator[Callable[..., DataLayer]]:
    """Layers on one database with short leases; the first one makes the rows, from 1 to 5."""
    made: list[DataLayer] = []

    def make(redis: str, url: str = pg_url, **options: object) -> DataLayer:
        first = not made
        options = {"fence_lease": LEASE, "l1_lease": L1_LEASE} | options
        made.append(DataLayer(url, redis=redis, models=[Part], **options))  # type: ignore[arg-type]
        if first:
            Model.metadata.create_all(made[0].engine, tables=[Part.__table__])  # type: ignore[list-item]
            with made[0].engine.begin() as connection:
                connection.execute(sa.insert(Part), [{"id": i, "name": f"n{i}"} for i in range(1, 6)])
        return made[-1]

    yield make
    for layer in made:
        layer.close()


def warm(layer: DataLayer, id: int = 1) -> None:
    """Until the row is answered by Redis."""
    parts = layer.repository(Part)
    parts.get(id)
    (ladder,) = layer.caches.ladders()

    def from_redis() -> bool:
        ladder.clear_local()
        before = ladder.counts["l2_hits"]
        parts.get(id)
        return ladder.counts["l2_hits"] > before

    wait_until("the row comes from Redis", from_redis, seconds=15)


def epoch(layer: DataLayer) -> bytes:
    return layer._parts.authority.stands[0].epoch  # type: ignore[union-attr]


# -- 4, 5: data lost, fail-over --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["restart without data", "restart with data", "FLUSHALL", "header evicted"])
def test_after_redis_lost_its_data_a_new_epoch_begins_and_is_logged(
    make: Callable[..., DataLayer], server: PrivateRedis, loss: str, caplog: pytest.LogCaptureFixture, rng: object
) -> None:
    caplog.set_level(logging.INFO)
    layer = make(server.url)
    warm(layer)
    before = epoch(layer)
    if loss == "FLUSHALL":
        with server.client() as client:
            client.flushall()
    elif loss == "header evicted":
        assert evict_headers(server, "dl", rng) == 1  # type: ignore[arg-type]
    else:
        restart_redis(server, keep_data=loss == "restart with data")
    layer.repository(Part).update(1, name="new")
    assert layer.repository(Part).get_one(1, consistency="shared").name == "new"
    wait_until("a new epoch is on", lambda: epoch(layer) != before and _on(layer), seconds=15)
    warm(layer)
    assert layer.repository(Part).get_one(1, consistency="shared").name == "new"
    assert epoch(layer).decode() in caplog.text


def _on(layer: DataLayer) -> bool:
    return layer._parts.authority.stands[0].state == State.ON  # type: ignore[union-attr]


def test_a_fail_over_to_a_replica_that_missed_the_last_write_shows_nothing_old(
    make: Callable[..., DataLayer],
) -> None:
    pair = RedisPair()
    port = [pair.master.port]
    try:
        with move_clients(lambda: port[0]):
            writer, reader = make(pair.master.url), make(pair.master.url)
        warm(writer), warm(reader)
        wait_until("the replica has it", lambda: _values(pair.other) > 0)
        pair.freeze_replica()
        writer.repository(Part).update(1, name="new")
        pair.fail_over()
        port[0] = pair.master.port
        for _ in range(20):
            assert reader.repository(Part).get_one(1, consistency="shared").name == "new"
        warm(reader)
        assert reader.repository(Part).get_one(1, consistency="shared").name == "new"
    finally:
        pair.stop()


def _values(server: PrivateRedis) -> int:
    with server.client() as client:
        return len(list(client.scan_iter(match="*:v:*")))


# -- 3: slow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["blackhole", "hold", "reset", "refuse"])
def test_a_redis_behind_a_broken_network_costs_reads_and_writes_a_bounded_time(
    make: Callable[..., DataLayer], server: PrivateRedis, how: str
) -> None:
    with TcpProxy.for_url(server.url) as proxy:
        layer = make(proxy.url, redis_timeout=0.2)
        warm(layer)
        parts = layer.repository(Part)
        getattr(proxy, how)()
        times = []
        for i in range(50):
            began = time.monotonic()
            parts.get_one(1 + i % 5, consistency="shared")
            times.append(time.monotonic() - began)
        assert sorted(times)[-1] < 1.5
        assert sum(times) < 5, "the breaker keeps it from costing every read a timeout"
        began = time.monotonic()
        parts.update(1, name="new")
        assert time.monotonic() - began < 4 * LEASE + 1.5
        assert parts.get_one(1).name == "new"
        proxy.pass_()
        warm(layer)
        assert parts.get_one(1, consistency="shared").name == "new"


# -- 6, 10: full, too large ------------------------------------------------------------------------------------------


def test_a_redis_that_is_full_still_forgets_what_is_written(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer, other = make(server.url), make(server.url)
    warm(layer), warm(other)
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    layer.repository(Part).update(1, name="new")
    assert other.repository(Part).get_one(1, consistency="shared").name == "new"
    assert layer.repository(Part).get_one(2, consistency="shared").name == "n2"
    with server.client() as client:
        client.config_set("maxmemory", "0")
    warm(other, 2)


def test_a_row_that_is_too_large_is_not_cached_and_its_old_value_is_gone(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer = make(server.url, max_value_bytes=500)
    warm(layer)
    layer.repository(Part).update(1, name="x" * 1000)
    (ladder,) = layer.caches.ladders()
    for _ in range(3):
        ladder.clear_local()
        assert len(layer.repository(Part).get_one(1).name) == 1000
    with server.client() as client:
        assert not client.exists("{dl:0}:v:fault_parts:1") or len(client.get("{dl:0}:v:fault_parts:1") or "") < 100
    assert any(name.startswith("unencodable") for name in ladder.counts)


# -- 7, 8 ------------------------------------------------------------------------------------------------------------


def test_a_write_may_be_told_to_fail_rather_than_to_end_the_epoch(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer = make(server.url, mark_policy="fail", redis_timeout=0.1)
    warm(layer)
    before = epoch(layer)
    server.pause()
    with pytest.raises(L2UnavailableError, match="takes no marks"):
        layer.repository(Part).update(1, name="new")
    server.resume()
    assert layer.repository(Part).get_one(1, consistency="database").name == "n1"
    assert epoch(layer) == before


def test_a_redis_that_wants_another_password_is_no_redis_and_its_password_is_not_shown(
    make: Callable[..., DataLayer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(options={"requirepass": "right"})
    try:
        layer = make(server.url.replace("right", "wrong-secret"))
        assert layer.repository(Part).get_one(1).name == "n1"
        assert layer.repository(Part).update(1, name="new").name == "new"
        assert layer.repository(Part).get_one(1).name == "new"
        assert layer.health().status == "degraded"
        assert "wrong-secret" not in caplog.text + repr(layer) + repr(layer.settings)
    finally:
        server.stop()


# -- 11, 12: the bus -------------------------------------------------------------------------------------------------


def test_memory_is_not_served_while_nothing_is_heard_and_is_again_afterwards(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    with TcpProxy.for_url(server.url) as proxy:
        writer, reader = make(server.url), make(proxy.url)
        warm(writer), warm(reader)
        parts = reader.repository(Part)
        parts.get(1), parts.get(1)
        proxy.blackhole()
        writer.repository(Part).update(1, name="new")
        committed = time.monotonic()
        began = committed
        while parts.get_one(1).name == "n1":
            assert began < committed + L1_LEASE, "what began after the lease was over was old"
            began = time.monotonic()
        proxy.pass_()
        (ladder,) = reader.caches.ladders()
        wait_until("L1 is served again", lambda: _l1_hit(reader, ladder), seconds=15)
        assert parts.get_one(1).name == "new"


def _l1_hit(layer: DataLayer, ladder: object) -> bool:
    before = ladder.l1.hits  # type: ignore[attr-defined]
    layer.repository(Part).get(1)
    return bool(ladder.l1.hits > before)  # type: ignore[attr-defined]


def test_a_subscriber_that_redis_drops_subscribes_anew_and_forgets_its_memory(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer = make(server.url)
    warm(layer)
    authority = layer._parts.authority
    wait_until("it hears", lambda: authority.horizon[0] > time.monotonic(), seconds=10)  # type: ignore[union-attr]
    with server.client() as client:
        assert ask(client, "PUBSUB", "NUMSUB", "{dl:0}:b")[1] == 1
    layer.repository(Part).get(2)
    (ladder,) = layer.caches.ladders()
    assert cut_bus(server) >= 1
    with server.client() as client:  # somebody's message, lost with the connection
        client.hincrby("{dl:0}:h", "q", 1)
    wait_until("the gap is noticed", lambda: 2 not in ladder.l1.index, seconds=10)
    with server.client() as client:
        wait_until("it has subscribed anew", lambda: ask(client, "PUBSUB", "NUMSUB", "{dl:0}:b")[1] == 1)


# -- 16, 17, 19, 21, 22: the database refuses ------------------------------------------------------------------------


def test_a_lock_that_is_not_had_in_time_changes_no_cache(
    make: Callable[..., DataLayer], server: PrivateRedis, pg_url: str
) -> None:
    layer = make(server.url, lock_timeout=0.2, **AT_LEISURE)
    warm(layer)
    with lock_rows(pg_url, "fault_parts", [1]), pytest.raises((sa.exc.DBAPIError, DataLayerError)):
        layer.repository(Part).update(1, name="new")
    with Statements(layer.engine) as statements:
        assert layer.repository(Part).get_one(1, consistency="shared").name == "n1"
        assert len(statements) == 0, "the value in Redis was not touched"


@pytest.mark.parametrize("end", ["rollback", "close", "exception", "savepoint"])
def test_what_is_rolled_back_was_never_seen_and_leaves_the_caches_as_they_were(
    make: Callable[..., DataLayer], server: PrivateRedis, end: str
) -> None:
    layer, other = make(server.url), make(server.url)
    warm(layer), warm(other)
    session = layer.session()
    nested = session.begin_nested() if end == "savepoint" else None
    session.get_one(Part, 1).name = "never"
    session.flush()
    assert session.get_one(Part, 1).name == "never"
    assert other.repository(Part).get_one(1, consistency="shared").name == "n1"
    if nested is not None:
        nested.rollback()
        session.commit()
    elif end == "rollback":
        session.rollback()
    elif end == "exception":
        with pytest.raises(ZeroDivisionError), layer.begin() as inner:
            inner.get_one(Part, 2).name = "never" if 1 / 0 else ""
    session.close()
    assert layer.repository(Part).get_one(1).name == "n1"
    assert other.repository(Part).get_one(1, consistency="shared").name == "n1"


def test_a_database_that_has_become_read_only_answers_reads_and_refuses_writes(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer = make(server.url)
    warm(layer)
    with layer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.scalar(sa.text("SELECT current_database()"))
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    layer.engine.dispose()
    with pytest.raises((sa.exc.DBAPIError, DataLayerError)):
        layer.repository(Part).update(1, name="new")
    assert layer.repository(Part).get_one(1).name == "n1"
    assert layer.repository(Part).get_one(1, consistency="database").name == "n1"


def test_hits_need_no_connection_and_a_miss_names_the_pool(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer = make(server.url, pool_size=1, pool_min=1, pool_timeout=0.2, **AT_LEISURE)
    warm(layer)
    parts = layer.repository(Part)
    with layer.session() as session:
        session.execute(sa.text("SELECT 1"))
        assert parts.get_one(1).name == "n1"
        with pytest.raises((PoolTimeout, sa.exc.TimeoutError), match=r"pool|QueuePool"):
            parts.update(1, name="new")
    assert parts.update(1, name="new").name == "new"


# -- 23, 24, 26: processes and clocks --------------------------------------------------------------------------------


def test_a_process_that_stood_still_for_longer_than_every_lease_serves_nothing_old(
    make: Callable[..., DataLayer], server: PrivateRedis, pg_url: str
) -> None:
    layer = make(server.url)
    warm(layer)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
            parts = layer.repository(Part)
            while True:
                began = time.monotonic()
                os.write(write, f"{began} {parts.get_one(1).name}\n".encode())
                time.sleep(0.002)
        finally:
            os._exit(1)
    try:
        lines = os.fdopen(read)
        wait_until("it reads", lambda: lines.readline().endswith("n1\n"))
        timer = freeze(child, 3 * LEASE)
        layer.repository(Part).update(1, name="new")
        committed = time.monotonic()
        timer.join()
        seen = ""
        while "new" not in seen:
            seen = lines.readline()
            began = float(seen.split()[0])
            assert "new" in seen or began < committed + L1_LEASE, "what began after the lease was over was old"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines.close()
        os.close(write)


class Jumping:
    """A machine whose wall clock jumps, as its monotonic one never does."""

    def __init__(self) -> None:
        self.jump = 0.0

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self.jump, UTC)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wall_clock_that_jumps_ends_no_value_and_revives_none(
    make: Callable[..., DataLayer], server: PrivateRedis, hours: int
) -> None:
    clock = Jumping()
    layer = make(server.url, clock=clock, **AT_LEISURE)
    warm(layer)
    layer.repository(Part).get(1)
    clock.jump = hours * 3600.0
    with Statements(layer.engine) as statements:
        assert layer.repository(Part).get_one(1).name == "n1"
        assert len(statements) == 0
    layer.repository(Part).update(1, name="new")
    assert layer.repository(Part).get_one(1).name == "new"


def test_many_threads_lose_their_redis_and_get_it_back_without_a_wrong_row(
    make: Callable[..., DataLayer], server: PrivateRedis
) -> None:
    layer = make(server.url, redis_timeout=0.2)
    warm(layer)
    stop, errors, reads = threading.Event(), [], [0]
    parts = layer.repository(Part)

    def read() -> None:
        while not stop.is_set():
            try:
                if parts.get_one(3, consistency="shared").name != "n3":
                    errors.append("another row")
            except Exception as error:
                errors.append(repr(error))
            reads[0] += 1

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for keep in (True, False, True):
        restart_redis(server, keep_data=keep)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert reads[0] > 20

"""What the layer does when a server is killed, stopped, cut off, or was never there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Mapped

from datalayer import ConfigError, DataLayer, L3UnavailableError, Model, column
from datalayer.testing.counting import Statements
from datalayer.testing.faults import terminate_backends
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_postgres, start_redis
from datalayer.testing.servers.cluster import wait_until
from datalayer.testing.servers.postgres import PrivatePostgres
from datalayer.testing.servers.redis_server import PrivateRedis


class Thing(Model):
    __tablename__ = "fault_things"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def redis_server_of_mine() -> Iterator[PrivateRedis]:
    server = start_redis()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def postgres_of_mine() -> Iterator[PrivatePostgres]:
    server = start_postgres()
    yield server
    server.stop()


def fill(layer: DataLayer) -> None:
    Model.metadata.create_all(layer.engine, tables=[Thing.__table__])  # type: ignore[list-item]
    layer.repository(Thing).set_many([Thing(id=1, name="one"), Thing(id=2, name="two")])
    with layer.engine.begin() as connection:  # a row that its writer leaves in no cache
        connection.execute(sa.text(f"INSERT INTO {Thing.__tablename__} VALUES (3, 'three')"))


def test_a_layer_starts_and_works_without_its_redis(pg_url: str) -> None:
    with DataLayer(pg_url, redis="redis://127.0.0.1:1/0", models=[Thing]) as layer:
        fill(layer)
        things = layer.repository(Thing)
        assert things.get_one(1).name == "one"
        assert things.update(1, name="uno").name == "uno"
        assert things.get_one(1).name == "uno"
        health = layer.health()
        assert (health.ok, health.status) == (False, "degraded")


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_write_while_redis_is_away_is_not_undone_when_it_returns(
    pg_url: str, redis_server_of_mine: PrivateRedis, how: str
) -> None:
    server = redis_server_of_mine
    with DataLayer(pg_url, redis=server.url, models=[Thing], breaker_reset=0.05) as layer:
        fill(layer)
        things = layer.repository(Thing)
        assert things.get_one(1).name == "one"
        getattr(server, how)()
        began = time.monotonic()
        things.update(1, name="uno")
        assert things.get_one(1).name == "uno"
        assert time.monotonic() - began < 4
        server.restart() if how == "kill" else server.resume()
        (ladder,) = layer.caches.ladders()
        for _ in range(20):
            ladder.clear_local()
            assert things.get_one(1).name == "uno"


def test_a_backend_that_died_in_the_pool_is_replaced_within_the_read(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Thing]) as layer:
        fill(layer)
        things = layer.repository(Thing)
        things.get(1)
        with layer.engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                )
            )
        assert things.get_one(2).name == "two"


def test_hits_are_served_while_the_database_is_away_and_a_miss_says_so(postgres_of_mine: PrivatePostgres) -> None:
    with DataLayer(postgres_of_mine.create_database("away"), models=[Thing]) as layer:
        fill(layer)
        things = layer.repository(Thing)
        things.get(1)
        postgres_of_mine.kill()
        assert things.get_one(1).name == "one"
        began = time.monotonic()
        with pytest.raises(L3UnavailableError, match="database"):
            things.get(3)
        assert time.monotonic() - began < 5
        assert layer.health().status == "down"
        postgres_of_mine.restart()
        assert things.get_one(3).name == "three"


def test_a_database_that_hangs_is_cut_off_by_the_watchdog(pg_url: str) -> None:
    with TcpProxy.for_url(pg_url) as proxy:
        url = make_url(pg_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        with DataLayer(url, models=[Thing], statement_timeout=0.6) as layer:
            fill(layer)
            things = layer.repository(Thing)
            things.get(1)
            proxy.blackhole()
            began = time.monotonic()
            with pytest.raises(L3UnavailableError):
                things.get(2, consistency="database")
            assert time.monotonic() - began < 10
            assert layer._parts.watchdog.fired >= 1
            assert things.get_one(1).name == "one"
            proxy.pass_()


def test_a_database_that_lets_callers_wait_is_not_asked_for_connections_in_vain(pg_url: str) -> None:
    with TcpProxy.for_url(pg_url) as proxy:
        url = make_url(pg_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        options: dict[str, Any] = {"connect_timeout": 2, "breaker_failures": 1, "breaker_reset": 0.4}
        with DataLayer(url, models=[Thing], **options) as layer:
            things = layer.repository(Thing)
            proxy.blackhole()
            waits = []
            for read in (layer.ping, lambda: things.get(1), lambda: layer.run(lambda session: session.get(Thing, 1))):
                began = time.monotonic()
                with pytest.raises(L3UnavailableError):
                    read()
                waits.append(time.monotonic() - began)
            assert waits[0] > 1 > waits[1]
            proxy.pass_()
            wait_until("it is tried again", lambda: _answers(layer), seconds=15)


def _answers(layer: DataLayer) -> bool:
    try:
        return layer.ping() > 0
    except L3UnavailableError:
        return False


def test_the_rows_of_a_commit_whose_reply_was_lost_bypass_the_cache(pg_url: str) -> None:
    with TcpProxy.for_url(pg_url) as proxy:
        url = make_url(pg_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        with DataLayer(url, models=[Thing]) as layer:
            fill(layer)
            things = layer.repository(Thing)
            things.get(1)
            session = layer.session()
            session.get_one(Thing, 1).name = "uno"
            session.flush()
            proxy.cut(b"COMMIT\0", keep_match=False)
            with pytest.raises(sa.exc.DBAPIError):
                session.commit()
            session.close()
            with Statements(layer.engine) as statements:
                names = {things.get_one(1).name for _ in range(3)}
                assert statements.taken() == 3
                things.get(3), things.get(3)
                assert statements.taken() == 1
            assert names == {"uno"}
            assert layer._parts.coherence.unknown == 1


def test_a_forked_child_reads_and_writes_on_its_own(pg_url: str, redis_url: str, key_prefix: str) -> None:
    with DataLayer(pg_url, redis=redis_url, key_prefix=key_prefix, models=[Thing]) as layer:
        fill(layer)
        things = layer.repository(Thing)
        things.get(1)
        child = os.fork()
        if child == 0:
            try:
                ok = things.get_one(1).name == "one"
                things.update(2, name="child")
                ok = ok and things.get_one(2).name == "child"
                os._exit(0 if ok else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert things.get_one(1).name == "one"
        assert things.get_one(2, consistency="shared").name == "child"
        things.update(1, name="parent")
        assert things.get_one(1).name == "parent"


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/x"
    with DataLayer(url, redis="redis://:swordfish@127.0.0.1:1/0", models=[Thing]) as layer:
        with pytest.raises(L3UnavailableError) as failure:
            layer.repository(Thing).get(1)
        shown = f"{layer!r} {layer.settings!r} {failure.value} {layer.health()} {caplog.text}"
    assert "hunter2" not in shown
    assert "swordfish" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "sqlite://", "l1_tll": 5}, "did you mean 'l1_ttl'"),
        ({}, "needs a database"),
        ({"url": "mysql+pymysql://x/y"}, "pip install"),
        ({"url": "nonsense://x"}, "dialect"),
        ({"url": "sqlite://", "redis": "http://x"}, "redis"),
        ({"url": "sqlite://", "codec": "pickle"}, "codec"),
    ],
)
def test_a_layer_that_cannot_be_meant_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataLayer(**options)


def test_a_backend_that_dies_before_its_commit_fails_it_with_an_error_of_sqlalchemy(
    pg_url: str, redis_url: str, key_prefix: str
) -> None:
    with DataLayer(pg_url, redis=redis_url, key_prefix=key_prefix, models=[Thing]) as layer:
        fill(layer)
        things = layer.repository(Thing)
        session = layer.session()
        session.get_one(Thing, 1).name = "uno"
        session.flush()
        terminate_backends(pg_url)
        with pytest.raises(sa.exc.DBAPIError):
            session.commit()
        session.close()
        assert things.get_one(1).name == "one"
        assert things.update(1, name="uno").name == "uno"


def test_the_first_read_of_a_process_may_come_while_the_database_is_away(
    pg_url: str, redis_url: str, key_prefix: str
) -> None:
    with DataLayer(pg_url, redis=redis_url, key_prefix=key_prefix, models=[Thing]) as layer:
        fill(layer)
        layer.repository(Thing).get(1)
    with TcpProxy.for_url(pg_url) as proxy:
        proxy.refuse()
        with DataLayer(proxy.url, redis=redis_url, key_prefix=key_prefix, models=[Thing]) as layer:
            with layer.session() as session, pytest.raises((sa.exc.OperationalError, L3UnavailableError)):
                session.get(Thing, 1)
            proxy.pass_()
            with layer.session() as session:
                assert session.get_one(Thing, 1).name == "one"

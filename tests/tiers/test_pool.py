"""The pool of database connections keeps to its settings, asked or not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

import datalayer.tiers.pool as pool_module
from datalayer import DataLayer, L3UnavailableError, Model, PoolTimeout, column
from datalayer.tiers.pool import Pool


class Pooled(Model):
    __tablename__ = "pooled"
    id: Mapped[int] = column(primary_key=True)


def pool_of(layer: DataLayer) -> Pool:
    assert isinstance(layer.engine.pool, Pool)
    return layer.engine.pool


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def hold(layer: DataLayer, count: int) -> None:
    """Use that many connections at once and give them back."""
    held = [layer.engine.connect() for _ in range(count)]
    for connection in held:
        connection.close()


def test_nothing_is_connected_before_the_first_use_and_then_what_was_promised(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Pooled], pool_min=3) as layer:
        pool = pool_of(layer)
        assert pool.open_connections() == 0
        layer.ping()
        assert eventually(lambda: pool.open_connections() == 3)


def test_a_layer_that_is_not_lazy_connects_at_once(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Pooled], pool_min=3, lazy_connect=False) as layer:
        assert pool_of(layer).open_connections() >= 3
    with DataLayer("sqlite://", models=[Pooled], lazy_connect=False) as layer:
        assert layer.ping() >= 0


def test_a_layer_that_is_not_lazy_says_at_once_that_nobody_is_there() -> None:
    with pytest.raises(L3UnavailableError, match="cannot be reached"):
        DataLayer("postgresql+psycopg://nobody@127.0.0.1:1/x", models=[Pooled], lazy_connect=False)


def test_connections_that_stand_idle_are_closed_down_to_the_least(pg_url: str) -> None:
    with DataLayer(pg_url, pool_min=1, pool_max_idle="50ms", pool_health_check_period="20ms") as layer:
        hold(layer, 5)
        pool = pool_of(layer)
        assert eventually(lambda: pool.open_connections() == 1)
        with layer.engine.connect() as connection:  # one that is lent is nobody's to close
            hold(layer, 3)
            assert eventually(lambda: pool.open_connections() == 1)
            assert connection.scalar(sa.select(1)) == 1


def test_a_connection_is_replaced_at_the_end_of_its_life(pg_url: str) -> None:
    with DataLayer(pg_url, pool_min=0, pool_max_lifetime="50ms", pool_health_check_period=0) as layer:
        with layer.engine.connect() as connection:
            first = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        time.sleep(0.06)
        with layer.engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT pg_backend_pid()")) != first
    with DataLayer(pg_url, pool_min=0, pool_max_lifetime="50ms", pool_health_check_period="10ms") as layer:
        hold(layer, 3)
        assert eventually(lambda: pool_of(layer).open_connections() == 0)


def test_connections_that_were_opened_together_do_not_end_together(pg_url: str) -> None:
    random.seed(20)
    with DataLayer(
        pg_url, pool_max_lifetime=1000, pool_max_lifetime_jitter=400, pool_min=0, pool_health_check_period=0
    ) as layer:
        hold(layer, 8)
        pool = pool_of(layer)
        for age, least, most in ((590, 8, 8), (800, 1, 7), (1010, 0, 0)):
            for record in pool._taken():
                record.starttime = time.time() - age
                pool._do_return_conn(record)
            pool.tidy()
            assert least <= pool.open_connections() <= most


def test_each_pool_says_its_name_when_it_is_exhausted(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Pooled], pool_size=1, pool_min=0, pool_timeout="50ms") as layer:
        with layer.engine.connect(), pytest.raises(PoolTimeout, match="transactions on 'test_") as failure:
            layer.engine.connect()
        assert isinstance(failure.value, sa.exc.TimeoutError)
        reading = layer._parts.reading
        assert reading is not None
        with reading.connect(), pytest.raises(PoolTimeout, match="reads of 'test_"):
            reading.connect()


def test_a_pool_that_was_made_anew_keeps_its_manners(pg_url: str) -> None:
    with DataLayer(pg_url, pool_min=2) as layer:
        before = pool_of(layer).manners
        layer.engine.dispose()
        assert pool_of(layer).manners == before
        layer.ping()
        assert eventually(lambda: pool_of(layer).open_connections() >= 1)


def end_sessions(layer: DataLayer) -> None:
    """End every idle session of the layer's pool, from outside."""
    with sa.create_engine(layer.engine.url, poolclass=sa.NullPool).begin() as admin:
        ours = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        admin.execute(sa.text(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {ours}"))


def test_connections_that_the_server_ended_are_replaced_before_they_are_lent(pg_url: str) -> None:
    with DataLayer(pg_url, pool_health_check_period=0) as layer:
        hold(layer, 3)
        end_sessions(layer)
        for _ in range(4):
            with layer.begin() as session:
                assert session.scalar(sa.select(1)) == 1


def test_the_look_before_use_can_be_switched_off(pg_url: str) -> None:
    with DataLayer(pg_url, pool_pre_ping=False, pool_health_check_period=0) as layer:
        hold(layer, 1)
        end_sessions(layer)
        with pytest.raises(L3UnavailableError, match="was lost"), layer.begin() as session:
            session.scalar(sa.select(1))


def test_what_a_connection_left_open_is_rolled_back_when_it_comes_back(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Pooled], pool_size=1, pool_min=0) as layer:
        Pooled.metadata.create_all(layer.engine)
        raw = layer.engine.raw_connection()
        raw.cursor().execute("INSERT INTO pooled VALUES (1)")
        raw.close()
        with layer.engine.connect() as connection:
            connection.execute(sa.insert(Pooled).values(id=2))
        with layer.engine.connect() as connection:
            assert connection.scalars(sa.select(Pooled.id)).all() == []


def test_only_connections_that_were_idle_for_long_are_asked(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with DataLayer(pg_url, pool_health_check_period=0) as layer:
        hold(layer, 1)
        asked: list[object] = []
        ping = layer.engine.dialect.do_ping
        monkeypatch.setattr(layer.engine.dialect, "do_ping", lambda c: bool(asked.append(c)) or ping(c))
        hold(layer, 1)
        assert not asked
        monkeypatch.setattr(pool_module, "_TRUSTED", 0.0)
        hold(layer, 1)
        assert len(asked) == 1


def test_a_failing_look_gives_the_place_in_the_pool_back(pg_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with DataLayer(pg_url, pool_size=1, pool_min=0, pool_timeout="1s", pool_health_check_period=0) as layer:
        hold(layer, 1)

        def interrupted(_: object) -> bool:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pool_module, "_TRUSTED", 0.0)
            patch.setattr(layer.engine.dialect, "do_ping", interrupted)
            with pytest.raises(KeyboardInterrupt):
                layer.engine.connect()
        with layer.engine.connect() as connection:
            assert connection.scalar(sa.select(1)) == 1


def test_a_server_without_a_free_place_says_so(pg_url: str) -> None:
    with DataLayer(pg_url) as admin:
        name = sa.make_url(pg_url).database
        with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f'CREATE ROLE "few_{name}" LOGIN CONNECTION LIMIT 1'))
        url = sa.make_url(pg_url).set(username=f"few_{name}").render_as_string(hide_password=False)
        try:
            with (
                DataLayer(url, pool_min=0) as layer,
                layer.engine.connect(),
                pytest.raises(PoolTimeout, match="no more connections"),
            ):
                layer.engine.connect()
        finally:
            with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text(f'DROP ROLE "few_{name}"'))

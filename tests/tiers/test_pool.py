"""The pool of database connections keeps to its settings, asked or not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, L3UnavailableError, Model, PoolTimeout, column
from datalayer.tiers.pool import Pool


class Pooled(Model):
    __tablename__ = "pooled"
    id: Mapped[int] = column(primary_key=True)


def pool_of(layer: DataLayer) -> Pool:
    assert isinstance(layer.engine.pool, Pool)
    return layer.engine.pool


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
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
    with DataLayer(pg_url, pool_max_lifetime=1000, pool_max_lifetime_jitter=400, pool_health_check_period=0) as layer:
        held = [layer.engine.connect() for _ in range(8)]
        ages = [time.time() - c.connection._connection_record.starttime for c in held]  # type: ignore[union-attr]
        for connection in held:
            connection.close()
    assert all(0 <= age <= 401 for age in ages)
    assert max(ages) - min(ages) > 20


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


def test_the_ping_before_use_can_be_switched_off(pg_url: str) -> None:
    with DataLayer(pg_url, pool_pre_ping=False) as layer:
        assert not pool_of(layer)._pre_ping
    with DataLayer(pg_url) as layer:
        assert pool_of(layer)._pre_ping


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

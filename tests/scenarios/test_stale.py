"""With ``stale_on_error`` rows outlive their end in L1 while the database is away, and only then."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, L3UnavailableError, Model, column
from datalayer.testing.proxy import TcpProxy


class Lasting(Model):
    __tablename__ = "lasting"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Exacting(Model):
    __tablename__ = "exacting"
    __cache__ = CachePolicy(commit_wait=True)
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Clock:
    """The machine's clock, some time ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)


@pytest.fixture
def proxy(pg_url: str) -> Iterator[TcpProxy]:
    with TcpProxy.for_url(pg_url) as proxy:
        yield proxy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def layer_of(pg_url: str, proxy: TcpProxy, clock: Clock) -> Iterator[Any]:
    layers: list[DataLayer] = []
    url = make_url(pg_url).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    engine = sa.create_engine(pg_url)
    Model.metadata.create_all(engine, tables=[Lasting.__table__, Exacting.__table__])  # type: ignore[list-item]
    with engine.begin() as connection:
        for model in (Lasting, Exacting):
            connection.execute(sa.insert(model), [{"id": i, "name": f"n{i}"} for i in (1, 2, 3)])
    engine.dispose()

    def make(**options: Any) -> DataLayer:
        given = {"l1_ttl": 10, "ttl_jitter": 0, "clock": clock, "stale_on_error": 60} | options
        layers.append(DataLayer(url, models=[Lasting, Exacting], **given))
        return layers[-1]

    yield make
    for layer in layers:
        layer.close()


def away(proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.drop()


def test_rows_are_served_after_their_end_for_as_long_as_was_said(
    layer_of: Any, proxy: TcpProxy, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    layer = layer_of()
    things = layer.repository(Lasting)
    assert (things.get(1).name, things.get(2).name) == ("n1", "n2")
    away(proxy)
    with caplog.at_level(logging.WARNING, logger="datalayer.l3"):
        clock.ahead = 11
        assert things.get(1).name == "n1"
        assert things.get_snapshot(2).name == "n2"
        clock.ahead = 69
        assert things.get(1).name == "n1"
        assert {id: row.name for id, row in things.get_many([1, 2]).items()} == {1: "n1", 2: "n2"}
        clock.ahead = 71
        with pytest.raises(L3UnavailableError):
            things.get(1)
        with pytest.raises(L3UnavailableError):
            things.get_many([1, 2])
    assert layer.stats().models["Lasting"].tiers["l1"].stale == 5
    assert [record.event for record in caplog.records if hasattr(record, "event")] == ["database.away"]


def test_what_l1_never_had_is_an_error_and_what_changed_is_not_served(
    layer_of: Any, proxy: TcpProxy, clock: Clock
) -> None:
    layer = layer_of(negative_ttl=5)
    things = layer.repository(Lasting)
    things.get_many([1, 2])
    assert things.get(9) is None
    layer.touch(Lasting)
    things.get(2)
    away(proxy)
    clock.ahead = 11
    assert things.get(2).name == "n2"
    for id in (1, 3, 9):
        with pytest.raises(L3UnavailableError):
            things.get(id)
    with pytest.raises(L3UnavailableError):
        things.get_many([1, 2])


def test_the_database_is_asked_again_and_its_return_is_logged(
    layer_of: Any, proxy: TcpProxy, clock: Clock, caplog: pytest.LogCaptureFixture, pg_url: str
) -> None:
    layer = layer_of()
    things = layer.repository(Lasting)
    things.get(1)
    away(proxy)
    clock.ahead = 11
    assert things.get(1).name == "n1"
    engine = sa.create_engine(pg_url)
    with engine.begin() as connection:
        connection.execute(sa.update(Lasting).values(name="new"))
    engine.dispose()
    proxy.pass_()
    clock.ahead = 13
    with caplog.at_level(logging.WARNING, logger="datalayer.l3"):
        assert things.get(1).name == "new"
    assert [record.event for record in caplog.records] == ["database.away", "database.reachable"]


@pytest.mark.parametrize("level", ["shared", "database"])
def test_strict_reads_and_transactions_get_the_error(layer_of: Any, proxy: TcpProxy, clock: Clock, level: Any) -> None:
    layer = layer_of()
    things, exacting = layer.repository(Lasting), layer.repository(Exacting)
    things.get(1), exacting.get(1)
    away(proxy)
    clock.ahead = 11
    with pytest.raises(L3UnavailableError):
        things.get(1, consistency=level)
    with pytest.raises(L3UnavailableError):
        things.get_many([1], consistency=level)
    with layer.consistency(level), pytest.raises(L3UnavailableError):
        things.get(1)
    with pytest.raises(L3UnavailableError):
        exacting.get(1)
    with layer.session() as session, pytest.raises(L3UnavailableError):
        session.get(Lasting, 1)
    assert things.get(1).name == "n1"


def test_without_the_option_the_error_is_raised(layer_of: Any, proxy: TcpProxy, clock: Clock) -> None:
    layer = layer_of(stale_on_error=None)
    things = layer.repository(Lasting)
    things.get(1)
    away(proxy)
    clock.ahead = 11
    with pytest.raises(L3UnavailableError):
        things.get(1)


def test_ended_entries_stay_while_there_is_room_and_go_when_their_time_is_over(
    layer_of: Any, proxy: TcpProxy, clock: Clock
) -> None:
    layer = layer_of()
    (things, l1) = layer.repository(Lasting), None
    things.get(1)
    (l1,) = [ladder.l1 for ladder in layer.caches.ladders() if ladder.root is Lasting]
    clock.ahead = 20
    for _ in range(20):
        l1.put(2, {"id": 2, "name": "n2"})
    assert 1 in l1.index
    clock.ahead = 71
    for _ in range(20):
        l1.put(2, {"id": 2, "name": "n2"})
    assert 1 not in l1.index


def test_rows_outlive_the_lease_of_a_shared_cache_as_well(
    layer_of: Any, proxy: TcpProxy, redis_url: str, key_prefix: str, clock: Clock
) -> None:
    options = {"redis_timeout": 0.1, "fence_lease": 0.6, "l1_lease": 0.4, "l1_ttl": 600}
    layer = layer_of(redis=redis_url, key_prefix=key_prefix, **options)
    things = layer.repository(Lasting)
    (ladder,) = [ladder for ladder in (things.get(1), *layer.caches.ladders())[1:] if ladder.root is Lasting]
    deadline = time.monotonic() + 20
    while ladder.near.look(things._reader.schema, (1,)) is None:  # the epoch is settled, and L1 has the row
        things.get(1)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    away(proxy)
    while ladder.near.look(things._reader.schema, (1,)) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert things.get(1).name == "n1"
    assert layer.stats().models["Lasting"].tiers["l1"].stale >= 1
    clock.ahead = 62
    with pytest.raises(L3UnavailableError):
        things.get(1)

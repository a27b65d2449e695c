"""Programs that know only Redis announce what they changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.models.schema import schema_of
from datalayer.testing.servers import start_redis


class Outside(Model):
    __tablename__ = "outside_rows"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Pairing(Model):
    __tablename__ = "outside_pairs"
    code: Mapped[str] = column(primary_key=True)
    number: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


def eventually(condition: Callable[[], Any]) -> bool:
    deadline = time.monotonic() + 60  # nothing is kept while older transactions run, of other tests too
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def hold(layer: DataLayer, model: type, ids: list[Any]) -> Any:
    """A repository of rows that Redis has by now."""
    rows = layer.repository(model)
    rows.get_many(ids)
    ladder = layer.caches.ladder(schema_of(sa.inspect(model)))
    assert ladder is not None

    def held() -> bool:
        before = ladder.counts["l2_hits"]
        rows.get_many(ids, consistency="shared")
        return ladder.counts["l2_hits"] - before == len(ids)

    assert eventually(held)
    return rows


class Outsider:
    """A program that writes with SQL and announces through Redis."""

    def __init__(self, url: str, redis_url: str) -> None:
        self.engine = sa.create_engine(url)
        self.redis = redis.Redis.from_url(redis_url)

    def write(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement))

    def announce(self, channel: str, *texts: str) -> None:
        assert eventually(lambda: self.redis.pubsub_numsub(channel)[0][1] > 0), "nobody listens"
        for text in texts:
            self.redis.publish(channel, text)

    def close(self) -> None:
        self.redis.close()
        self.engine.dispose()


@pytest.fixture
def outsider(pg_url: str, redis_url: str) -> Iterator[Outsider]:
    outsider = Outsider(pg_url, redis_url)
    tables = [Outside.__table__, Pairing.__table__]
    Model.metadata.create_all(outsider.engine, tables=tables)  # type: ignore[arg-type]
    outsider.write("INSERT INTO outside_rows SELECT i, 'old' FROM generate_series(1, 4) i")
    outsider.write("INSERT INTO outside_pairs VALUES ('a', 1, 'old'), ('a', 2, 'old')")
    yield outsider
    outsider.close()


@pytest.fixture
def layer_of(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[Any]:
    layers: list[DataLayer] = []

    def make(**options: Any) -> DataLayer:
        at_leisure = {"fence_lease": 20.0, "l1_lease": 10.0, "redis_timeout": 2.0}
        given = {"redis": redis_url, "key_prefix": key_prefix} | at_leisure | options
        layers.append(DataLayer(pg_url, models=[Outside, Pairing], **given))
        return layers[-1]

    yield make
    for layer in layers:
        layer.close()


def test_a_row_that_is_announced_is_read_anew_and_others_are_not(
    layer_of: Any, outsider: Outsider, key_prefix: str
) -> None:
    channel = f"{key_prefix}:news"
    layer = layer_of(invalidation_channel=channel)
    things, pairs = hold(layer, Outside, [1, 2]), hold(layer, Pairing, [("a", 1), ("a", 2)])
    outsider.write("UPDATE outside_rows SET name = 'new'")
    outsider.write("UPDATE outside_pairs SET name = 'new'")
    pair = next(iter(layer._parts.announcements._models()))._key_text(("a", 1))
    outsider.announce(channel, "outside_rows:1", f"outside_pairs:{pair}")
    assert eventually(lambda: things.get(1).name == "new")
    assert eventually(lambda: pairs.get(("a", 1)).name == "new")
    assert things.get(2).name == "old"
    assert pairs.get(("a", 2)).name == "old"


def test_a_whole_table_can_be_announced_and_what_no_pattern_names_is_ignored(
    layer_of: Any, outsider: Outsider, key_prefix: str
) -> None:
    layer = layer_of(invalidation_patterns=["outside_rows:*"])
    things, pairs = hold(layer, Outside, [1, 2]), hold(layer, Pairing, [("a", 1)])
    outsider.write("UPDATE outside_rows SET name = 'new'")
    outsider.write("UPDATE outside_pairs SET name = 'new'")
    heard = layer._parts.announcements
    outsider.announce(f"{key_prefix}:invalidate", "outside_pairs:*", "nonsense", "unknown:1", "outside_rows:*")
    assert eventually(lambda: things.get(1).name == "new")
    assert things.get(2).name == "new"
    assert pairs.get(("a", 1)).name == "old"
    assert eventually(lambda: (heard.heeded, heard.ignored) == (1, 3)), "it is counted once it is done"


def test_what_was_announced_while_nobody_heard_is_forgotten_afterwards(
    layer_of: Any, outsider: Outsider, key_prefix: str
) -> None:
    layer = layer_of(invalidation_channel=f"{key_prefix}:news")
    things = layer.repository(Outside)
    things.get(1)
    assert eventually(lambda: outsider.redis.pubsub_numsub(f"{key_prefix}:news")[0][1])
    outsider.write("UPDATE outside_rows SET name = 'new'")
    outsider.redis.client_kill_filter(_type="pubsub")
    assert eventually(lambda: things.get(1).name == "new")


def test_the_listener_survives_its_redis_and_says_so_once(
    layer_of: Any, outsider: Outsider, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    try:
        layer = layer_of(redis=server.url, invalidation_channel="news", breaker_reset=0.05)
        things = layer.repository(Outside)
        things.get(1)
        own = redis.Redis.from_url(server.url)
        assert eventually(lambda: own.pubsub_numsub("news")[0][1])
        own.close()
        server.kill()
        outsider.write("UPDATE outside_rows SET name = 'new'")
        assert eventually(lambda: "announcements of outside writes are not heard" in caplog.text)
        server.restart()
        assert eventually(lambda: things.get(1).name == "new")
    finally:
        server.stop()
    assert caplog.text.count("announcements of outside writes are not heard") == 1


def test_nobody_listens_unless_it_was_asked_for(layer_of: Any, outsider: Outsider) -> None:
    layer = layer_of()
    layer.repository(Outside).get(1)
    assert layer._parts.announcements is None

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
    deadline = time.monotonic() + 15
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


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
        given = {"redis": redis_url, "key_prefix": key_prefix} | options
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
    things, pairs = layer.repository(Outside), layer.repository(Pairing)
    things.get_many([1, 2]), pairs.get_many([("a", 1), ("a", 2)])
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
    things, pairs = layer.repository(Outside), layer.repository(Pairing)
    things.get_many([1, 2]), pairs.get(("a", 1))
    outsider.write("UPDATE outside_rows SET name = 'new'")
    outsider.write("UPDATE outside_pairs SET name = 'new'")
    heard = layer._parts.announcements
    outsider.announce(f"{key_prefix}:invalidate", "outside_pairs:*", "nonsense", "unknown:1", "outside_rows:*")
    assert eventually(lambda: things.get(1).name == "new")
    assert things.get(2).name == "new"
    assert pairs.get(("a", 1)).name == "old"
    assert (heard.heeded, heard.ignored) == (1, 3)


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

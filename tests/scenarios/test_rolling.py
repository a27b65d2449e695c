"""A rolling deploy: the old release and the new one, whose model has a column more, run at the same time."""

from __future__ import annotations

import multiprocessing as mp
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rolling_worker as old
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.testing.servers.cluster import wait_until

ROWS = 6


class Account(Model):
    __tablename__ = "rolling_accounts"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    level: Mapped[int]
    score: Mapped[int | None]


class Old:
    """The process of the old release."""

    def __init__(self, url: str, redis: str, prefix: str) -> None:
        spawn = mp.get_context("spawn")
        self._orders, theirs = spawn.Pipe()
        self._process = spawn.Process(target=old.main, args=(url, redis, prefix, theirs), daemon=True)
        self._process.start()

    def __call__(self, what: str, id: Any = None, value: Any = None) -> Any:
        self._orders.send((what, id, value))
        assert self._orders.poll(30), "the old release does not answer"
        return self._orders.recv()

    def close(self) -> None:
        self._orders.send(None)
        self._process.join(10)
        self._process.kill()
        self._orders.close()


@pytest.fixture
def releases(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[tuple[Old, DataLayer]]:
    engine = sa.create_engine(pg_url)
    Model.metadata.create_all(engine, tables=[Account.__table__])  # type: ignore[list-item]
    with engine.begin() as connection:
        rows = [{"id": i, "name": f"n{i}", "level": i, "score": i * 10} for i in range(ROWS)]
        connection.execute(sa.insert(Account), rows)
    engine.dispose()
    before = Old(pg_url, redis_url, key_prefix)
    with DataLayer(pg_url, redis=redis_url, key_prefix=key_prefix, models=[Account]) as layer:
        yield before, layer
    before.close()


def new_get(layer: DataLayer, id: int, level: Any) -> Any:
    row = layer.repository(Account).get(id, consistency=level)
    return row and (row.name, row.level, row.score)


def test_both_releases_invalidate_each_other_and_read_their_own_shape(releases: tuple[Old, DataLayer]) -> None:
    before, layer = releases
    accounts = layer.repository(Account)
    assert before("get", 1, "shared") == ("n1", 1)
    assert new_get(layer, 1, "shared") == ("n1", 1, 10)
    accounts.update(1, name="new", score=11)
    assert before("get", 1, "shared") == ("new", 1)
    before("update", 1, "old")
    assert new_get(layer, 1, "shared") == ("old", 1, 11), "the old release does not know the score, and keeps it"
    accounts.delete(1)
    assert before("get", 1, "shared") is None
    before("create", 1, "again")
    assert new_get(layer, 1, "shared") == ("again", 0, None)
    assert before("delete", 1) is True
    assert new_get(layer, 1, "shared") is None


def test_one_value_in_redis_serves_both_shapes(releases: tuple[Old, DataLayer]) -> None:
    before, layer = releases
    layer.repository(Account).get(2)
    (ladder,) = layer.caches.ladders()

    def loads() -> int:
        """How often the database was asked while both read the row in turn."""
        past = before("counts")["l3_reads"] + ladder.counts["l3_reads"]
        for _ in range(5):
            assert before("get", 2, "shared") == ("n2", 2)
            assert new_get(layer, 2, "shared") == ("n2", 2, 20)
        return int(before("counts")["l3_reads"] + ladder.counts["l3_reads"] - past)

    wait_until("neither drives the other's shape out", lambda: loads() == 0)


def test_whatever_they_do_in_turn_neither_misreads(releases: tuple[Old, DataLayer], rng: random.Random) -> None:
    before, layer = releases
    accounts = layer.repository(Account)
    truth: dict[int, tuple[str, int, int | None]] = {i: (f"n{i}", i, i * 10) for i in range(ROWS)}
    for turn in range(300):
        id, choice = rng.randrange(ROWS), rng.random()
        if choice < 0.15:
            accounts.update(id, name=f"new{turn}", score=turn)
            truth[id] = (f"new{turn}", truth[id][1], turn)
        elif choice < 0.3:
            before("update", id, f"old{turn}")
            truth[id] = (f"old{turn}", *truth[id][1:])
        elif choice < 0.65:
            assert before("get", id, "shared") == truth[id][:2], f"turn {turn}"
            assert before("many", list(range(ROWS)), "shared") == {i: row[:2] for i, row in truth.items()}
        else:
            assert new_get(layer, id, "shared") == truth[id], f"turn {turn}"
            found = accounts.get_many(range(ROWS), consistency="shared")
            assert {i: (r.name, r.level, r.score) for i, r in found.items()} == truth
    deadline = time.monotonic() + 30
    while {i: new_get(layer, i, None) for i in range(ROWS)} != truth:
        assert time.monotonic() < deadline, "the process's own memory did not follow"
    while {i: before("get", i, None) for i in range(ROWS)} != {i: row[:2] for i, row in truth.items()}:
        assert time.monotonic() < deadline, "the old release's memory did not follow"

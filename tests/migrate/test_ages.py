"""During a rolling deployment: processes of two releases share the caches, and nobody has to flush them.

A migration changes the fingerprint of a model's rows. Rows of both lie under one key in Redis, so each release reads
what it understands, and a write of either makes the other forget.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import redis
from age import Age, Release

from datalayer.testing.servers.cluster import wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.redis]


class Ages:
    """Starts releases on the same servers."""

    def __init__(self, *servers: str) -> None:
        self._servers = servers
        self._started: list[Release] = []

    def start(self, age: Age) -> Release:
        self._started.append(Release(age, *self._servers))
        return self._started[-1]

    def close(self) -> None:
        for release in self._started:
            release.close()


@pytest.fixture
def ages(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[Ages]:
    found = Ages(pg_url, redis_url, key_prefix)
    yield found
    found.close()


def test_two_releases_share_the_cache_without_a_flush(ages: Ages, redis_url: str, rng: random.Random) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("witness", "of no flush")
        old, new = ages.start("old"), ages.start("new")
        assert "create table ages_players" in old.call("migrate")
        old.call("set", 1, {"name": "ann"})
        assert warm(old) == {"name": "ann"}

        assert new.call("migrate") == ["add column ages_players.level"]
        row, where = new.call("get", 1)
        assert (row, where) == ({"name": "ann", "level": 7}, "from the database")  # the old entry has no level
        assert warm(new) == {"name": "ann", "level": 7}
        row, where = old.call("get", 1)
        assert (row, where) == ({"name": "ann"}, "from Redis")

        new.call("update", 1, {"name": "bea", "level": 9})
        assert warm(old) == {"name": "bea"}
        old.call("set", 1, {"name": "cyd"})  # knows no level, and loses none
        assert warm(new) == {"name": "cyd", "level": 9}
        converse(old, new, rng)
        assert client.get("witness") == b"of no flush"


def warm(release: Release) -> dict[str, object]:
    """What a release reads when it reads until Redis has the answer: all answers are the same."""
    first, _ = release.call("get", 1)

    def from_redis() -> bool:
        row, where = release.call("get", 1)
        assert row == first
        return bool(where == "from Redis")

    wait_until("Redis has the row", from_redis)  # not before every older transaction of the server has ended
    return dict(first)


def converse(old: Release, new: Release, rng: random.Random) -> None:
    """Whoever writes, both read it at once."""
    level = new.call("get", 1)[0]["level"]
    for turn in range(40):
        name = f"turn {turn}"
        if rng.random() < 0.5:
            old.call("update", 1, {"name": name})
        else:
            level = rng.randrange(1000)
            new.call("update", 1, {"name": name, "level": level})
        for reader in rng.sample([old, new, old, new], 4):
            expected = {"name": name} if reader is old else {"name": name, "level": level}
            assert reader.call("get", 1)[0] == expected


def test_a_release_that_was_there_before_the_column_starts_again_after_it(ages: Ages) -> None:
    new = ages.start("new")
    new.call("migrate")
    new.call("set", 1, {"name": "ann", "level": 3})
    assert warm(new) == {"name": "ann", "level": 3}
    rolled_back = ages.start("old")
    assert rolled_back.call("migrate") == []
    assert rolled_back.call("get", 1) == [{"name": "ann"}, "from Redis"]
    rolled_back.call("set", 2, {"name": "bob"})
    assert new.call("get", 2)[0] == {"name": "bob", "level": 7}

"""The Redis tier on real servers: what a call costs, who wins a race, and that no invalidation is forgotten."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from datalayer.coherence.loose import Loose
from datalayer.coherence.touched import Touched
from datalayer.contracts.tier import Busy, Found, Key, Lease
from datalayer.errors import ConfigError
from datalayer.testing.servers import redis_binaries, start_cluster, start_redis, start_sentinel
from datalayer.testing.servers.redis_server import PrivateRedis
from datalayer.tiers.breaker import Breaker
from datalayer.tiers.l2 import RedisBackplane, RedisTier, Wire, topology_of

KEY, OTHER = Key("players", "1"), Key("players", "2")


class Tier(RedisTier):
    """The tier with the authority of a layer that is not on PostgreSQL."""

    def __init__(self, url: str, breaker: Breaker, timeout: float, kinds: Counter[str]) -> None:
        topology = topology_of(url, timeout=timeout, most=100)
        wire = Wire(topology, prefix="dl", retries=1, breaker=breaker, on_error=lambda kind: kinds.update((kind,)))
        self.loose = Loose(RedisBackplane(wire))
        super().__init__(wire, self.loose)

    def delete(self, keys: list[Key]) -> bool:
        """Whether every shard confirmed it."""
        return self._drop(Touched(keys=tuple(f"{key.space}:{key.id}" for key in keys)))

    def bump(self, spaces: list[str]) -> bool:
        return self._drop(Touched(wide=tuple(f"={space}" for space in spaces)))

    def _drop(self, touched: Touched) -> bool:
        self.loose.drop(touched)
        return not any(self.loose._renew)


def make(url: str, *, failures: int = 1000, kinds: Counter[str] | None = None, timeout: float = 1.0) -> Tier:
    return Tier(url, Breaker(failures, 0.05, time.monotonic), timeout, kinds if kinds is not None else Counter())


def put(tier: Tier, key: Key = KEY, entry: bytes = b"row", ttl: float = 60.0) -> None:
    lease = tier.lease(key)
    assert isinstance(lease, Lease)
    tier.fill(key, lease, entry, ttl)


def entry(tier: Tier, key: Key = KEY) -> bytes | None:
    found = tier.get(key)
    return found.entry if found is not None else None


@pytest.fixture
def tier(redis_url: str) -> Iterator[Tier]:
    tier = make(redis_url)
    yield tier
    tier.close()


@pytest.fixture
def server() -> Iterator[PrivateRedis]:
    server = start_redis()
    yield server
    server.stop()


def test_a_hit_costs_one_round_trip_and_a_fill_none(tier: Tier) -> None:
    assert tier.get(KEY) is None
    put(tier)
    before = tier.round_trips
    found = tier.get(KEY)
    assert tier.round_trips == before + 1
    assert isinstance(found, Found)
    assert (found.entry, found.prefix[:1]) == (b"row", b"V")
    assert 45 < found.ttl < 61  # by what this process knows of the server's clock, which goes on meanwhile


def test_many_keys_cost_one_round_trip(tier: Tier) -> None:
    keys = [Key("players", str(i)) for i in range(100)]
    leases = tier.lease_many(keys)
    assert len(leases) == 100
    for key, lease in leases.items():
        assert isinstance(lease, Lease)
        tier.fill(key, lease, key.id.encode(), 60.0)
    before = tier.round_trips
    found = tier.get_many([*keys, Key("teams", "1")])
    assert tier.round_trips == before + 1
    assert {key.id: value.entry for key, value in found.items()} == {str(i): str(i).encode() for i in range(100)}


def test_only_one_reader_gets_the_lease(tier: Tier, redis_url: str) -> None:
    other = make(redis_url)
    tier.get(KEY)
    assert isinstance(tier.lease(KEY), Lease)
    assert isinstance(other.lease(KEY), Busy)
    other.close()


def test_a_lease_for_a_key_that_was_filled_meanwhile_is_its_value(tier: Tier) -> None:
    put(tier)
    found = tier.lease(KEY)
    assert isinstance(found, Found)
    assert found.entry == b"row"


def test_a_fill_that_comes_after_the_delete_is_refused(tier: Tier) -> None:
    lease = tier.lease(KEY)
    assert isinstance(lease, Lease)
    assert tier.delete([KEY])
    tier.fill(KEY, lease, b"stale", 60.0)
    assert entry(tier) is None


def test_a_fill_that_comes_after_the_bump_is_refused_and_older_values_are_misses(tier: Tier) -> None:
    put(tier)
    lease = tier.lease(OTHER)
    assert isinstance(lease, Lease)
    assert tier.bump(["players"])
    tier.fill(OTHER, lease, b"stale", 60.0)
    assert entry(tier) is None
    assert entry(tier, OTHER) is None
    put(tier, entry=b"new")
    assert entry(tier) == b"new"


def test_a_value_is_extended_only_if_it_is_still_the_same(tier: Tier) -> None:
    put(tier, ttl=5.0)
    found = tier.get(KEY)
    assert found is not None
    tier.extend(KEY, found, b"row and more", 60.0)
    longer = tier.get(KEY)
    assert longer is not None
    assert longer.entry == b"row and more"
    assert longer.ttl < 6.0, "the end stays; the server's clock is known to a few milliseconds"
    tier.extend(KEY, found, b"stale", 60.0)
    assert entry(tier) == b"row and more"


def test_a_row_that_is_not_there_is_remembered_until_rows_are_born(tier: Tier) -> None:
    lease = tier.lease(KEY)
    assert isinstance(lease, Lease)
    tier.fill(KEY, lease, b"", 60.0)
    assert entry(tier) == b""
    assert isinstance(tier.lease(KEY), Found)
    tier.loose.drop(Touched(wide=("+players",)))
    assert entry(tier) is None


def test_a_value_is_recognised_without_its_bytes(tier: Tier) -> None:
    put(tier)
    found = tier.get(KEY)
    assert found is not None
    assert tier.same(KEY, found.prefix)
    assert tier.delete([KEY])
    put(tier)
    assert not tier.same(KEY, found.prefix)


def test_keys_are_found_by_a_glob(tier: Tier) -> None:
    for id in ("user:1", "user:2", "bot:1"):
        put(tier, Key("players", id))
    put(tier, Key("teams", "user:9"))
    assert tier.matching("players", "user:*") == {"user:1", "user:2"}
    assert tier.matching("players", "[!u]*") == {"bot:1"}


@pytest.mark.parametrize("garbage", [b"", b"V", b"V||||", b"\x00\xff" * 40, b"V1.x|1|-|row", b"L"])
def test_garbage_under_a_key_is_a_miss(tier: Tier, redis_url: str, garbage: bytes) -> None:
    put(tier)
    client = redis.Redis.from_url(redis_url)
    (name,) = [key for key in client.scan_iter() if b":v:" in key]
    client.set(name, garbage, px=60_000)
    assert tier.get(KEY) is None
    client.delete(name)
    client.rpush(name, "a list")
    assert tier.get(KEY) is None
    client.close()


def test_the_loss_of_all_data_is_a_miss_and_the_tier_goes_on(tier: Tier, redis_url: str) -> None:
    put(tier)
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    assert entry(tier) is None
    put(tier)
    assert entry(tier) == b"row"


def test_a_value_of_an_epoch_that_ended_is_never_believed(tier: Tier, redis_url: str) -> None:
    put(tier)
    with redis.Redis.from_url(redis_url) as client:
        (name,) = [key for key in client.scan_iter() if b":v:" in key]
        value = client.get(name)
        client.flushdb()
        client.set(name, value, px=60_000)
    assert entry(tier) is None
    assert entry(tier) is None


def test_two_processes_share_an_epoch(tier: Tier, redis_url: str) -> None:
    put(tier)
    other = make(redis_url)
    assert entry(other) == b"row"
    assert other.delete([KEY])
    assert entry(tier) is None
    other.close()


@pytest.mark.parametrize("binary", list(redis_binaries()), ids=lambda found: Path(found[1]).name)
def test_a_delete_that_was_not_confirmed_is_not_forgotten(binary: tuple[str, Path]) -> None:
    server = start_redis(binary=binary[1])
    tier = make(server.url)
    try:
        put(tier)
        assert entry(tier) == b"row"
        server.pause()
        began = time.monotonic()
        assert not tier.delete([KEY])
        assert time.monotonic() - began < 4.0
        server.resume()
        assert entry(tier) is None  # although Redis still has it
        put(tier, OTHER)
        assert entry(tier, OTHER) == b"row"
        assert entry(tier) is None
    finally:
        tier.close()
        server.stop()


def test_a_bump_that_was_not_confirmed_is_not_forgotten(server: PrivateRedis) -> None:
    tier = make(server.url)
    put(tier)
    server.pause()
    assert not tier.bump(["players"])
    server.resume()
    assert entry(tier) is None
    tier.close()


def test_a_dead_server_is_a_miss_in_bounded_time_and_then_costs_nothing(server: PrivateRedis) -> None:
    kinds: Counter[str] = Counter()
    tier = Tier(server.url, Breaker(2, 60.0, time.monotonic), 1.0, kinds)
    put(tier)
    server.kill()
    for _ in range(3):
        began = time.monotonic()
        assert tier.get(KEY) is None
        assert time.monotonic() - began < 3.0
    for _ in range(100):
        assert tier.get(KEY) is None
    assert sum(kinds.values()) == 2, "after that nobody asks it"
    assert not tier.ping()
    tier.close()


def test_a_stopped_server_costs_one_timeout(server: PrivateRedis) -> None:
    tier = make(server.url)
    put(tier)
    server.pause()
    began = time.monotonic()
    assert tier.get(KEY) is None
    assert time.monotonic() - began < 1.9, "one timeout of a second, not two"
    server.resume()
    assert entry(tier) == b"row"
    tier.close()


def test_a_connection_that_died_in_the_pool_is_replaced_within_the_call(server: PrivateRedis) -> None:
    tier = make(server.url)
    put(tier)
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert entry(tier) == b"row"
    tier.close()


def test_with_its_memory_full_redis_still_deletes(server: PrivateRedis) -> None:
    tier = make(server.url)
    put(tier)
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    assert tier.lease(OTHER) is None
    assert tier.delete([KEY])
    with server.client() as client:
        client.config_set("maxmemory", "0")
    assert entry(tier) is None
    tier.close()


def test_a_wrong_password_is_told_loudly_once_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(options={"requirepass": "right"})
    kinds: Counter[str] = Counter()
    tier = make(server.url.replace("redis://", "redis://:wrong-secret@"), kinds=kinds)
    try:
        assert tier.get(KEY) is None
        assert tier.get(KEY) is None
        assert kinds["auth"] == 2
        assert [r.levelname for r in caplog.records].count("ERROR") == 1
        assert "wrong-secret" not in caplog.text
    finally:
        tier.close()
        server.stop()


def test_a_cluster_holds_the_shards_and_its_fail_over_forgets_nothing() -> None:
    cluster = start_cluster(masters=3, replicas=0)
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster.masters)
    tier = make(url)
    try:
        keys = [Key("players", str(i)) for i in range(50)]
        for key in keys:
            put(tier, key, key.id.encode())
        assert {k.id: f.entry for k, f in tier.get_many(keys).items()} == {k.id: k.id.encode() for k in keys}
        assert tier.delete(keys[:10])
        assert len(tier.get_many(keys)) == 40
        assert tier.bump(["players"])
        assert tier.get_many(keys) == {}
        cluster.masters[0].kill()
        assert not tier.delete(keys)
        assert all(tier.get(key) is None for key in keys)
    finally:
        tier.close()
        cluster.stop()


def test_sentinel_names_the_master_and_the_next_one() -> None:
    group = start_sentinel()
    hosts = ",".join(f"{host}:{port}" for host, port in group.addresses)
    tier = make(f"redis+sentinel://{hosts}/{group.name}/0")
    try:
        put(tier)
        assert entry(tier) == b"row"
        group.master.kill()
        deadline = time.monotonic() + 30
        while not _serves(lambda: tier.lease(Key("players", "new"))):
            assert time.monotonic() < deadline, "no new master served"
        assert tier.delete([KEY])
    finally:
        tier.close()
        group.stop()


def _serves(ask: Callable[[], object]) -> bool:
    return ask() is not None


@pytest.mark.parametrize("url", ["http://x", "redis+sentinel://h:1", "redis+cluster://", "redis+cluster://host"])
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="redis"):
        make(url)

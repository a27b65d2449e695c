"""Providers on servers: what happens when the server goes and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from datalayer.contracts.provider import Provider
from datalayer.errors import ConfigError, EncodeError, L2UnavailableError, MissingDriverError, UnavailableError
from datalayer.tables import MemcachedProvider, RedisProvider
from datalayer.testing.ports import HOST
from datalayer.testing.servers import (
    MemcachedServer,
    PrivateMemcached,
    PrivateRedis,
    RedisServer,
    ServersMissing,
    start_cluster,
    start_memcached,
    start_redis,
    start_sentinel,
)

ROOT = Path(__file__).parents[2]
MANY = {f"key:{number}": b"x" * 20 for number in range(200)}


def host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


# -- servers that go away --------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "memcached"])
def own_server(request: pytest.FixtureRequest) -> Iterator[tuple[PrivateRedis | PrivateMemcached, Provider]]:
    request.getfixturevalue(f"{request.param}_server")  # skips where there is none
    server: PrivateRedis | PrivateMemcached
    provider: Provider
    try:
        server = start_redis() if request.param == "redis" else start_memcached()
    except ServersMissing as missing:
        pytest.skip(str(missing))
    provider = (
        RedisProvider(server.url, timeout=0.5)
        if request.param == "redis"
        else MemcachedProvider(server.url, timeout=0.5)
    )
    yield server, provider
    provider.close()
    server.stop()


def test_a_dead_server_is_an_error_and_a_new_one_is_used_at_once(
    own_server: tuple[PrivateRedis | PrivateMemcached, Provider],
) -> None:
    server, provider = own_server
    provider.set("k", b"x")
    server.kill()
    for call in (
        lambda: provider.get("k"),
        lambda: provider.set("k", b"y"),
        lambda: provider.delete("k"),
        lambda: provider.get_many(["k"]),
        lambda: provider.set_many({"k": b"y"}),
        lambda: list(provider.keys()),  # type: ignore[attr-defined]
    ):
        with pytest.raises(UnavailableError) as caught:
            call()
        assert caught.value.__cause__ is not None
    server.restart()
    provider.set("k", b"z")
    assert provider.get("k") == b"z"


def test_connections_that_died_in_the_pool_cost_no_error(
    own_server: tuple[PrivateRedis | PrivateMemcached, Provider],
) -> None:
    server, provider = own_server
    provider.set("k", b"x")
    server.restart()
    assert provider.get("k") is None
    server.restart()
    provider.set_many({"k": b"y"})
    server.restart()
    assert provider.delete_many(["k"]) == 0


def test_a_frozen_server_is_an_error_in_time(own_server: tuple[PrivateRedis | PrivateMemcached, Provider]) -> None:
    server, provider = own_server
    provider.set("k", b"x")
    server.pause()
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        provider.get("k")
    assert time.monotonic() - began < 1.5
    server.resume()
    assert provider.get("k") == b"x"


def test_no_error_and_no_repr_shows_a_password() -> None:
    provider = RedisProvider("redis://:hunter2@127.0.0.1:1/0", timeout=0.2)
    with pytest.raises(L2UnavailableError) as caught:
        provider.get("k")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(provider)


# -- Redis -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://h", "redis+sentinel://h:1", "redis+cluster://", "nothing", 5])
def test_a_url_that_is_none_is_refused(url: Any) -> None:
    with pytest.raises(ConfigError):
        RedisProvider(url)


def test_clear_leaves_what_others_have_in_the_database(redis_url: str) -> None:
    provider = RedisProvider(redis_url)
    provider.native.hset("other", "field", "x")
    provider.native.set("a*", "x")
    provider.set_many({f"a:{number}": b"x" for number in range(2000)})
    assert provider.clear("a:") == 2000
    assert provider.native.dbsize() == 2
    provider.close()


def test_a_cluster_that_is_away_says_so_when_the_provider_is_made() -> None:
    with pytest.raises(L2UnavailableError):
        RedisProvider(f"redis+cluster://{HOST}:1", timeout=0.2)


def test_a_fail_over_of_sentinel_is_followed() -> None:
    group = start_sentinel()
    addresses = ",".join(f"{host}:{port}" for host, port in group.addresses)
    provider = RedisProvider(f"redis+sentinel://{addresses}/{group.name}", timeout=0.5)
    provider.set("k", b"x")
    group.master.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            provider.set("k", b"y")
            break
        except L2UnavailableError:
            time.sleep(0.05)
    assert provider.get("k") == b"y"
    provider.close()
    group.stop()


def test_a_fail_over_in_a_cluster_is_followed(redis_server: RedisServer) -> None:
    cluster = start_cluster()
    provider = RedisProvider("redis+cluster://" + ",".join(url.split("/")[2] for url in cluster.urls), timeout=0.5)
    items = {f"k:{number}": b"x" for number in range(60)}  # on every master some of them
    provider.set_many(items)
    cluster.masters[0].kill()
    with pytest.raises(L2UnavailableError):
        provider.set_many(dict.fromkeys(items, b"lost"))
    deadline = time.monotonic() + 30
    while True:
        try:
            provider.set_many(dict.fromkeys(items, b"y"))
            break
        except L2UnavailableError:
            assert time.monotonic() < deadline, "the replica was not found"
            time.sleep(0.05)
    assert provider.get_many(items) == dict.fromkeys(items, b"y")
    assert sorted(provider.keys("k:")) == sorted(items)
    assert provider.clear("k:") == len(items)
    provider.close()
    cluster.stop()


# -- memcached -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_memcacheds(memcached_server: MemcachedServer) -> Iterator[tuple[MemcachedProvider, MemcachedProvider]]:
    """A provider of two servers, and one of the second of them alone."""
    other = start_memcached()
    both, alone = MemcachedProvider([memcached_server.url, other.url]), MemcachedProvider(other.url)
    yield both, alone
    both.close()
    alone.close()
    other.stop()


def test_values_are_spread_over_several_servers(
    two_memcacheds: tuple[MemcachedProvider, MemcachedProvider], key_prefix: str
) -> None:
    both, alone = two_memcacheds
    items = {f"{key_prefix}:{number}": b"%d" % number for number in range(300)}
    both.set_many(items)
    assert both.get_many(items) == items
    assert sorted(both.keys(f"{key_prefix}:")) == sorted(items)
    assert 50 < len(alone.get_many(items)) < 250
    assert both.native.get(f"{key_prefix}:1") == b"1"
    assert both.clear(f"{key_prefix}:") == 300
    assert alone.get_many(items) == {}


def test_keys_that_were_read_are_listed_and_cleared_with_the_others(
    two_memcacheds: tuple[MemcachedProvider, MemcachedProvider], key_prefix: str
) -> None:
    """What is read moves within a server's lists, which a list of its keys must not miss."""
    both, alone = two_memcacheds
    for turn in range(10):
        items = {f"{key_prefix}:{turn}:{number}": b"x" for number in range(300)}
        both.set_many(items)
        both.get_many(items)
        assert sorted(both.keys(f"{key_prefix}:")) == sorted(items)
        alone.get_many(items)
        assert both.clear(f"{key_prefix}:") == 300
        assert both.get_many(items) == {}


def test_a_key_or_value_that_memcached_cannot_take_is_refused(
    memcached_server: MemcachedServer, key_prefix: str
) -> None:
    provider = MemcachedProvider(memcached_server.url)
    with pytest.raises(EncodeError, match="250"):
        provider.set("k" * 251, b"x")
    with pytest.raises(EncodeError, match="item size"):
        provider.set(key_prefix, bytes(5 << 20))
    with pytest.raises(EncodeError, match="item size"):
        provider.set_many({key_prefix: bytes(5 << 20)})
    provider.set(key_prefix, b"x")
    assert provider.get(key_prefix) == b"x"
    provider.close()


@pytest.mark.parametrize("servers", ["", [], "host:port", ":11211", ","])
def test_servers_that_are_none_are_refused(servers: Any) -> None:
    with pytest.raises(ConfigError, match="servers"):
        MemcachedProvider(servers)


def test_the_missing_package_is_named_with_its_pip_line() -> None:
    code = (
        "import sys; sys.modules['pymemcache'] = None\n"
        "from datalayer.errors import MissingDriverError\n"
        "try: from datalayer.tables import MemcachedProvider\n"
        "except MissingDriverError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert "pip install 'datalayer[memcached]'" in done.stdout
    assert issubclass(MissingDriverError, ConfigError)


def test_tables_load_no_driver_before_it_is_asked_for() -> None:
    code = "import sys, datalayer.tables; print([m for m in ('redis', 'pymemcache') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

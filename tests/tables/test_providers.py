"""Every provider, and every wrapper of one, against the suite that anybody's own provider can be held to."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datalayer.contracts.provider import Provider
from datalayer.tables.bounded import Bounded
from datalayer.tables.compressed import Compressed
from datalayer.tables.encrypted import Encrypted
from datalayer.tables.memcached import MemcachedProvider
from datalayer.tables.memory import MemoryProvider
from datalayer.tables.redis import RedisProvider
from datalayer.tables.validated import Validated
from datalayer.testing.compliance.provider import ProviderCompliance
from datalayer.testing.servers import MemcachedServer, RedisCluster, RedisSentinel, start_cluster, start_sentinel

KEYS = {"k2": secrets.token_bytes(32), "k1": secrets.token_bytes(32)}


class TestMemory(ProviderCompliance):
    def make(self) -> Provider:
        return MemoryProvider()


class TestRedis(ProviderCompliance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> None:
        self.url = redis_url

    def make(self) -> Provider:
        return RedisProvider(self.url)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    started = start_cluster()
    yield started
    started.stop()


class TestRedisCluster(ProviderCompliance):
    shared = True

    @pytest.fixture(autouse=True)
    def _server(self, cluster: RedisCluster) -> None:
        self.url = "redis+cluster://" + ",".join(url.partition("://")[2].partition("/")[0] for url in cluster.urls)

    def make(self) -> Provider:
        return RedisProvider(self.url)


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisSentinel]:
    started = start_sentinel()
    yield started
    started.stop()


class TestRedisSentinel(ProviderCompliance):
    shared = True

    @pytest.fixture(autouse=True)
    def _server(self, sentinel: RedisSentinel) -> None:
        addresses = ",".join(f"{host}:{port}" for host, port in sentinel.addresses)
        self.url = f"redis+sentinel://{addresses}/{sentinel.name}/0"

    def make(self) -> Provider:
        return RedisProvider(self.url)


class TestMemcached(ProviderCompliance):
    shared = True
    ttl_resolution = 1.0

    @pytest.fixture(autouse=True)
    def _server(self, memcached_server: MemcachedServer) -> None:
        self.url = memcached_server.url

    def make(self) -> Provider:
        return MemcachedProvider(self.url)


class TestEncrypted(ProviderCompliance):
    def make(self) -> Provider:
        return Encrypted(MemoryProvider(), keys=KEYS)


class TestCompressed(ProviderCompliance):
    def make(self) -> Provider:
        return Compressed(MemoryProvider())


class TestValidated(ProviderCompliance):
    def make(self) -> Provider:
        return Validated(MemoryProvider(), max_value_bytes=1 << 20)


class TestBounded(ProviderCompliance):
    def make(self) -> Provider:
        return Bounded(MemoryProvider(), max_entries=10_000)

"""Every provider, and every wrapper of one, against the suite that anybody's own provider can be held to."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from kept import Kept

from datalayer.contracts.provider import Provider
from datalayer.observe.metrics import NullRecorder
from datalayer.tables import (
    Bounded,
    Compressed,
    Encrypted,
    Layer,
    Layers,
    Measured,
    MemcachedProvider,
    MemoryProvider,
    RedisProvider,
    StoreProvider,
    Validated,
)
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


class TestMeasured(ProviderCompliance):
    def make(self) -> Provider:
        return Measured(MemoryProvider(), NullRecorder(), name="m")


class TestLayersOfOne(ProviderCompliance):
    def make(self) -> Provider:
        return Layers(("only", MemoryProvider()))


class TestLayersOfMemory(ProviderCompliance):
    def make(self) -> Provider:
        return Layers(Layer(name="L1", provider=MemoryProvider(), ttl=60), ("L2", MemoryProvider()), ("low", Kept()))


class TestLayersOverRedis(ProviderCompliance):
    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> None:
        self.url = redis_url

    def make(self) -> Provider:
        return Layers(("L1", MemoryProvider()), ("L2", RedisProvider(self.url)))


class TestStore(ProviderCompliance):
    def make(self) -> Provider:
        return StoreProvider(Kept())

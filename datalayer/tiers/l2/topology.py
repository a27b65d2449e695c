"""Which server holds a shard: the only one, the master that Sentinel names, or the owner of the shard's slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from ...errors import ConfigError
from .links import Links

CLUSTER_SHARDS = 64


class Topology(Protocol):
    """Finds servers. Thread-safe."""

    shards: int
    publish: str
    database: int

    def links(self, tag: str) -> Links:
        """The connections to the server that holds a hash tag."""

    def refresh(self) -> None:
        """Somebody learned that the servers have changed."""

    def close(self) -> None: ...

    def forget(self) -> None:
        """After a fork."""


def topology_of(url: str, *, timeout: float, most: int) -> Topology:
    """The topology that a URL names; ConfigError for a scheme that is none."""
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
    }
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss", "unix"):
        pool = redis.ConnectionPool.from_url(url, **options)
        return _Single(pool.make_connection, most, timeout, int(pool.connection_kwargs.get("db") or 0))
    if scheme == "redis+sentinel":
        return _Sentinel(url, options, most)
    if scheme == "redis+cluster":
        return _Cluster(url, options, most)
    raise ConfigError(f"redis has the scheme {scheme!r}; expected redis, rediss, unix, redis+sentinel or redis+cluster")


class _Single:
    shards = 1
    publish = "PUBLISH"

    def __init__(self, make: Callable[[], Any], most: int, timeout: float, database: int) -> None:
        self.database = database
        self._links = Links(make, most, timeout)

    def links(self, tag: str) -> Links:
        return self._links

    def refresh(self) -> None:
        """There is only one server."""

    def close(self) -> None:
        self._links.close()

    def forget(self) -> None:
        self._links.forget()


class _ByAddress:
    """Connections by server address, made as servers become known."""

    def __init__(self, options: dict[str, Any], most: int) -> None:
        self._options = options
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], Links] = {}

    def _to(self, host: str, port: int) -> Links:
        with self._lock:
            links = self._known.get((host, port))
            if links is None:
                make = redis.ConnectionPool(host=host, port=port, **self._options).make_connection
                links = self._known[host, port] = Links(make, self._most, self._options["socket_timeout"])
            return links

    def close(self) -> None:
        for links in self._known.values():
            links.close()

    def forget(self) -> None:
        self._lock = threading.Lock()
        for links in self._known.values():
            links.forget()


class _Sentinel(_ByAddress):
    shards = 1
    publish = "PUBLISH"

    def __init__(self, url: str, options: dict[str, Any], most: int) -> None:
        addresses, credentials, path, query = parts_of(url)
        name, _, number = path.partition("/")
        if not name:
            raise ConfigError("redis+sentinel:// needs the master's name: redis+sentinel://host:26379/mymaster/0")
        number = number or query.get("db", "0")
        self.database = int(number)
        super().__init__({**options, **credentials, "db": self.database}, most)
        quick = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout")}
        self._sentinel = Sentinel(addresses, **quick)
        self._name = name
        self._master: tuple[str, int] | None = None

    def links(self, tag: str) -> Links:
        if self._master is None:
            host, port = self._sentinel.discover_master(self._name)
            self._master = (str(host), int(port))
        return self._to(*self._master)

    def refresh(self) -> None:
        self._master = None


class _Cluster(_ByAddress):
    shards = CLUSTER_SHARDS
    publish = "SPUBLISH"
    database = 0

    def __init__(self, url: str, options: dict[str, Any], most: int) -> None:
        addresses, credentials, _, _ = parts_of(url)
        super().__init__({**options, **credentials}, most)
        self._start = [ClusterNode(host, port) for host, port in addresses]
        self._client_options = {**credentials, "socket_timeout": 2.0, "socket_connect_timeout": 2.0}
        self._client: RedisCluster | None = None
        self._slots: dict[str, tuple[str, int]] = {}

    def links(self, tag: str) -> Links:
        address = self._slots.get(tag)
        if address is None:
            node = self._map().get_node_from_key(tag)
            if node is None:
                raise redis.ConnectionError("no node of the Redis Cluster owns this slot")
            address = self._slots[tag] = (str(node.host), int(node.port))
        return self._to(*address)

    def _map(self) -> RedisCluster:
        if self._client is None:
            self._client = RedisCluster(startup_nodes=self._start, **self._client_options)
        return self._client

    def refresh(self) -> None:
        self._slots = {}
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        super().close()
        if self._client is not None:
            self._client.close()

    def forget(self) -> None:
        super().forget()
        self._slots, self._client = {}, None


def parts_of(url: str) -> tuple[list[tuple[str, int]], dict[str, Any], str, dict[str, str]]:
    """Addresses, credentials, path and query of ``scheme://user:password@h1:p1,h2:p2/path?query``."""
    split = urlsplit(url)
    login, _, hosts = split.netloc.rpartition("@")
    user, _, password = login.partition(":")
    addresses = []
    for item in filter(None, hosts.split(",")):
        host, _, port = item.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"redis names the server {item!r}; expected host:port, several of them with commas")
        addresses.append((host, int(port)))
    if not addresses:
        raise ConfigError("redis names no server; expected scheme://host:port,host:port")
    credentials = {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}
    return addresses, credentials, split.path.strip("/"), {k: v[0] for k, v in parse_qs(split.query).items()}

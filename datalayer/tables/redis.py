"""``RedisProvider``: values in Redis or Valkey, alone, behind Sentinel, or in a Cluster, through redis-py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from ..config.urls import redis_url
from ..contracts.urls import redact_url
from ..errors import ConfigError, L2UnavailableError, UnavailableError
from ..tiers.l2.topology import parts_of
from .checks import check_key, check_ttl, check_value

_PAGE = 500
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "*?[]^-\\"})


class RedisProvider:
    """A :class:`~datalayer.contracts.provider.Provider`, also Scannable, Expiring, Adding and Native. Thread-safe.

    ``url`` is ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://host:port,host:port/master/0`` or
    ``redis+cluster://host:port,host:port``, or a redis-py client of yours, which ``close`` leaves open. ``timeout``
    in seconds bounds every wait; a command on a connection that had died in the pool is sent once more. What takes many
    keys costs one round trip, in a Cluster one for each server that has some of them, all at the same time. ``keys``
    and ``clear`` go through the whole database in pages of SCAN and never block the server.

    A server that does not answer, or refuses, raises :class:`~datalayer.errors.L2UnavailableError`.
    """

    def __init__(
        self, url: str | redis.Redis | RedisCluster, *, timeout: float = 1.0, max_connections: int = 100
    ) -> None:
        self._owned = isinstance(url, str)
        self._shown = redact_url(url) if isinstance(url, str) else type(url).__name__
        self._closed = False
        with self._telling():  # a Cluster is asked for its map at once
            self._client: Any = _client_of(url, timeout, max_connections) if isinstance(url, str) else _taken(url)

    @property
    def native(self) -> redis.Redis | RedisCluster:
        """redis-py's client, for all that a table cannot do; it answers with bytes."""
        client: redis.Redis | RedisCluster = self._client
        return client

    # -- one key ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        with self._answering() as client:
            found: bytes | None = client.get(check_key(key))
            return found

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        check_value(value, check_key(key))
        with self._answering() as client:
            client.set(key, value, px=_milliseconds(ttl))

    def delete(self, key: str) -> bool:
        with self._answering() as client:
            return bool(client.unlink(check_key(key)))

    def exists(self, key: str) -> bool:
        with self._answering() as client:
            return bool(client.exists(check_key(key)))

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        check_value(value, check_key(key))
        with self._answering() as client:
            return bool(client.set(key, value, px=_milliseconds(ttl), nx=True))

    def ttl(self, key: str) -> float | None:
        with self._answering() as client:
            return _life(client.pttl(check_key(key)))

    # -- many ------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = _distinct(keys)
        with self._answering() as client:
            replies = self._many(client, [("GET", key) for key in asked]) if self._clustered else _mget(client, asked)
        return {key: value for key, value in zip(asked, replies, strict=True) if value is not None}

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        commands = _sets(items, ttl)
        with self._answering() as client:
            self._many(client, commands)

    def add_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> int:
        with self._answering() as client:
            return sum(map(bool, self._many(client, [(*command, "NX") for command in _sets(items, ttl)])))

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        asked = _distinct(keys)
        with self._answering() as client:
            left = map(_life, self._many(client, [("PTTL", key) for key in asked]))
        return {key: seconds for key, seconds in zip(asked, left, strict=True) if seconds is not None}

    def delete_many(self, keys: Iterable[str]) -> int:
        asked = _distinct(keys)
        with self._answering() as client:
            return self._unlink(client, asked)

    def keys(self, prefix: str = "") -> Iterator[str]:
        seen: set[bytes] = set()  # SCAN may repeat a key while the server's table grows
        with self._answering() as client:
            for key in client.scan_iter(match=f"{prefix.translate(_SPECIAL)}*", count=_PAGE):
                if key not in seen:
                    seen.add(key)
                    yield key.decode(errors="surrogateescape")

    def clear(self, prefix: str = "") -> int:
        with self._answering() as client:
            scan = client.scan_iter(match=f"{prefix.translate(_SPECIAL)}*", count=_PAGE)
            pages = iter(lambda: list(islice(scan, _PAGE)), [])
            return sum(self._unlink(client, page) for page in pages)

    def close(self) -> None:
        """Close the connections, unless the client was given."""
        if not self._closed:
            self._closed = True
            if self._owned:
                self._client.close()

    def __repr__(self) -> str:
        return f"<RedisProvider: {self._shown}{', closed' if self._closed else ''}>"

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _clustered(self) -> bool:
        return isinstance(self._client, RedisCluster)

    @contextmanager
    def _answering(self) -> Iterator[Any]:
        if self._closed:
            raise UnavailableError("this RedisProvider is closed; make another one")
        with self._telling():
            yield self._client

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, RedisClusterException) as error:
            what = f"{self._shown} failed a table's command ({type(error).__name__})"
            raise L2UnavailableError(f"{what}; the cause has its words") from error

    def _many(self, client: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        if not commands:
            return []
        with client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute()
        return replies

    def _unlink(self, client: Any, keys: list[Any]) -> int:
        if self._clustered:
            return sum(self._many(client, [("UNLINK", key) for key in keys]))
        return int(client.unlink(*keys)) if keys else 0


def _distinct(keys: Iterable[str]) -> list[str]:
    return [check_key(key) for key in dict.fromkeys(keys)]


def _mget(client: Any, keys: list[str]) -> list[Any]:
    return list(client.mget(keys)) if keys else []


def _sets(items: Mapping[str, bytes], ttl: float | None) -> list[tuple[Any, ...]]:
    life = _milliseconds(ttl)
    tail = () if life is None else ("PX", life)
    return [("SET", check_key(key), check_value(value, key), *tail) for key, value in items.items()]


def _life(left: int) -> float | None:
    return {-2: None, -1: math.inf}.get(left, left / 1000)


def _milliseconds(ttl: float | None) -> int | None:
    checked = check_ttl(ttl)
    return None if checked is None else max(1, math.ceil(checked * 1000))


def _taken(client: Any) -> Any:
    if not isinstance(client, redis.Redis | RedisCluster):
        raise ConfigError(f"url is a {type(client).__name__}; expected a URL or a client of redis-py (not asyncio)")
    if client.get_encoder().decode_responses:
        raise ConfigError("the redis client decodes responses; expected one with decode_responses=False")
    return client


def _client_of(url: str, timeout: float, most: int) -> Any:
    redis_url(url, name="url")
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "max_connections": most}
    # A timeout is not repeated: the caller has waited long enough, and the server has enough to do.
    once: Any = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    scheme = urlsplit(url).scheme
    if scheme == "redis+cluster":
        addresses, credentials, _, _ = parts_of(url)
        nodes = [ClusterNode(host, port) for host, port in addresses]
        return RedisCluster(startup_nodes=nodes, **credentials, **options)
    if scheme == "redis+sentinel":
        return _master_of(url, {**options, "retry": once})
    return redis.Redis.from_url(url, retry=once, **options)


def _master_of(url: str, options: dict[str, Any]) -> Any:
    addresses, credentials, path, query = parts_of(url)
    name, _, number = path.partition("/")
    if not name:
        raise ConfigError("redis+sentinel:// needs the master's name: redis+sentinel://host:26379/mymaster/0")
    quick = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout")}
    sentinel: Any = Sentinel(addresses, **quick)
    return sentinel.master_for(name, db=int(number or query.get("db", "0")), **credentials, **options)

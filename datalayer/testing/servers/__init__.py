"""Real PostgreSQL and Redis servers for tests, found or started, and gone when the process is gone.

``find_postgres()`` and ``find_redis()`` follow the search order of :mod:`.find` and may hand out a server that others
use too. ``start_postgres()``, ``start_redis()``, ``start_cluster()`` and ``start_sentinel()`` always start private
servers, which a fault test may kill, pause and restart. Starting PostgreSQL takes about two seconds, the others less.
"""

from __future__ import annotations

from datalayer.testing.servers.cluster import RedisCluster, start_cluster
from datalayer.testing.servers.failure import ServerDead, ServerFailed, ServersMissing
from datalayer.testing.servers.find import find_postgres, find_redis, start_postgres, start_redis
from datalayer.testing.servers.memcached_server import (
    MemcachedServer,
    PrivateMemcached,
    find_memcached,
    start_memcached,
)
from datalayer.testing.servers.postgres import PostgresServer, PrivatePostgres
from datalayer.testing.servers.redis_server import PrivateRedis, RedisServer, redis_binaries
from datalayer.testing.servers.sentinel import RedisSentinel, start_sentinel

__all__ = [
    "MemcachedServer",
    "PostgresServer",
    "PrivateMemcached",
    "PrivatePostgres",
    "PrivateRedis",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "ServerDead",
    "ServerFailed",
    "ServersMissing",
    "find_memcached",
    "find_postgres",
    "find_redis",
    "redis_binaries",
    "start_cluster",
    "start_memcached",
    "start_postgres",
    "start_redis",
    "start_sentinel",
]

"""Where a test's server comes from: the environment, a container engine, or programs on this machine, in this order.

``DATALAYER_TEST_PG_URL`` and ``DATALAYER_TEST_REDIS_URL`` name servers that the tests may fill and empty as they like;
one that is set and does not answer is an error, never a reason to look elsewhere. ``DATALAYER_TEST_SERVICES`` (one of
``auto``, ``env``, ``docker``, ``local``) restricts the search to one source. Nobody's server on its default port is
ever used without being named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import psycopg
import redis

from datalayer.errors import ConfigError
from datalayer.testing.servers.containers import ContainerPostgres, ContainerRedis
from datalayer.testing.servers.failure import ServerDead, ServerFailed, ServersMissing
from datalayer.testing.servers.postgres import PostgresServer, PrivatePostgres, postgres_bindirs
from datalayer.testing.servers.redis_server import PrivateRedis, RedisServer, redis_binaries

_CHOICES = ("auto", "env", "docker", "local")
_T = TypeVar("_T")


def find_postgres(*, services: str | None = None) -> PostgresServer:
    """Return the first PostgreSQL that works; ``services`` overrides DATALAYER_TEST_SERVICES.

    Raises ServerDead when the environment's server does not answer, ServersMissing when there is none at all.
    """
    return _find("PostgreSQL", services, env=_postgres_of_env, docker=ContainerPostgres, local=start_postgres)


def find_redis(*, services: str | None = None) -> RedisServer:
    """Return the first Redis or Valkey that works; else as :func:`find_postgres`."""
    return _find("Redis", services, env=_redis_of_env, docker=ContainerRedis, local=start_redis)


def start_postgres(*, settings: Mapping[str, str] | None = None) -> PrivatePostgres:
    """Start a private PostgreSQL, whatever the environment says. Raises ServersMissing."""

    def start(source: str, bindir: Path) -> PrivatePostgres:
        return PrivatePostgres(bindir, source=f"{source} {bindir}", settings=settings)

    return _first_that_starts("PostgreSQL", postgres_bindirs(), "initdb", start)


def start_redis(*, options: Mapping[str, str] | None = None, binary: Path | None = None) -> PrivateRedis:
    """Start a private Redis or Valkey (``binary`` or the first that works). Raises ServersMissing."""

    def start(source: str, program: Path) -> PrivateRedis:
        return PrivateRedis(program, source=f"{source} {program}", options=options)

    return _first_that_starts("Redis", [("given", binary)] if binary else redis_binaries(), "", start)


def _find(
    kind: str,
    services: str | None,
    *,
    env: Callable[[], _T],
    docker: Callable[[], _T],
    local: Callable[[], _T],
) -> _T:
    wanted = services or os.environ.get("DATALAYER_TEST_SERVICES") or "auto"
    if wanted not in _CHOICES:
        raise ConfigError(f"DATALAYER_TEST_SERVICES is {wanted!r}; set it to one of {', '.join(_CHOICES)}")
    tried: list[str] = []
    for name, source in (("env", env), ("docker", docker), ("local", local)):
        if wanted not in ("auto", name):
            continue
        try:
            return source()
        except ServerFailed as failed:
            tried.append(f"{name}: {failed}")
        except ServersMissing as missing:
            tried.extend(f"{name}: {line}" for line in missing.tried)
    raise ServersMissing(kind, tried)


def _first_that_starts(
    kind: str, places: Iterable[tuple[str, Path]], needed: str, start: Callable[[str, Path], _T]
) -> _T:
    tried: list[str] = []
    for source, path in places:
        if not (path / needed if needed else path).exists():
            tried.append(f"{source}: {path / needed if needed else path} does not exist")
            continue
        try:
            return start(source, path)
        except (ServerFailed, OSError) as failed:
            tried.append(f"{source} {path}: {failed}")
    raise ServersMissing(kind, tried or ["no program found; pip install 'datalayer[test]' brings one"])


def _postgres_of_env() -> PostgresServer:
    server = PostgresServer(_named("DATALAYER_TEST_PG_URL"), "DATALAYER_TEST_PG_URL")
    try:
        server.version  # noqa: B018  asking is the test whether it answers
    except psycopg.Error as error:
        raise _dead("DATALAYER_TEST_PG_URL", "PostgreSQL") from error
    return server


def _redis_of_env() -> RedisServer:
    server = RedisServer(_named("DATALAYER_TEST_REDIS_URL"), "DATALAYER_TEST_REDIS_URL")
    try:
        server.version  # noqa: B018  asking is the test whether it answers
    except redis.RedisError as error:
        raise _dead("DATALAYER_TEST_REDIS_URL", "Redis") from error
    return server


def _dead(variable: str, kind: str) -> ServerDead:
    return ServerDead(f"{variable} is set, but no {kind} answers there; start it, or unset {variable}")


def _named(variable: str) -> str:
    url = os.environ.get(variable)
    if not url:
        raise ServerFailed(f"{variable} is not set")
    return url

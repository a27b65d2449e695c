"""A Redis and its replica, and the fail-over in which the replica has missed the last writes."""

from __future__ import annotations

from pathlib import Path

from datalayer.testing.ports import HOST
from datalayer.testing.servers.find import start_redis
from datalayer.testing.servers.redis_server import PrivateRedis, ask


class RedisPair:
    """Two private servers; ``master`` is the one that clients should talk to. Not thread-safe."""

    def __init__(self, *, binary: Path | None = None) -> None:
        self.servers: list[PrivateRedis] = []
        self._at = 0
        try:
            for _ in range(2):
                self.servers.append(start_redis(binary=binary))
            self.rejoin()
        except BaseException:
            self.stop()
            raise

    @property
    def master(self) -> PrivateRedis:
        return self.servers[self._at]

    @property
    def other(self) -> PrivateRedis:
        return self.servers[1 - self._at]

    def freeze_replica(self) -> None:
        """From now on the replica misses what the master is told, while it stays a master's replica no longer."""
        with self.other.client() as client:
            ask(client, "REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        """The replica becomes the master as it is; the old master goes on answering whoever still asks it."""
        self.freeze_replica()
        self._at = 1 - self._at

    def rejoin(self) -> None:
        """The server that is not the master becomes its replica: its data are replaced under open connections."""
        with self.other.client() as client:
            ask(client, "REPLICAOF", HOST, self.master.port)

    def stop(self) -> None:
        """End both and remove their data."""
        for server in self.servers:
            server.stop()

"""A Redis master with replicas and three sentinels, which elect a new master within a few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import redis

from datalayer.testing.ports import HOST
from datalayer.testing.servers.cluster import wait_until
from datalayer.testing.servers.find import start_redis
from datalayer.testing.servers.redis_server import PrivateRedis, ask

_CONFIGURATION = """\
port {port}
bind {host}
dir {folder}
sentinel monitor {name} {host} {master} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 5000
sentinel parallel-syncs {name} 1
"""


class SentinelNode(PrivateRedis):
    """One sentinel: the same program as a server, told by a file, which it rewrites, whom to watch."""

    def __init__(self, binary: Path, *, name: str, master: PrivateRedis) -> None:
        self._name = name
        self._master_port = master.port
        super().__init__(binary, source=f"sentinel of {name}")

    def _command(self) -> list[str]:
        file = self._folder.path / "sentinel.conf"
        if not file.exists():
            places = {"port": self.port, "host": HOST, "folder": self._folder.path}
            file.write_text(_CONFIGURATION.format(name=self._name, master=self._master_port, **places))
        elif not self._child:
            file.unlink()  # the first start failed on its port; the file names that one
            return self._command()
        return [str(self._binary), str(file), "--sentinel"]


class RedisSentinel:
    """``master``, ``replicas`` and ``sentinels`` as they were at the start; each can be killed, paused, restarted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.servers: list[PrivateRedis] = []
        self.sentinels: list[SentinelNode] = []

    @property
    def master(self) -> PrivateRedis:
        return self.servers[0]

    @property
    def replicas(self) -> list[PrivateRedis]:
        return self.servers[1:]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What ``redis.sentinel.Sentinel`` takes as its first argument."""
        return [(HOST, node.port) for node in self.sentinels]

    def stop(self) -> None:
        """End all servers and remove their data; the sentinels first, so that none of them starts a fail-over."""
        for node in [*self.sentinels, *self.servers]:
            node.stop()


def start_sentinel(
    name: str = "datalayer",
    *,
    replicas: int = 1,
    sentinels: int = 3,
    options: Mapping[str, str] | None = None,
    binary: Path | None = None,
) -> RedisSentinel:
    """Start them all and return when every sentinel sees the others and the replicas (about two seconds).

    The master counts as down after one second of silence; two sentinels must agree. ``options`` go to master and
    replicas. Raises ServersMissing or ServerFailed.
    """
    group = RedisSentinel(name)
    try:
        group.servers.append(start_redis(options=options, binary=binary))
        following = {**(options or {}), "replicaof": f"{HOST} {group.master.port}"}
        group.servers.extend(start_redis(options=following, binary=group.master.binary) for _ in range(replicas))
        wait_until("the replicas are in step", lambda: all(_in_step(node) for node in group.replicas))
        for _ in range(sentinels):
            group.sentinels.append(SentinelNode(group.master.binary, name=name, master=group.master))
        wait_until("the sentinels agree", lambda: all(_sees_all(node, group) for node in group.sentinels))
    except BaseException:
        group.stop()
        raise
    return group


def _in_step(node: PrivateRedis) -> bool:
    with node.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _sees_all(node: SentinelNode, group: RedisSentinel) -> bool:
    with node.client() as client:
        try:
            answer = ask(client, "SENTINEL", "MASTER", group.name)
        except redis.ResponseError:
            return False
    seen = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    others, replicas = int(seen["num-other-sentinels"]), int(seen["num-slaves"])
    return others == len(group.sentinels) - 1 and replicas == len(group.replicas)

"""A Redis Cluster of private servers, formed with plain commands, so that no redis-cli is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import redis

from datalayer.testing.ports import HOST, free_port
from datalayer.testing.servers.failure import ServerFailed
from datalayer.testing.servers.find import start_redis
from datalayer.testing.servers.redis_server import PrivateRedis, ask

_SLOTS = 16384


class RedisCluster:
    """``masters`` then their ``replicas`` in ``nodes``; each node can be killed, paused and restarted on its own."""

    def __init__(self, nodes: list[PrivateRedis], masters: int) -> None:
        self.nodes = nodes
        self.masters = nodes[:masters]
        self.replicas = nodes[masters:]

    @property
    def url(self) -> str:
        """URL of the first node; a cluster client finds the others from there."""
        return self.nodes[0].url

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def stop(self) -> None:
        """End all nodes and remove their data."""
        for node in self.nodes:
            node.stop()


def start_cluster(
    masters: int = 3, replicas: int = 1, *, options: Mapping[str, str] | None = None, binary: Path | None = None
) -> RedisCluster:
    """Start ``masters`` x (1 + ``replicas``) nodes and return when all slots are served (two to three seconds).

    A master that does not answer for two seconds is failed over. Raises ServersMissing or ServerFailed.
    """
    nodes: list[PrivateRedis] = []
    cluster = None
    try:
        nodes.extend(_start_node(options, binary) for _ in range(masters * (1 + replicas)))
        cluster = RedisCluster(nodes, masters)
        _form(cluster)
        return cluster
    except BaseException:
        for node in nodes:
            node.stop()
        raise


def _start_node(options: Mapping[str, str] | None, binary: Path | None) -> PrivateRedis:
    cluster = {
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": "2000",
        "cluster-announce-ip": HOST,
        "cluster-port": str(free_port()),
        "repl-ping-replica-period": "1",  # a replica that has received nothing yet is not named to clients
        "databases": "1",
    }
    return start_redis(options={**cluster, **(options or {})}, binary=binary)


def _form(cluster: RedisCluster) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in cluster.nodes]
        masters = clients[: len(cluster.masters)]
        _give_slots(masters)
        for node, client in zip(cluster.nodes[1:], clients[1:], strict=True):
            bus = client.config_get("cluster-port")["cluster-port"]
            ask(clients[0], "CLUSTER", "MEET", HOST, node.port, bus)
        wait_until("all nodes know each other", lambda: all(_known(client) == len(clients) for client in clients))
        for number, client in enumerate(clients[len(masters) :]):
            _replicate(client, str(ask(masters[number % len(masters)], "CLUSTER", "MYID")))
        wait_until("all slots are served", lambda: all(_info(c)["cluster_state"] == "ok" for c in clients))
        wait_until("every node names every replica", lambda: all(_names_all(c, cluster) for c in clients))
        wait_until("the replicas are in step", lambda: all(_in_step(c) for c in clients[len(masters) :]))


def _give_slots(masters: list[redis.Redis]) -> None:
    share = _SLOTS // len(masters)
    for number, client in enumerate(masters):
        last = _SLOTS - 1 if number == len(masters) - 1 else (number + 1) * share - 1
        ask(client, "CLUSTER", "ADDSLOTSRANGE", number * share, last)
        ask(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)


def _replicate(client: redis.Redis, master: str) -> None:
    def told() -> bool:
        try:
            ask(client, "CLUSTER", "REPLICATE", master)
        except redis.ResponseError:  # the gossip has not named that master to this node yet
            return False
        return True

    wait_until("a replica knows its master", told)


def _info(client: redis.Redis) -> dict[str, str]:
    answer = ask(client, "CLUSTER", "INFO")
    if isinstance(answer, dict):
        return answer
    return dict(line.split(":", 1) for line in str(answer).split("\r\n") if line)


def _names_all(client: redis.Redis, cluster: RedisCluster) -> bool:
    """Whether a client that starts at this node would learn of every node."""
    ranges = ask(client, "CLUSTER", "SLOTS")
    return sum(len(one[2:]) for one in ranges) == len(cluster.nodes)


def _known(client: redis.Redis) -> int:
    return int(_info(client)["cluster_known_nodes"])


def _in_step(client: redis.Redis) -> bool:
    return bool(client.info("replication").get("master_link_status") == "up")


def wait_until(what: str, true: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Return when ``true()`` holds; raise ServerFailed naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise ServerFailed(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.02)

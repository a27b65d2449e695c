"""What a Redis may lose: everything, some values, the headers of shards, its subscribers."""

from __future__ import annotations

import random
from collections.abc import Sequence

from datalayer.testing.servers.redis_server import PrivateRedis, ask


def restart_redis(server: PrivateRedis, *, keep_data: bool) -> None:
    """Kill -9 and start again on the same port; what it held survives only if told so."""
    if keep_data:
        with server.client() as client:
            ask(client, "SAVE")
    server.kill()
    if not keep_data:
        server.forget_data()
    server.restart()


def evict_values(server: PrivateRedis, prefix: str, rng: random.Random, *, most: int = 10) -> int:
    """Delete some values and tokens, as an eviction policy does; returns how many."""
    return _evict(server, f"{{{prefix}:*}}:[vr]:*", rng, most)


def evict_headers(server: PrivateRedis, prefix: str, rng: random.Random) -> int:
    """Delete a shard's header with its marks, as ``allkeys-*`` may do; returns how many."""
    return _evict(server, f"{{{prefix}:*}}:h", rng, 1)


def _evict(server: PrivateRedis, pattern: str, rng: random.Random, most: int) -> int:
    with server.client() as client:
        names: Sequence[str] = sorted(client.scan_iter(match=pattern, count=1000))
        picked = rng.sample(names, min(len(names), most))
        return int(str(client.delete(*picked))) if picked else 0


def cut_bus(server: PrivateRedis) -> int:
    """Close the connections of all subscribers; returns how many there were."""
    with server.client() as client:
        return int(ask(client, "CLIENT", "KILL", "TYPE", "pubsub"))

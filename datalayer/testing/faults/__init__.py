"""Faults to inject into a running system: into Redis, into PostgreSQL, into processes.

Connections are disturbed by :class:`datalayer.testing.proxy.TcpProxy`: latency, hold, blackhole, reset, half-open, and
the cut of exactly one reply. What must die or stand still is a private server (:mod:`datalayer.testing.servers`) or a
child process. Everything here is synchronous and names what it did; nothing is undone by itself.
"""

from __future__ import annotations

from datalayer.testing.faults.moving import Moving, move_clients
from datalayer.testing.faults.pair import RedisPair
from datalayer.testing.faults.postgres import cut_commit_reply, half_open, lock_rows, terminate_backends
from datalayer.testing.faults.processes import die_with_parent, freeze, kill_at
from datalayer.testing.faults.redis import cut_bus, evict_headers, evict_values, restart_redis

__all__ = [
    "Moving",
    "RedisPair",
    "cut_bus",
    "cut_commit_reply",
    "die_with_parent",
    "evict_headers",
    "evict_values",
    "freeze",
    "half_open",
    "kill_at",
    "lock_rows",
    "move_clients",
    "restart_redis",
    "terminate_backends",
]

"""Whether a Redis may hold the journal: looked at before the first write is acknowledged; afterwards it is too late."""

from __future__ import annotations

from ..contracts.journal import Server


def problems_of(server: Server) -> list[str]:
    """Why queued writes are not safe with a Redis server."""
    found = []
    if server.policy.startswith("allkeys"):
        found.append(
            f"its maxmemory-policy is {server.policy}, which evicts the journal without a word; "
            "set noeviction or a volatile policy"
        )
    if not server.append_only:
        found.append("it has no append-only file, so a restart loses what is queued; set appendonly yes")
    return found

"""Marks that their writers left behind: found, proved to be over by the database, and removed. Section 5.6.

Readers name the marks they meet; besides, one shard is looked through every ``every`` seconds, and what is found twice
is looked up. A mark whose writer has no transaction id (a statement on an AUTOCOMMIT connection) can be proved by
nobody: when one has stood for ``immortal`` seconds, its epoch is ended, which is always safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from ..contracts.fence import IMMORTAL, Backplane, State, parse_record
from .fence import Fence

log = logging.getLogger("datalayer.coherence")


class Sweeper:
    """Called by the keeper thread; :meth:`met` by any."""

    def __init__(
        self,
        fence: Fence,
        backplane: Backplane,
        ended: Callable[[Sequence[str]], Mapping[str, bool]],
        *,
        every: float = 60.0,
        immortal: float = 300.0,
    ) -> None:
        self._fence = fence
        self._backplane = backplane
        self._ended = ended
        self._every = every
        self._immortal = immortal
        self._lock = threading.Lock()
        self._met: dict[int, dict[str, bytes]] = {}
        self._seen: dict[int, dict[str, bytes]] = {}
        self._since: dict[str, tuple[bytes, float]] = {}
        self._next = 0.0
        self._shard = 0
        self.resolved = 0

    def met(self, shard: int, name: str, record: bytes) -> None:
        with self._lock:
            self._met.setdefault(shard, {})[name] = record

    def turn(self) -> None:
        with self._lock:
            met, self._met = self._met, {}
        for shard, records in met.items():
            self.resolve(shard, records)
        now = self._fence.clock()
        if now >= self._next:
            self._next = now + self._every / max(1, self._backplane.shards)
            self.sweep(self._shard)
            self._shard = (self._shard + 1) % self._backplane.shards

    def sweep(self, shard: int) -> None:
        """Look one shard through; records that were there last time as well are looked up."""
        found = self._fence.live(shard)
        if found is None or found.state == State.OFF:
            return
        marks = self._backplane.marks(shard)
        before = self._seen.get(shard, {})
        self._seen[shard] = marks
        self.resolve(shard, {name: record for name, record in marks.items() if before.get(name) == record})
        self._watch_immortals(shard, marks)

    def resolve(self, shard: int, records: Mapping[str, bytes]) -> None:
        """Remove those records of a shard whose writers have all ended, unless they have changed since."""
        parsed = {name: parse_record(record) for name, record in records.items()}
        xids = {xid for _, writers in parsed.values() for xid in writers}
        found = self._fence.live(shard)
        if not xids or found is None or found.state == State.OFF:
            return
        ended = self._ended(sorted(xids))
        for name, (change, writers) in parsed.items():
            if all(ended.get(xid) for xid in writers):
                self.resolved += 1
                self._backplane.resolve(shard, found, name, change)

    def _watch_immortals(self, shard: int, marks: Mapping[str, bytes]) -> None:
        now, tail = self._fence.clock(), f":{IMMORTAL}".encode()
        standing = {f"{shard} {name}": record for name, record in marks.items() if tail in record}
        self._since = {n: s for n, s in self._since.items() if not n.startswith(f"{shard} ") or n in standing}
        for name, record in standing.items():
            known, since = self._since.setdefault(name, (record, now))
            if known != record:
                self._since[name] = record, now
            elif now - since > self._immortal:
                found = self._fence.live(shard)
                if found is not None:
                    log.warning("shard %d: a mark that nobody can resolve ends its epoch", shard)
                    self._fence.revoke(shard, found.epoch)
                return

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._met = {}

"""What this process has acknowledged and the database does not have yet.

Without Redis this is what readers see before the database. With Redis it is asked only when Redis cannot vouch for its
own overlays, and it is what a journal that was lost is restored from.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..contracts.coherence import Absent
from ..contracts.journal import Entry, unpack_seq


@dataclass(frozen=True, slots=True)
class Held:
    """One acknowledged write. ``epoch`` is the id of the epoch that its overlay belongs to, empty without Redis;
    ``row`` is what it leaves, None for additions."""

    entry: Entry
    address: str
    shard: int
    epoch: bytes
    row: tuple[Any, ...] | Absent | None


class Own:
    """Thread-safe; :meth:`newest` takes no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, Held] = {}
        self._all: dict[int, Held] = {}
        self._order: dict[int, list[int]] = {}
        self._sending = 0
        self._early: set[int] = set()
        self._upto: dict[int, int] = {}

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the sending of writes and :meth:`add`: a flusher may be done with one before it is added."""
        with self._lock:
            self._sending += 1
        try:
            yield
        finally:
            with self._lock:
                self._sending -= 1
                if not self._sending:
                    self._early.clear()

    def newest(self, address: str) -> Held | None:
        return self._newest.get(address)

    def add(self, held: Held) -> None:
        with self._lock:
            seq = held.entry.seq
            upto = self._upto.get(held.shard, 0)
            if seq in self._early or (seq <= upto and unpack_seq(seq)[0] == unpack_seq(upto)[0]):
                return
            self._all[seq] = held
            heapq.heappush(self._order.setdefault(held.shard, []), seq)
            known = self._newest.get(held.address)
            if known is None or known.entry.seq < seq:
                self._newest[held.address] = held

    def done(self, shard: int, least: int, upto: int) -> None:
        """Somebody else has applied the writes of a shard from one number to another."""
        with self._lock:
            self._upto[shard] = upto
            order = self._order.get(shard, [])
            while order and (least <= order[0] <= upto or order[0] not in self._all):
                self._forget(heapq.heappop(order))

    def drop(self, seqs: Iterable[int]) -> None:
        with self._lock:
            for seq in seqs:
                if self._sending and seq not in self._all:
                    self._early.add(seq)
                self._forget(seq)

    def overtaken(self, address: str, seq: int) -> None:
        """A newer write of a row has gone to the database directly: what is older is shown no longer."""
        with self._lock:
            known = self._newest.get(address)
            if known is not None and known.entry.seq < seq:
                del self._newest[address]

    def _forget(self, seq: int) -> None:
        held = self._all.pop(seq, None)
        if held is not None and self._newest.get(held.address) is held:
            del self._newest[held.address]

    def held(self, shard: int) -> list[Held]:
        """Everything of a shard, in order."""
        with self._lock:
            return [self._all[seq] for seq in sorted(self._order.get(shard, [])) if seq in self._all]

    def shards(self) -> list[int]:
        with self._lock:
            return [shard for shard, order in self._order.items() if order]

    def __len__(self) -> int:
        return len(self._all)

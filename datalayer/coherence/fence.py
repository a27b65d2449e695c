"""Leases on the epochs of the shared tier: sections 4 and 5 of the Epoch-Fenced Marks protocol.

A process polls the fence table and may use a shard's epoch for ``lease`` seconds from the moment it *sent* the poll.
Losing Redis data, a fail-over, or not reaching Redis ends the epoch (*revoke*); the next one begins only after every
lease on the old one is over, in two steps: first writers mark under it, then, in a later transaction whose id is
*theta*, readers may use it. Nothing is filled until every transaction older than theta has ended.

One keeper thread polls, opens shards that are off, looks into doubts and sweeps marks. It starts with the first use and
survives every exception; without it the leases run out and the database answers everything.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ..contracts.clock import boottime
from ..contracts.fence import NOWHERE, Backplane, Refusal, Stand, State, stand
from ..contracts.pauses import point
from .ledger import Line

log = logging.getLogger("datalayer.coherence")

_WAIT = 1.05
_DOUBT = 0.5
_MOST_BACKOFF = 30.0
_STORM = 3
_STORM_SECONDS = 300.0


class Table(Protocol):
    """What the fence needs of :class:`~datalayer.coherence.ledger.Ledger`."""

    def read(self, shards: int) -> list[Line]: ...

    def end(self, shard: int, epoch: str) -> bool: ...

    def adopt(self, shard: int, epoch: str) -> bool: ...

    def begin(self, shard: int, old: str, new: str, lineage: str) -> bool: ...

    def open(self, shard: int, epoch: str) -> bool: ...


class _Off(NamedTuple):
    """An epoch that was seen to be off, and when the poll that showed it first came back."""

    epoch: bytes
    since: float


class Fence:
    """The stands of one process. Thread-safe: ``stands`` is replaced line by line under ``_lock`` and read without.

    ``lease`` in seconds. ``changed`` is called with a shard after its epoch or state changed, outside of the lock.
    ``label`` begins the nonces of the epochs that this process opens: the same for all that share a cache.
    """

    def __init__(
        self,
        table: Table,
        backplane: Backplane,
        *,
        lease: float = 2.0,
        clock: Callable[[], float] = boottime,
        changed: Callable[[int], object] = bool,
        label: str = "",
    ) -> None:
        self.stands: list[Stand] = [NOWHERE] * backplane.shards
        self.clock = clock
        self.lease = lease
        self.changed = changed
        self.revocations = 0
        self.openings = 0
        self.strangers = False
        self._label = label
        self._table = table
        self._backplane = backplane
        self._lock = threading.Lock()
        self._polling = threading.Lock()
        self._off: dict[int, _Off] = {}
        self._doubts: dict[int, tuple[bytes, float]] = {}
        self._backoff: dict[int, tuple[int, float]] = {}
        self._own_revocations: list[float] = []

    # -- asked by readers and writers ------------------------------------------------------------------------------

    def live(self, shard: int) -> Stand | None:
        """The stand of a shard while its lease lasts, whatever its state."""
        found = self.stands[shard]
        return found if found.until > self.clock() else None

    def waited(self, shard: int, epoch: bytes) -> bool:
        """Whether every lease that anybody had on the epoch before this one is over by now."""
        if epoch == _FIRST:
            return True  # the first epoch of all: there was none before it
        off = self._off.get(shard)
        return off is not None and off.epoch == epoch and self.clock() - off.since > _WAIT * self.lease

    def doubt(self, shard: int, stand: Stand) -> None:
        """A reader found another epoch or lineage: to be looked into by the keeper."""
        with self._lock:
            known = self._doubts.get(shard)
            if known is None or known[0] != stand.epoch:
                self._doubts[shard] = stand.epoch, self.clock()

    # -- polling ---------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Renew every lease from the table. Database errors come through; leases then run out by themselves."""
        with self._polling:
            sent = self.clock()
            point("poll.after_send")
            lines = self._table.read(self._backplane.shards)
            point("poll.after_query")
            for line in lines:
                self._take(line, sent)

    def _take(self, line: Line, sent: float) -> None:
        epoch, state = line.epoch.encode(), State(line.state)
        if not line.same:
            state = State.OFF
            self._table.adopt(line.shard, line.epoch)
        new = stand(sent + self.lease, epoch, state, (line.lineage or "-").encode(), settled=line.settled)
        with self._lock:
            old = self.stands[line.shard]
            self.stands[line.shard] = new
            if state == State.OFF and (line.shard not in self._off or self._off[line.shard].epoch != epoch):
                self._off[line.shard] = _Off(epoch, self.clock())
        nonce = line.epoch.partition(".")[2]
        if nonce and not nonce.startswith(self._label) and not self.strangers:
            self.strangers = True
            log.error(
                "shard %d: epoch %s was begun by a process with another key_prefix; those of one database must use the "
                "same Redis and key_prefix, or they end each other's epochs",
                *(line.shard, line.epoch),
            )
        if (old.epoch, old.state) != (new.epoch, new.state):
            log.info("shard %d: epoch %s is %s", line.shard, line.epoch, state.name.lower())
            self.changed(line.shard)

    # -- ending and beginning epochs -------------------------------------------------------------------------------

    def revoke(self, shard: int, epoch: bytes) -> None:
        """End an epoch for everybody, and know it here."""
        if self._table.end(shard, epoch.decode()):
            self.revocations += 1
            self._own_revocations.append(self.clock())
            log.warning("shard %d: epoch %s is revoked", shard, epoch.decode())
            self._back_off(shard)
        point("revoke.after")
        self.poll()

    def storming(self) -> bool:
        """Whether this process has revoked so often lately that the fault may be its own."""
        recent = self.clock() - _STORM_SECONDS
        self._own_revocations = [moment for moment in self._own_revocations if moment > recent]
        return len(self._own_revocations) > _STORM

    def _back_off(self, shard: int) -> None:
        times, until = self._backoff.get(shard, (0, 0.0))
        times = times + 1 if self.clock() - until < 60.0 else 1
        pause = min(2.0 ** (times - 2), _MOST_BACKOFF) if times > 1 else 0.0
        self._backoff[shard] = times, self.clock() + pause * (0.75 + 0.5 * random.random())

    def open(self, shard: int) -> bool:
        """Begin the next epoch of a shard that is off, or finish what somebody else began. True when it is on."""
        found = self.live(shard)
        if found is None or found.state == State.ON:
            return found is not None
        epoch = found.epoch
        if found.state == State.OFF:
            begun = self._begin(shard, epoch)
            if begun is None:
                return False
            epoch = begun
        point("open.before_B")
        opened = self._table.open(shard, epoch.decode())
        self.openings += opened
        self.poll()
        return opened

    def _begin(self, shard: int, old: bytes) -> bytes | None:
        if not self.waited(shard, old) or self._backoff.get(shard, (0, 0.0))[1] > self.clock():
            return None
        lineage = self._backplane.lineage(shard)
        epoch = self._init(shard, lineage, int(old.split(b".")[0]) + 1) if lineage is not None else None
        if lineage is None or epoch is None:
            return None
        point("open.after_init")
        if not self._table.begin(shard, old.decode(), epoch.decode(), lineage.decode()):
            self.poll()
            return None
        point("open.after_A")
        return epoch

    def _init(self, shard: int, lineage: bytes, number: int) -> bytes | None:
        """A fresh epoch in the shard's header; its number is larger than any that the header ever had."""
        for _ in range(2):
            # Fresh, because a late INIT of a loser must not revive its epoch.
            mine = f"{number}.{self._label}{secrets.token_hex(4)}".encode()
            force = self._backplane.init(shard, lineage, mine)
            if isinstance(force, Refusal):
                return None
            if force == mine:
                return mine
            number = int(force.split(b".")[0]) + 1
        return None

    # -- the keeper's turn -----------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Renew the leases, look into doubts, open what is off."""
        self.poll()
        for shard in self._doubted():
            self._verify(shard)
        for shard, found in enumerate(self.stands):
            if found.state != State.ON and self.live(shard) is not None:
                self.open(shard)

    def _doubted(self) -> Iterable[int]:
        with self._lock:
            for shard, (epoch, _) in list(self._doubts.items()):
                if self.stands[shard].epoch != epoch:
                    del self._doubts[shard]
            now = self.clock()
            return [s for s, (_, since) in self._doubts.items() if now - since >= min(_DOUBT, self.lease / 4)]

    def _verify(self, shard: int) -> None:
        """Ask Redis itself: only what it says, never what it fails to say, ends an epoch for everybody."""
        found = self.live(shard)
        with self._lock:
            self._doubts.pop(shard, None)
        if found is None or found.state == State.OFF:
            return
        answer = self._backplane.beat({shard: found}, "-", "-")[shard]
        if isinstance(answer, Refusal) and answer.reason != "LOST":
            self.revoke(shard, found.epoch)

    def reset_after_fork(self) -> None:
        self._lock, self._polling = threading.Lock(), threading.Lock()
        self.stands[:] = [NOWHERE] * len(self.stands)
        self._off, self._doubts, self._backoff = {}, {}, {}


_FIRST = b"1."

"""The Epoch-Fenced Marks protocol of one process: fence, marks, bus and sweeper, and the threads that run them.

This is the authority that the shared tier asks and the remote half of every commit, for a layer on PostgreSQL with
Redis. Its threads start with the first use: the *keeper* renews the fence leases, opens epochs and sweeps marks; the
*pulse* sends heartbeats; the listener hears the bus. Each holds its owner weakly, survives every exception, and without
it only leases run out: the database then answers.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..contracts.causal import Token
from ..contracts.clock import boottime
from ..contracts.coherence import Image, Outcome
from ..contracts.fence import Backplane, Stand, State
from ..contracts.pauses import point
from .bus import Audience, Bus, Listener
from .fence import Fence
from .ledger import Ledger
from .marks import Announced, Marker, transaction_id
from .sweeper import Sweeper
from .touched import Touched

log = logging.getLogger("datalayer.coherence")

_LOOK_AGAIN = 0.02


class Strict:
    """See :class:`~datalayer.contracts.fence.Authority` and :class:`~datalayer.coherence.local.Remote`. Thread-safe."""

    strict = True

    def __init__(
        self,
        ledger: Ledger,
        backplane: Backplane,
        listener: Listener,
        audience: Audience,
        *,
        fence_lease: float,
        bus_lease: float,
        policy: str,
        clock: Callable[[], float] = boottime,
        settle: Callable[[], object] = bool,
        label: str = "",
    ) -> None:
        self.clock = clock
        self.fence = Fence(ledger, backplane, lease=fence_lease, clock=clock, changed=self._changed, label=label)
        self.bus = Bus(self, backplane, audience, lease=bus_lease)
        self.marker = Marker(self.fence, backplane, policy=policy)
        self.sweeper = Sweeper(self.fence, backplane, ledger.ended)
        self.settle = settle
        self.stands = self.fence.stands
        self.horizon = self.bus.horizon
        self.sleep: Callable[[float], object] = time.sleep
        self._ledger = ledger
        self._listener = listener
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._started = False
        self._complained = False
        self._asked = 0.0

    # -- authority -------------------------------------------------------------------------------------------------

    def current(self, shard: int) -> Stand | None:
        if not self._started:
            self.start()
        found = self.stands[shard]
        if found.state != State.ON or found.until <= self.clock():
            return None
        return found if found.settled else self._settled(shard)

    def _settled(self, shard: int) -> Stand:
        """Look again, not too often, whether the transactions from before the epoch have ended."""
        now = self.clock()
        if now - self._asked > _LOOK_AGAIN:
            self._asked = now
            try:
                self.fence.poll()
            except Exception as error:
                log.debug("the fence cannot be polled (%s)", type(error).__name__)
        return self.stands[shard]

    def doubt(self, shard: int, stand: Stand) -> None:
        self.fence.doubt(shard, stand)
        self._wake.set()

    def met(self, shard: int, name: str, record: bytes) -> None:
        self.sweeper.met(shard, name, record)
        self._wake.set()

    def server_offset(self, shard: int) -> float:
        return self.bus.offsets[shard]

    # -- the remote half of commits --------------------------------------------------------------------------------

    def announce(self, names: Touched, connection: Any, *, patient: bool, image: Image | None) -> Announced | None:
        if not names:
            return None
        self.start()
        point("write.after_flush")
        xid = image.xid if image is not None and image.xid is not None else transaction_id(connection)
        announced = self.marker.announce(names, xid, image)
        self.bus.own(announced.token)
        point("write.after_mark")
        if patient:  # by then nobody serves from memory what the marks name
            self.sleep(self.bus.lease)
        return announced

    def lift(self, announced: Announced | None, outcome: Outcome) -> None:
        if announced is not None:
            self.marker.lift(announced, outcome)

    def drop(self, names: Touched) -> None:
        if names:
            self.start()
            self.marker.drop(names)

    def ended(self, announced: Announced | None) -> bool:
        return announced is None or self._ledger.ended([announced.xid])[announced.xid]

    def token(self, announced: Announced | None) -> Token:
        return announced.token if announced is not None else ()

    def caught_up(self, token: Token) -> bool:
        """Whether this process has heard of these writes of another one."""
        return all(0 <= part.shard < len(self.stands) and self.bus.caught_up(*part) for part in token)

    # -- threads ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the first leases and start the threads; later calls cost nothing. Waits a moment for the bus."""
        if self._started:
            return
        with self._lock:
            if self._started or self._stop.is_set():
                return
            self._keep()
            self._listener.start(self.bus.hear, self.bus.silent)
            stop, me = self._stop, weakref.ref(self)
            for name, turn, pause in (
                ("keeper", Strict._keep, self.fence.lease / 4),
                ("pulse", Strict._beat, self.bus.lease / 4),
            ):
                wake = self._wake if name == "keeper" else stop
                thread = threading.Thread(
                    target=_run, args=(me, turn, pause, stop, wake), name=f"datalayer-{name}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            self._started = True
        if any(stand.state == State.ON for stand in self.stands):
            self.bus.ready.wait(self.bus.lease / 4)

    def _keep(self) -> None:
        try:
            self.fence.turn()
            self.sweeper.turn()
            self.settle()
            self.bus.reckon()
        except Exception as error:
            if not self._complained:
                log.warning("the fence cannot be kept (%s); the caches are passed by", type(error).__name__)
            self._complained = True
        else:
            self._complained = False

    def _beat(self) -> None:
        self.bus.beat()

    def _changed(self, shard: int) -> None:
        """An epoch began or ended: what L1 holds is of another one."""
        self.bus.reckon()

    def close(self) -> None:
        """Stop the threads. The leases run out by themselves."""
        self._stop.set()
        self._wake.set()
        self._listener.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5.0)
        self._ledger.close()

    def reset_after_fork(self) -> None:
        """The parent's threads and leases stay the parent's; the child's start with its first use."""
        self._lock = threading.Lock()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._threads, self._started = [], False
        self.fence.reset_after_fork()
        self.bus.reset_after_fork()
        self.marker.reset_after_fork()
        self.sweeper.reset_after_fork()
        self._listener.reset_after_fork()
        self._ledger.reset_after_fork()


def _run(
    owner: weakref.ref[Strict],
    turn: Callable[[Strict], None],
    pause: float,
    stop: threading.Event,
    wake: threading.Event,
) -> None:
    while not stop.is_set():
        strict = owner()
        if strict is None:
            return
        try:
            turn(strict)
        except Exception:
            log.exception("a turn of %s failed", threading.current_thread().name)
        del strict
        wake.wait(pause)
        if wake is not stop:
            wake.clear()

"""Trust in what other processes announce: sequence numbers, heartbeats, and until when L1 may be served.

Section 6.3 of the protocol. The channel may lose, repeat and reorder messages: an ``inv`` only drops what it names. A
process believes that it has heard everything up to a moment only when its *own* heartbeat comes back through the
channel with a sequence number that it has already seen; then L1 may be served for ``lease`` seconds from the moment the
heartbeat was *sent*. Anything else is a gap, and a gap empties L1.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from ..contracts.causal import Position, Token
from ..contracts.fence import Authority, Backplane, Message, Refusal, Stand, State
from ..contracts.pauses import point

log = logging.getLogger("datalayer.coherence")

_REMEMBERED = 64
_OWN = 1024


class Audience(Protocol):
    """Whom the bus tells what it hears."""

    def heard(self, names: Sequence[str]) -> None:
        """These keys and tags (``t:<tag>``) are being changed by another process."""

    def lost(self) -> None:
        """Anything may have changed."""


class _Ear:
    """What was heard of one shard: the epoch, the last message without a gap, and until when that is everything."""

    __slots__ = ("epoch", "last", "until")

    def __init__(self) -> None:
        self.epoch = b""
        self.last = -1
        self.until = 0.0


class Bus:
    """The ears of one process. Thread-safe; ``horizon`` is read without a lock. ``vouched`` is the latest that it was.

    ``lease`` is the longest that L1 may lag behind a commit, in seconds.
    """

    def __init__(self, authority: Authority, backplane: Backplane, audience: Audience, *, lease: float) -> None:
        self.horizon = [0.0]
        self.vouched = [0.0]
        self.lease = lease
        self.gaps = 0
        self.messages = 0
        self.offsets = [0.0] * backplane.shards
        self.ready = threading.Event()
        self._authority = authority
        self._backplane = backplane
        self._audience = audience
        self._lock = threading.Lock()
        self._ears = [_Ear() for _ in range(backplane.shards)]
        self._sent: OrderedDict[str, float] = OrderedDict()
        self._own: OrderedDict[Position, None] = OrderedDict()
        self._me = secrets.token_hex(6)

    # -- speaking --------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Send a heartbeat to every shard whose epoch is on, and learn the time of its server."""
        clock = self._authority.clock
        stands = {g: s for g, s in enumerate(self._authority.stands) if s.state == State.ON and s.until > clock()}
        if not stands:
            return
        nonce = secrets.token_hex(4)
        with self._lock:
            self._sent[nonce] = sent = clock()
            while len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)
        point("hb.send")
        for shard, answer in self._backplane.beat(stands, self._me, nonce).items():
            if not isinstance(answer, Refusal):
                self.offsets[shard] = answer / 1000 - sent
            elif answer.reason != "LOST":
                self._authority.doubt(shard, stands[shard])

    # -- hearing ---------------------------------------------------------------------------------------------------

    def hear(self, message: Message) -> None:
        point("bus.recv")
        self.messages += 1
        if message.kind == "inv":
            self._invalidated(message)
        elif message.kind == "hb" and message.rest[0] == self._me:
            self._own_beat(message, message.rest[1])

    def own(self, token: Token) -> None:
        """These messages are this process's, which has dropped what they name before it had them sent."""
        with self._lock:
            self._own.update(dict.fromkeys(token))
            while len(self._own) > _OWN:
                self._own.popitem(last=False)

    def _invalidated(self, message: Message) -> None:
        # Drop first: a number that is counted before its names are dropped would let a heartbeat vouch for them.
        position = Position(message.shard, message.epoch, message.sequence)
        with self._lock:
            own = position in self._own
        if not own:
            self._audience.heard(message.rest)
        with self._lock:
            ear = self._ears[message.shard]
            if message.epoch == ear.epoch and message.sequence == ear.last + 1:
                ear.last = message.sequence

    def _own_beat(self, message: Message, nonce: str) -> None:
        with self._lock:
            sent = self._sent.get(nonce)
            ear = self._ears[message.shard]
            gap = sent is not None and (message.epoch != ear.epoch or ear.last < message.sequence)
        if sent is None:
            return
        if gap:
            self.gaps += 1
            self._audience.lost()
        with self._lock:
            if gap:
                ear.epoch, ear.last = message.epoch, message.sequence
            ear.until = max(ear.until, sent + self.lease)
        self.reckon()

    # -- until when ------------------------------------------------------------------------------------------------

    def reckon(self) -> None:
        """Work the horizon out again: the end of the first lease of any shard, on its epoch or on its channel."""
        with self._lock:
            self.horizon[0] = min(map(self._until, self._ears, self._authority.stands))
            self.vouched[0] = max(self.vouched[0], self.horizon[0])
            if self.horizon[0] > self._authority.clock():
                self.ready.set()

    def _until(self, ear: _Ear, stand: Stand) -> float:
        if stand.state != State.ON or ear.epoch != stand.epoch:
            return 0.0
        return min(ear.until, stand.until)

    def caught_up(self, shard: int, epoch: bytes, sequence: int) -> bool:
        """Whether everything up to a message has been heard: what a causal token asks."""
        with self._lock:
            ear = self._ears[shard]
            return ear.epoch == epoch and ear.last >= sequence

    def silent(self) -> bool:
        """Whether no heartbeat has come back for so long that the subscription must be broken."""
        now = self._authority.clock()
        on = [e for e, s in zip(self._ears, self._authority.stands, strict=True) if s.state == State.ON]
        return any(now - ear.until > self.lease for ear in on)

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._ears = [_Ear() for _ in self._ears]
        self._own.clear()
        self._me = secrets.token_hex(6)
        self.horizon[0] = 0.0
        self.ready = threading.Event()


class Listener(Protocol):
    """Hears the channels of all shards and calls back; see :class:`datalayer.tiers.l2.subscriber.Subscriber`."""

    def start(self, hear: Callable[[Message], object], silent: Callable[[], bool]) -> None: ...

    def stop(self) -> None: ...

    def reset_after_fork(self) -> None: ...

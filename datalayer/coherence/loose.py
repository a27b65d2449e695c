"""The authority of a layer whose database cannot tell which transactions have ended: anything but PostgreSQL.

One process is kept strict by its own marks and tickets. For the shared tier it believes the epoch that it finds in
Redis, and an invalidation that was not confirmed ends that epoch for this process, so that nothing it may have failed
to delete is ever read again. Between processes this is ``bounded`` only: by the time to live of the values.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from math import inf
from typing import Any

from ..contracts.causal import UNHEARD, Token
from ..contracts.clock import boottime
from ..contracts.coherence import Outcome
from ..contracts.fence import NOWHERE, Backplane, Names, Refusal, Stand, State, stand
from .touched import Touched, distribute

log = logging.getLogger("datalayer.coherence")


class Loose:
    """An :class:`~datalayer.contracts.fence.Authority` and the remote half of every commit. Thread-safe."""

    strict = False

    def __init__(self, backplane: Backplane, clock: Callable[[], float] = boottime) -> None:
        self._backplane = backplane
        self._lock = threading.Lock()
        self._renew = [False] * backplane.shards
        self._offsets = [0.0] * backplane.shards
        self.stands: list[Stand] = [NOWHERE] * backplane.shards
        self.horizon = [inf]
        self.clock = clock

    # -- authority -------------------------------------------------------------------------------------------------

    def current(self, shard: int) -> Stand | None:
        found = self.stands[shard]
        return found if found is not NOWHERE else self._open(shard)

    def doubt(self, shard: int, stand: Stand) -> None:
        with self._lock:
            if self.stands[shard] is stand:
                self.stands[shard] = NOWHERE
                log.warning("shard %d no longer has epoch %s", shard, stand.epoch.decode())

    def met(self, shard: int, name: str, record: bytes) -> None:
        """Nobody marks here."""

    def server_offset(self, shard: int) -> float:
        return self._offsets[shard]

    def _open(self, shard: int) -> Stand | None:
        """Adopt the shard's epoch, or begin a new one if an invalidation was lost."""
        with self._lock:
            if self.stands[shard] is not NOWHERE:
                return self.stands[shard]
            lineage = self._backplane.lineage(shard)
            epoch = self._epoch(shard, lineage) if lineage is not None else None
            if lineage is None or epoch is None:
                return None
            found = stand(inf, epoch, State.ON, lineage, settled=True)
            answer = self._backplane.beat({shard: found}, "-", "-")[shard]
            if isinstance(answer, Refusal):
                return None
            self._offsets[shard] = answer / 1000 - self.clock()
            self.stands[shard], self._renew[shard] = found, False
            return found

    def _epoch(self, shard: int, lineage: bytes) -> bytes | None:
        number = 1
        for _ in range(3):
            mine = f"{number}.{secrets.token_hex(6)}".encode()
            force = self._backplane.init(shard, lineage, mine)
            if isinstance(force, Refusal):
                return None
            if force == mine or not self._renew[shard]:
                log.info("shard %d uses epoch %s", shard, force.decode())
                return force
            number = int(force.split(b".")[0]) + 1
        return None

    # -- writes ----------------------------------------------------------------------------------------------------

    def announce(self, touched: Touched, connection: Any, *, patient: bool, image: Any) -> Touched:
        """Before COMMIT: nothing, there is no way to tell another process how it ended."""
        return touched

    def lift(self, touched: Touched, outcome: Outcome) -> None:
        if outcome is not Outcome.ROLLED_BACK:
            self.drop(touched)

    def drop(self, touched: Touched) -> None:
        """Forget values now; a shard that does not confirm it ends its epoch here."""
        todo = distribute(touched, self._backplane)
        for _ in range(2):  # a second time on a slot that moved
            todo = self._dropped(todo)
        with self._lock:
            for shard in todo:
                self.stands[shard], self._renew[shard] = NOWHERE, True

    def _dropped(self, todo: dict[int, Names]) -> dict[int, Names]:
        """What is left to do."""
        stands = {shard: found for shard in todo if (found := self.current(shard)) is not None}
        answers = self._backplane.drop(stands, todo)
        for shard, answer in answers.items():
            if isinstance(answer, Refusal) and answer.reason != "LOST":
                self.doubt(shard, stands[shard])
        return {s: names for s, names in todo.items() if s not in answers or isinstance(answers[s], Refusal)}

    # -- life ------------------------------------------------------------------------------------------------------

    def token(self, announced: Any) -> Token:
        return UNHEARD

    def caught_up(self, token: Token) -> bool:
        return False

    def ended(self, announced: Any) -> bool:
        """This database cannot tell."""
        return False

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self.stands = [NOWHERE] * len(self.stands)

    def close(self) -> None:
        """Holds no thread."""

"""The writer's half of the protocol: marks with the transaction's id before COMMIT, and their removal after it.

Section 5.3. A commit goes on only when every shard that it concerns has either taken its marks under an epoch that this
process holds a lease on, or is off since so long that nobody can be reading from it. So a commit never waits for a
reader, and waits at most one fence lease, once, for a Redis that has gone away.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..contracts.causal import Position, Token
from ..contracts.coherence import Image, Outcome
from ..contracts.fence import IMMORTAL, Backplane, Marked, Names, Payload, Stand, State
from ..contracts.pauses import point
from ..errors import L2UnavailableError
from .fence import Fence
from .touched import Touched, distribute

log = logging.getLogger("datalayer.coherence")

_TRIES = 3
_PAUSE = 0.02
_PATIENCE = 5


class Place(NamedTuple):
    """The marks of one shard, and the stand that they were made under."""

    stand: Stand
    marked: Marked
    names: Names


class Announced(NamedTuple):
    """The marks of one transaction. ``writer`` is unique, ``xid`` its id in PostgreSQL."""

    writer: str
    xid: str
    places: dict[int, Place]
    payloads: Mapping[str, Payload]

    @property
    def token(self) -> Token:
        """What another process must have heard to see this write in its L1."""
        return tuple(Position(g, place.stand.epoch, place.marked.sequence) for g, place in self.places.items())


class Marker:
    """Marks and unmarks. Thread-safe.

    ``policy`` says what happens when a shard takes no marks: ``revoke`` ends its epoch and waits until every lease on
    it is over, ``bounded`` ends it and does not wait, ``fail`` raises L2UnavailableError, which aborts the transaction.
    """

    def __init__(
        self, fence: Fence, backplane: Backplane, *, policy: str = "revoke", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._fence = fence
        self._backplane = backplane
        self._policy = policy
        self._sleep = sleep
        self._me = secrets.token_hex(6)
        self._count = 0

    def announce(self, names: Touched, xid: str, image: Image | None = None) -> Announced:
        """Mark everything; returns when COMMIT may be sent. ``image``: rows to leave where the marks were."""
        writer = f"{self._me}.{secrets.token_hex(5)}"
        todo = distribute(names, self._backplane)
        entries = image.space.entries(image.rows) if image is not None else {}
        tag = f"={image.space.space}" if image is not None else ""
        if entries:
            todo = {g: part._replace(watched=(tag,)) for g, part in todo.items()}
        places: dict[int, Place] = {}

        def mark(stands: dict[int, Stand]) -> set[int]:
            answers = self._backplane.mark(stands, writer, xid, {g: todo[g] for g in stands})
            for g, answer in answers.items():
                if isinstance(answer, Marked):
                    places[g] = Place(stands[g], answer, todo[g])
            return {g for g, answer in answers.items() if isinstance(answer, Marked)}

        self._everywhere(set(todo), mark)
        payloads = {}
        for name, (entry, ttl) in entries.items():
            place = places.get(self._backplane.shard_of(name))
            if place is not None:
                payloads[name] = Payload(tag, place.marked.generations[0], entry, ttl)
        return Announced(writer, xid, places, payloads)

    def drop(self, names: Touched) -> None:
        """Forget values of a write that is over, everywhere."""
        todo = distribute(names, self._backplane)

        def drop(stands: dict[int, Stand]) -> set[int]:
            answers = self._backplane.drop(stands, {g: todo[g] for g in stands})
            return {g for g, answer in answers.items() if isinstance(answer, Marked)}

        self._everywhere(set(todo), drop)

    def _everywhere(self, todo: set[int], act: Callable[[dict[int, Stand]], set[int]]) -> None:
        """Run ``act`` on every shard under a live stand; shards that are off for long enough need nothing."""
        failures: Counter[int] = Counter()
        bounded: set[int] = set()
        deadline = self._fence.clock() + _PATIENCE * self._fence.lease
        while todo:
            stands = {g: s for g in todo if (s := self._fence.live(g)) is not None and s.state != State.OFF}
            point("write.after_lease_check")
            todo -= act(stands) if stands else set()
            failures.update(todo & stands.keys())
            if not todo:
                return
            self._fence.poll()
            for shard in list(todo):
                found = self._fence.live(shard)
                if found is not None and found.state == State.OFF:
                    if shard in bounded or self._fence.waited(shard, found.epoch):
                        todo.discard(shard)
                elif found is not None and failures[shard] >= _TRIES:
                    failures[shard] = 0
                    self._give_up(shard, found)
                    bounded |= {shard} if self._policy == "bounded" else set()
            if todo:
                if self._fence.clock() > deadline:
                    raise L2UnavailableError(
                        f"shards {sorted(todo)} of the shared cache took no marks for {_PATIENCE} fence leases; "
                        "the write is refused, because other processes would go on serving what it replaces"
                    )
                self._sleep(_PAUSE)

    def _give_up(self, shard: int, stand: Stand) -> None:
        """Redis does not take the marks of this process."""
        if self._policy == "fail" or self._fence.storming():
            raise L2UnavailableError(
                f"shard {shard} of the shared cache takes no marks, and this process may not end its epoch "
                + ("(mark_policy='fail')" if self._policy == "fail" else "(it has done so too often lately)")
                + "; the write is refused, because other processes would go on serving what it replaces"
            )
        self._fence.revoke(shard, stand.epoch)

    def lift(self, announced: Announced, outcome: Outcome) -> None:
        """Remove the marks, without waiting; after an unknown outcome they stay, for readers to resolve."""
        if outcome is Outcome.UNKNOWN:
            return
        point("done.before")
        payloads = announced.payloads if outcome is Outcome.COMMITTED else {}
        for shard, place in announced.places.items():
            self._backplane.done(shard, place.stand, announced.writer, place.marked, place.names, payloads)

    def reset_after_fork(self) -> None:
        self._me = secrets.token_hex(6)


def transaction_id(connection: Any) -> str:
    """The id of the transaction that is open on a connection, assigned now if it has none.

    On AUTOCOMMIT there is none to be had before the statement: then an id that never ends.
    """
    if connection._is_autocommit_isolation():
        return IMMORTAL
    driver = connection.dialect.loaded_dbapi
    try:
        with connection.connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text")
            return str(cursor.fetchone()[0])
    except driver.Error as error:  # past SQLAlchemy's own translation, because nobody need see this statement
        raise sa.exc.DBAPIError.instance(None, None, error, driver.Error, hide_parameters=True) from error


__all__ = ["Announced", "Marker", "transaction_id"]

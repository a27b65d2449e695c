"""Writers of every kind and readers of every kind, at once: no reader sees less than was committed before it began.

Rows carry a number that only grows. Each writer notes the number after its commit has returned; each reader looks at
the note, reads, and compares. A second test breaks the protocol on purpose and must find stale reads, or the first one
proves nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer, Model, column
from datalayer.coherence.guard import Guard, Ticket
from datalayer.contracts.coherence import Change
from datalayer.testing.servers.cluster import wait_until

ROWS = 12
SECONDS, PATIENCE = 3.0, 30.0
WRITES, READS, HITS = 40, 1000, 200


class Race(Model):
    __tablename__ = "race_rows"
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    tag: Mapped[str] = column(unique=True)


T = Race.__table__


def _unit_of_work(layer: DataLayer, i: int) -> int:
    with layer.begin() as session:
        row = session.get_one(Race, i, with_for_update=True)
        row.n += 1
        return row.n


def _orm_update(layer: DataLayer, i: int) -> int:
    with layer.begin() as session:
        return int(session.scalar(sa.update(Race).where(Race.id == i).values(n=Race.n + 1).returning(Race.n)))  # type: ignore[arg-type]


def _core(layer: DataLayer, i: int) -> int:
    with layer.engine.begin() as connection:
        return int(connection.scalar(T.update().where(T.c.tag == str(i)).values(n=T.c.n + 1).returning(T.c.n)))  # type: ignore[arg-type]


def _text(layer: DataLayer, i: int) -> int:
    with layer.engine.begin() as connection:
        return int(connection.scalar(sa.text("UPDATE race_rows SET n = n + 1 WHERE id = :i RETURNING n"), {"i": i}))  # type: ignore[arg-type]


def _plain_session(layer: DataLayer, i: int) -> int:
    with PlainSession(layer.engine) as session, session.begin():
        row = session.get_one(Race, i, with_for_update=True)
        row.n += 1
        return row.n


def _rolled_back(layer: DataLayer, i: int) -> int:
    with layer.session() as session:
        session.get_one(Race, i, with_for_update=True).n += 1000
        session.flush()
    return 0


WRITERS = [_unit_of_work, _orm_update, _core, _text, _plain_session, _rolled_back]


class History:
    """What was committed at least, row by row, and what was read below it."""

    def __init__(self, layer: DataLayer) -> None:
        self.layer = layer
        self.least = dict.fromkeys(range(ROWS), 0)
        self.lock = threading.Lock()
        self.stale: list[tuple[str, int, int, int]] = []
        self.reads = self.writes = 0
        self.errors: list[BaseException] = []
        self.began = time.monotonic()

    def goes_on(self) -> bool:
        """For so long, and for longer where a slow machine has not yet done what makes it a race."""
        passed = time.monotonic() - self.began
        return not self.errors and (passed < SECONDS or (passed < PATIENCE and not self.enough()))

    def enough(self) -> bool:
        hits = self.layer.stats().tiers["l1"].hits
        return self.writes > WRITES and self.reads > READS and hits > HITS

    def write(self, writer: Callable[[DataLayer, int], int], draw: random.Random, pause: float) -> None:
        while self.goes_on():
            i = draw.randrange(ROWS)
            n = writer(self.layer, i)
            with self.lock:
                self.least[i] = max(self.least[i], n)
                self.writes += 1
            threading.Event().wait(pause)  # readers must hit the cache often, or the race means nothing

    def read(self, name: str, reader: Callable[[int], int], draw: random.Random) -> None:
        while self.goes_on() and not self.stale:
            i = draw.randrange(ROWS)
            least = self.least[i]
            n = reader(i)
            self.reads += 1
            if n < least or n >= 1000:
                self.stale.append((name, i, n, least))

    def run(self, rng: random.Random, pause: float = 0.03) -> None:
        jobs = [partial(self.write, writer, random.Random(rng.random()), pause) for writer in WRITERS]
        jobs += [partial(self.read, name, read, random.Random(rng.random())) for name, read in self.readers().items()]

        def guarded(job: Callable[[], None]) -> None:
            try:
                job()
            except BaseException as error:  # the test reports it
                self.errors.append(error)

        threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def readers(self) -> dict[str, Callable[[int], int]]:
        rows = self.layer.repository(Race)

        def in_session(i: int) -> int:
            with self.layer.session() as session:
                return session.get_one(Race, i).n

        def by_tag(i: int) -> int:
            with self.layer.session() as session:
                return session.scalars(sa.select(Race).where(Race.tag == str(i))).one().n

        return {
            "get": lambda i: rows.get_one(i).n,
            "snapshot": lambda i: rows.get_snapshot(i).n,  # type: ignore[union-attr]
            "many": lambda i: rows.get_many([i, (i + 1) % ROWS])[i].n,
            "shared": lambda i: rows.get_one(i, consistency="shared").n,
            "session": in_session,
            "unique": by_tag,
        }


@pytest.fixture(params=["with Redis", "without Redis"])
def layer(request: pytest.FixtureRequest, pg_url: str, key_prefix: str) -> Iterator[DataLayer]:
    redis = request.getfixturevalue("redis_url") if request.param == "with Redis" else None
    with DataLayer(pg_url, redis=redis, key_prefix=key_prefix, models=[Race], pool_size=20) as layer:
        Model.metadata.create_all(layer.engine, tables=[T])  # type: ignore[list-item]
        with PlainSession(layer.engine) as session, session.begin():
            session.add_all(Race(id=i, n=0, tag=str(i)) for i in range(ROWS))
        _warm(layer)
        yield layer


def _warm(layer: DataLayer) -> None:
    """Until rows are kept: with Redis not before every older transaction of the server, any test's, has ended."""
    rows = layer.repository(Race)
    rows.get(0)
    (ladder,) = layer.caches.ladders()
    wait_until("the row is kept", lambda: rows.get(0) is not None and 0 in ladder.l1.index)


def test_no_reader_is_behind_a_commit_that_returned_before_it_began(layer: DataLayer, rng: random.Random) -> None:
    history = History(layer)
    history.run(rng)
    assert history.errors == []
    assert history.stale == []
    assert history.enough(), "the race must be one, and meet a warm cache"
    assert layer._parts.coherence.pending() == 0


def _blind(self: Guard, key: Any, ticket: Any, absent: bool) -> bool:
    return True


BROKEN: dict[str, dict[str, Any]] = {
    "no tickets": {"_valid": _blind},
    "no marks": {
        "begin": lambda self, change: None,
        "end": lambda self, change, kept=(): None,
        "drop_key": lambda self, key: None,  # what our own message on the bus would repair
    },
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_is_needed(layer: DataLayer, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """One interleaving, step by step: right as it is, and a stale row with the rule switched off."""
    rows = layer.repository(Race)
    assert _interleaving(layer, rows) == 1
    layer.touch(Race)
    for name, broken in BROKEN[rule].items():
        monkeypatch.setattr(Guard, name, broken)
    served_old = (_interleaving(layer, rows) == old for old in (1, 2, 3))  # a lease just over hides one
    assert any(served_old), "each commit adds 1: the broken protocol must have served the row before one"


def _interleaving(layer: DataLayer, rows: Any) -> int:
    """A reader reads, a writer commits, the reader puts what it read; returns what is served afterwards."""
    rows.get(0)
    guard: Any = layer.caches.ladders()[0].guard
    ticket: Ticket | None = guard.ticket(1)
    old = rows.get(1, consistency="database")
    _unit_of_work(layer, 1)
    assert ticket is not None
    guard.put(1, ticket, {"id": 1, "n": old.n, "tag": "1"})
    return int(rows.get(1).n)


def test_a_writer_that_waits_for_an_hour_is_as_safe_as_a_quick_one(layer: DataLayer) -> None:
    rows = layer.repository(Race)
    rows.get(1)
    change = Change(keys=frozenset([1]))
    (ladder,) = layer.caches.ladders()
    ladder.begin(change)
    for _ in range(3):
        assert rows.get_one(1).n == 0
        assert 1 not in ladder.l1.index
    ladder.guard.end(change)
    while 1 not in ladder.l1.index:
        rows.get(1)

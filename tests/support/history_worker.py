"""One process of the history test: a layer, threads that write in every way there is, and threads that read.

Rows carry a version and the attempt that wrote it. What is done is told to a Recorder; what is done to the process
comes from the test through shared numbers.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, relationship

from datalayer import CachePolicy, DataLayer, Model, Repository, column
from datalayer.coherence import fence
from datalayer.contracts.pauses import pause_at
from datalayer.errors import TransactionFailed, UnavailableError
from datalayer.testing.faults import die_with_parent, move_clients
from datalayer.testing.histories import Recorder, Version

PLAIN, CHURN, FAMILY, GROUPS, REFERENCE = 24, 6, 4, 6, 3
LEVELS = ("cached", "cached", "shared", "shared", "database")

RUN, QUIET, END = range(3)

#: How a call may fail while servers fail.
EXPECTED = (sa.exc.SQLAlchemyError, UnavailableError, TransactionFailed)


class Plain(Model):
    __tablename__ = "hist_plain"
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    attempt: Mapped[str]
    tag: Mapped[str] = column(unique=True)
    grp: Mapped[int]


class Churn(Model):
    __tablename__ = "hist_churn"
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    attempt: Mapped[str]


class Parent(Model):
    __tablename__ = "hist_parent"
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    attempt: Mapped[str]


class Child(Model):
    __tablename__ = "hist_child"
    id: Mapped[int] = column(primary_key=True)
    parent_id: Mapped[int] = column(ForeignKey("hist_parent.id", ondelete="CASCADE"))
    n: Mapped[int]
    attempt: Mapped[str]
    parent: Mapped[Parent | None] = relationship()


class Reference(Model):
    """Its writers wait: every read of it is strict, in the process's memory too."""

    __tablename__ = "hist_reference"
    __cache__ = CachePolicy(commit_wait=True)
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    attempt: Mapped[str]


MODELS: list[type[Any]] = [Plain, Churn, Parent, Child, Reference]
P, C = Plain.__table__, Churn.__table__

#: Versions of rows that come and go; nobody maps or caches it.
counters = sa.Table(
    "hist_counters", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("n", sa.Integer)
)


def create(url: str, log: Recorder) -> None:
    """Tables and first rows. Version 0 of what comes and goes is: not there."""
    engine = sa.create_engine(url)
    Model.metadata.create_all(engine, tables=[m.__table__ for m in MODELS])
    counters.create(engine)
    with engine.begin() as connection:
        rows = [{"id": i, "n": 0, "attempt": "", "tag": f"{i}.", "grp": i % GROUPS} for i in range(PLAIN)]
        connection.execute(sa.insert(P), rows)
        connection.execute(sa.insert(Reference), [{"id": i, "n": 0, "attempt": ""} for i in range(REFERENCE)])
        names = [*(f"churn{i}" for i in range(CHURN)), *(f"family{i}" for i in range(FAMILY))]
        connection.execute(sa.insert(counters), [{"id": name, "n": 0} for name in names])
    engine.dispose()
    log.start({f"plain{i}": 0 for i in range(PLAIN)})
    log.start({f"reference{i}": 0 for i in range(REFERENCE)})
    log.start({f"churn{i}": Version(0, True) for i in range(CHURN)})
    log.start({f"{who}{i}": Version(0, True) for i in range(FAMILY) for who in ("parent", "child")})


def conclude(url: str, log: Recorder) -> None:
    """What the database says in the end."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for model, name, size in ((Plain, "plain", PLAIN), (Churn, "churn", CHURN), *_family()):
            table = model.__table__
            rows = {r.id: r for r in connection.execute(sa.select(table.c.id, table.c.n, table.c.attempt))}
            for i in range(size):
                row = rows.get(i)
                log.final(f"{name}{i}", row.n if row else None, row.attempt if row else None)
    engine.dispose()


def _family() -> list[tuple[Any, str, int]]:
    return [(Parent, "parent", FAMILY), (Child, "child", FAMILY), (Reference, "reference", REFERENCE)]


@dataclass(frozen=True)
class Plan:
    """What a worker is told when it starts. The last four are shared numbers that the test changes meanwhile."""

    number: int
    seed: int
    url: str
    folder: str
    writers: int
    readers: int
    lease: float
    l1_lease: float
    deadly: float
    phase: Any
    port: Any
    bus_delay: Any
    idle: Any


def some(draw: random.Random, size: int, count: int = 1) -> list[int]:
    """Different rows, the first ones far more often: the others are left alone long enough to be cached."""
    found: set[int] = set()
    while len(found) < count:
        found.add(int(size * draw.random() ** 3))
    return sorted(found)


class Abandoned(Exception):
    """A transaction that its writer rolls back on purpose."""


class Worker:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log = Recorder(Path(plan.folder) / f"w{plan.number}.log", process=f"w{plan.number}")
        self.layer = DataLayer(
            plan.url,
            redis="redis://127.0.0.1:1/0",
            models=MODELS,
            pool_size=plan.writers + plan.readers + 2,
            pool_timeout=5,
            fence_lease=plan.lease,
            l1_lease=plan.l1_lease,
            redis_timeout=0.2,
            breaker_reset=0.2,
            statement_timeout=3.0,
            lock_timeout=1.0,
            connect_timeout=2.0,
            write_mode=random.Random(plan.seed).choice(["through", "through_l1_lazy"]),
        )
        self.authority: Any = self.layer._parts.authority
        self.authority.sweeper._every = 3.0
        self.doomed = threading.local()
        self.tags: dict[int, tuple[int, str]] = {}
        self.failed_reads = self.failed_writes = 0

    # -- writing ---------------------------------------------------------------------------------------------------

    def attempt(self, body: Callable[[str, dict[str, Any]], Any]) -> None:
        """Run one way of writing. ``body`` fills the versions and announces them before COMMIT."""
        attempt, versions = self.log.attempt(), {}
        try:
            body(attempt, versions)
        except Abandoned:
            self.log.rolled_back(attempt, versions)
        except Exception as error:
            self.failed_writes += 1
            # Announced: COMMIT may have been sent, and nobody knows. Otherwise it never will be.
            (self.log.unknown if versions else self.log.rolled_back)(attempt)
            self.failed("write", error)
        else:
            self.log.committed(attempt, versions)

    def ready(self, attempt: str, versions: dict[str, Any], new: dict[str, Any]) -> None:
        versions.update(new)
        self.log.intend(attempt, new)

    def unit_of_work(self, draw: random.Random, attempt: str, versions: dict[str, Any], *, rows: int = 1) -> None:
        with self.layer.begin() as session:
            new = {}
            for i in some(draw, PLAIN, rows):
                row = session.get_one(Plain, i, with_for_update=True)
                row.n, row.attempt, row.tag = row.n + 1, attempt, f"{i}.{attempt}"
                new[f"plain{i}"] = row.n
                session.flush()
                session.expunge(row)
                again = session.get(Plain, i)
                if again is None or again.attempt != attempt:
                    self.log.wrong("own write", f"{attempt} read {again and again.attempt} in its own transaction")
            self.ready(attempt, versions, new)

    def reference(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        i = draw.randrange(REFERENCE)
        with self.layer.begin() as session:
            row = session.get_one(Reference, i, with_for_update=True)
            row.n, row.attempt = row.n + 1, attempt
            session.flush()
            self.ready(attempt, versions, {f"reference{i}": row.n})

    def two_rows(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        self.unit_of_work(draw, attempt, versions, rows=2)

    def core(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        (i,) = some(draw, PLAIN)
        with self.layer.engine.begin() as connection:
            n = connection.scalar(
                P.update()
                .where(P.c.id == i)
                .values(n=P.c.n + 1, attempt=attempt, tag=f"{i}.{attempt}")
                .returning(P.c.n)
            )
            self.ready(attempt, versions, {f"plain{i}": n})

    def bulk_returning(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        statement = (
            sa.update(Plain)
            .where(Plain.id.in_(some(draw, PLAIN, 3)))
            .values(**self._grown(attempt))
            .returning(Plain.id, Plain.n)
        )
        with self.layer.begin() as session:
            new = {f"plain{i}": n for i, n in session.execute(statement)}
            self.ready(attempt, versions, new)

    def bulk_blind(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        """Nobody tells the layer which rows these are."""
        with self.layer.engine.begin() as connection:
            connection.execute(P.update().where(P.c.grp == draw.randrange(GROUPS)).values(**self._grown(attempt)))
            written = connection.execute(sa.select(P.c.id, P.c.n).where(P.c.attempt == attempt))
            self.ready(attempt, versions, {f"plain{i}": n for i, n in written})

    def _grown(self, attempt: str) -> dict[str, Any]:
        return {"n": P.c.n + 1, "attempt": attempt, "tag": sa.cast(P.c.id, sa.Text) + f".{attempt}"}

    def text(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        (i,) = some(draw, PLAIN)
        sql = "UPDATE hist_plain SET n = n + 1, attempt = :a, tag = :t WHERE id = :i RETURNING n"
        with self.layer.engine.begin() as connection:
            n = connection.scalar(sa.text(sql), {"a": attempt, "t": f"{i}.{attempt}", "i": i})
            self.ready(attempt, versions, {f"plain{i}": n})

    def upsert(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        (i,) = some(draw, PLAIN)
        with self.layer.begin() as session:
            n = session.scalar(sa.select(P.c.n).where(P.c.id == i).with_for_update())
            row = Plain(id=i, n=n + 1, attempt=attempt, tag=f"{i}.{attempt}", grp=i % GROUPS)
            Repository[Plain](session).set(row)
            self.ready(attempt, versions, {f"plain{i}": n + 1})

    def savepoint(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        """One row is written in a savepoint that is rolled back, another one is committed."""
        gone, kept = some(draw, PLAIN, 2)
        dead = self.log.attempt()
        with self.layer.begin() as session:
            nested = session.begin_nested()
            row = session.get_one(Plain, gone, with_for_update=True)
            row.n, row.attempt, row.tag = row.n + 1, dead, f"{gone}.{dead}"
            session.flush()
            nested.rollback()
            self.log.rolled_back(dead)
            row = session.get_one(Plain, kept, with_for_update=True)
            row.n, row.attempt, row.tag = row.n + 1, attempt, f"{kept}.{attempt}"
            session.flush()
            self.ready(attempt, versions, {f"plain{kept}": row.n})

    def rolled_back(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        with self.layer.begin() as session:
            row = session.get_one(Plain, draw.randrange(PLAIN), with_for_update=True)
            row.n, row.attempt = row.n + 1, attempt
            session.flush()
            time.sleep(draw.random() * 0.02)
            raise Abandoned

    def churn_unit_of_work(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        (i,) = some(draw, CHURN)
        with self.layer.begin() as session:
            n = self._next(session, f"churn{i}")
            if n % 2:
                session.add(Churn(id=i, n=n, attempt=attempt))
            else:
                session.delete(session.get_one(Churn, i))
            session.flush()
            self.ready(attempt, versions, {f"churn{i}": Version(n, n % 2 == 0)})

    def churn_core(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        (i,) = some(draw, CHURN)
        with self.layer.engine.begin() as connection:
            n = self._next(connection, f"churn{i}")
            if n % 2:
                connection.execute(C.insert().values(id=i, n=n, attempt=attempt))
            else:
                connection.execute(C.delete().where(C.c.id == i))
            self.ready(attempt, versions, {f"churn{i}": Version(n, n % 2 == 0)})

    def cascade(self, draw: random.Random, attempt: str, versions: dict[str, Any]) -> None:
        """Parent and child come together; the parent goes, and the database takes the child along."""
        (i,) = some(draw, FAMILY)
        with self.layer.begin() as session:
            n = self._next(session, f"family{i}")
            if n % 2:
                session.add(Parent(id=i, n=n, attempt=attempt))
                session.flush()
                session.add(Child(id=i, parent_id=i, n=n, attempt=attempt))
                session.flush()
            elif draw.random() < 0.5:
                session.execute(sa.delete(Parent).where(Parent.id == i))
            else:
                session.delete(session.get_one(Parent, i))
                session.flush()
            now = Version(n, n % 2 == 0)
            self.ready(attempt, versions, {f"parent{i}": now, f"child{i}": now})

    def _next(self, connection: Any, name: str) -> int:
        n = connection.execute(
            counters.update().where(counters.c.id == name).values(n=counters.c.n + 1).returning(counters.c.n)
        ).scalar_one()
        return int(n)

    WRITERS = (
        *(unit_of_work, unit_of_work, two_rows, core, core, bulk_returning, upsert, upsert, savepoint, rolled_back),
        *(churn_unit_of_work, churn_core, cascade),
    )

    SELDOM = (text, bulk_blind, reference)

    def write(self, draw: random.Random) -> None:
        while self.plan.phase.value == RUN:
            # Those that make everybody forget whole tables are rare, or nothing would ever be cached.
            way = draw.choice(self.SELDOM) if draw.random() < 0.015 else draw.choice(self.WRITERS)
            self.doomed.at = draw.choice(POINTS) if draw.random() < self.plan.deadly else None
            self.attempt(lambda attempt, versions, way=way: way(self, draw, attempt, versions))
            time.sleep(draw.random() * 0.08)

    def failed(self, what: str, error: Exception) -> None:
        """The database may fail a call; anything else is an anomaly of its own."""
        self.log.count({f"{what} {type(error).__name__}": 1})
        if not isinstance(error, EXPECTED):
            self.log.wrong("error", "".join(traceback.format_exception(error)[-3:]))

    # -- reading ---------------------------------------------------------------------------------------------------

    def saw(self, key: str, row: Any, began: float, level: str) -> None:
        if key.startswith("reference") and level == "cached":
            level = "shared"
        self.log.read(key, row.n if row else None, row.attempt if row else None, began, level=level)
        if row is not None and key.startswith("plain"):
            self.tags[row.id] = row.n, row.tag

    def get(self, draw: random.Random, level: Any) -> None:
        model, name, size = draw.choice(KINDS)
        i, began = draw.randrange(size), self.log.now()
        repository = self.layer.repository(model)
        row = repository.get(i) if level == "cached" else repository.get(i, consistency=level)
        self.saw(f"{name}{i}", row, began, level)

    def snapshot(self, draw: random.Random, level: Any) -> None:
        i, began = draw.randrange(PLAIN), self.log.now()
        self.saw(f"plain{i}", self.layer.repository(Plain).get_snapshot(i, consistency=level), began, level)

    def many(self, draw: random.Random, level: Any) -> None:
        model, name, size = draw.choice(KINDS)
        ids, began = draw.sample(range(size), min(size, 5)), self.log.now()
        found = self.layer.repository(model).get_many(ids, consistency=level)
        for i in ids:
            self.saw(f"{name}{i}", found.get(i), began, level)

    def by_tag(self, draw: random.Random, level: Any) -> None:
        if not self.tags:
            return
        i, (n, tag) = draw.choice(list(self.tags.items()))
        began = self.log.now()
        row = self.layer.repository(Plain).get_by(tag=tag, consistency=level)
        if row is None:
            self.log.missed(f"plain{i}", n, began, level=level)
        elif row.tag != tag:
            self.log.wrong("look-up", f"asked for tag {tag}, got {row.tag}")
        else:
            self.saw(f"plain{i}", row, began, level)

    def in_session(self, draw: random.Random, level: Any) -> None:
        with self.layer.session(consistency=level) as session:
            for i in draw.sample(range(PLAIN), 2):
                began = self.log.now()
                self.saw(f"plain{i}", session.get(Plain, i), began, level)

    def lazy(self, draw: random.Random, level: Any) -> None:
        i = draw.randrange(FAMILY)
        with self.layer.session(consistency=level) as session:
            began = self.log.now()
            child = session.get(Child, i)
            self.saw(f"child{i}", child, began, level)
            if child is not None:
                began = self.log.now()
                self.saw(f"parent{i}", child.parent, began, level)

    def search(self, draw: random.Random, level: Any) -> None:
        statement, began = sa.select(Plain).where(Plain.grp == draw.randrange(GROUPS)), self.log.now()
        for row in self.layer.repository(Plain).search(statement):
            self.saw(f"plain{row.id}", row, began, "database")

    def listed(self, draw: random.Random, level: Any) -> None:
        """Which rows of those that come and go are there, by a cached list."""
        began = self.log.now()
        found = {row.id: row for row in self.layer.repository(Churn).search_cached(consistency=level)}
        for i in range(CHURN):
            self.saw(f"churn{i}", found.get(i), began, _LISTED[level])

    def listed_by_value(self, draw: random.Random, level: Any) -> None:
        group, began = draw.randrange(GROUPS), self.log.now()
        statement = sa.select(Plain).where(Plain.grp == group)
        for row in self.layer.repository(Plain).search_cached(statement, consistency=level):
            self.saw(f"plain{row.id}", row, began, _LISTED[level])

    READERS = (get, get, get, get, get, snapshot, many, many, by_tag, by_tag, in_session, lazy, listed, listed_by_value)

    def read(self, draw: random.Random) -> None:
        while self.plan.phase.value != END:
            way = Worker.search if draw.random() < 0.01 else draw.choice(self.READERS)
            try:
                way(self, draw, draw.choice(LEVELS))
            except Exception as error:
                self.failed_reads += 1
                self.failed("read", error)
                time.sleep(0.01)
            if draw.random() < 0.2:
                time.sleep(draw.random() * 0.01)

    # -- life ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        draw = random.Random(self.plan.seed)
        writers = [self._thread(self.write, draw.random()) for _ in range(self.plan.writers)]
        readers = [self._thread(self.read, draw.random()) for _ in range(self.plan.readers)]
        for thread in writers:
            thread.join()
        self.plan.idle.value = 1
        for thread in readers:
            thread.join()
        self.log.count(self._counts())
        self.layer.close()

    def _thread(self, job: Callable[[random.Random], None], seed: float) -> threading.Thread:
        thread = threading.Thread(target=job, args=(random.Random(seed),), daemon=True)
        thread.start()
        return thread

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {"failed reads": self.failed_reads, "failed writes": self.failed_writes}
        for ladder in self.layer.caches.ladders():
            for name, value in {**ladder.counts, "l1_hits": ladder.l1.hits, "refused": ladder.guard.refused}.items():
                counts[name] = counts.get(name, 0) + value
        fence_, bus = self.authority.fence, self.authority.bus
        counts |= {"revocations": fence_.revocations, "openings": fence_.openings, "gaps": bus.gaps}
        return counts | {"resolved": self.authority.sweeper.resolved}


KINDS: list[tuple[Any, str, int]] = [
    *[(Plain, "plain", PLAIN)] * 3,
    (Churn, "churn", CHURN),
    (Parent, "parent", FAMILY),
    (Child, "child", FAMILY),
    (Reference, "reference", REFERENCE),
]

#: What is promised of a list: in the process's memory it is of a time of its own, and one that changes while it is read
#: is asked of the database, past L1, so it does not bind later reads of single rows from there.
_LISTED = {"cached": "listed", "shared": "database", "database": "database"}

#: Where readers and the keeper of the fence linger now and then, so that rare interleavings are not.
LINGER = (
    *("read.after_lease_check", "read.after_get", "read.after_lease", "read.after_db", "read.before_l1_put"),
    *("write.after_lease_check", "revoke.after", "open.after_init", "open.after_A", "open.before_B", "poll.after_send"),
    *("poll.after_query", "hb.send"),
)

#: Where writers linger, and where they die.
POINTS = ("write.after_flush", "write.after_mark", "write.before_commit", "write.after_commit", "done.before")


def main(plan: Plan) -> None:
    """The process's whole life."""
    die_with_parent()
    if plan.phase.value != RUN:
        return
    # Faults that come every two seconds would otherwise end the caches for the rest of the run: time is compressed.
    fence._MOST_BACKOFF, fence._STORM = 0.3, 10**9
    with ExitStack() as stack:
        stack.enter_context(move_clients(lambda: plan.port.value))
        worker = Worker(plan)

        chance = random.Random(plan.seed)

        def delayed() -> None:
            if plan.bus_delay.value:
                time.sleep(plan.bus_delay.value)

        def passing(name: str, often: float) -> Callable[[], None]:
            def pass_by() -> None:
                if getattr(worker.doomed, "at", None) == name:
                    os.kill(os.getpid(), signal.SIGKILL)
                if chance.random() < often:
                    time.sleep(chance.random() ** 3 * 0.3)

            return pass_by

        stack.enter_context(pause_at("bus.recv", delayed))
        for name in POINTS:
            stack.enter_context(pause_at(name, passing(name, 0.05)))
        for name in LINGER:
            stack.enter_context(pause_at(name, passing(name, 0.01)))
        for mutant in filter(None, os.environ.get("DATALAYER_TEST_MUTANT", "").split(",")):
            from history_mutants import MUTANTS

            stack.enter_context(MUTANTS[mutant]())
        worker.run()

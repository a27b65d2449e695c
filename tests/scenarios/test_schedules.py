"""Each interleaving that the protocol was made for, step by step, and each of its rules taken away.

A schedule is a function that plays actors against each other and asserts what is read. Under the protocol it passes;
under each of its mutants, one step taken away or weakened, it must fail: a test that cannot fail proves nothing.
"""

from __future__ import annotations

import gc
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
import sqlalchemy as sa
from schedules import Actor, Clock, Crashed, Deviated, Process, cut_off, other_script, pass_by, points
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, L1Policy, L2Policy, Model, column
from datalayer.coherence import fence as fence_module
from datalayer.coherence.bus import Bus
from datalayer.coherence.fence import Fence
from datalayer.coherence.guard import Guard
from datalayer.coherence.ledger import Ledger
from datalayer.coherence.local import Coherence
from datalayer.coherence.marks import Marker
from datalayer.coherence.strict import Strict
from datalayer.contracts.coherence import Change, Outcome
from datalayer.session import classify, reads
from datalayer.session.writes import WriteTracker
from datalayer.testing.faults import Moving, RedisPair, terminate_backends
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_postgres
from datalayer.testing.servers.postgres import PrivatePostgres
from datalayer.testing.servers.redis_server import ask
from datalayer.tiers import l2
from datalayer.tiers.l2.tier import RedisTier
from datalayer.tiers.l3 import DriverReader
from datalayer.tiers.ladder import Ladder
from datalayer.tiers.near import Near

LEASE, L1_LEASE = 2.0, 1.0


class Item(Model):
    __tablename__ = "sched_items"
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    tag: Mapped[str] = column(unique=True)


class Reference(Model):
    """Its writers wait, so that its L1 is strict."""

    __tablename__ = "sched_reference"
    __cache__ = CachePolicy(commit_wait=True)
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    tag: Mapped[str] = column(unique=True, default="t1")


class Local(Model):
    """Not in the shared tier."""

    __tablename__ = "sched_local"
    __cache__ = CachePolicy(l2=L2Policy(enabled=False))
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]


class Checked(Model):
    """Its rows are checked at COMMIT."""

    __tablename__ = "sched_checked"
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int] = column(sa.ForeignKey("sched_checked.id", deferrable=True, initially="DEFERRED"))


class Remote(Model):
    """Not in the process."""

    __tablename__ = "sched_remote"
    __cache__ = CachePolicy(l1=L1Policy(enabled=False))
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]


pytestmark = [
    # Actors that crash leave their connections as a killed process would.
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MODELS: list[type[Any]] = [Item, Reference, Local, Remote, Checked]
I = Item.__table__  # noqa: E741


class World:
    """Two processes on one PostgreSQL and one Redis, a writer's and a reader's; more when a schedule wants them."""

    def __init__(self, pg_url: str, redis_url: str, prefix: str) -> None:
        self.pg_url, self.redis_url, self.prefix = pg_url, redis_url, prefix
        self.clock = Clock()
        self.processes: list[Process] = []
        self.stack = ExitStack()
        engine = sa.create_engine(pg_url)
        Model.metadata.create_all(engine, tables=[m.__table__ for m in MODELS])
        with engine.begin() as connection:
            connection.execute(sa.insert(I), [{"id": i, "n": 0, "tag": f"t{i}"} for i in range(10)])
            connection.execute(sa.insert(Checked), [{"id": 1, "n": 1}])
            for model in (Reference, Local, Remote):
                tag = {"tag": "t1"} if model is Reference else {}
                connection.execute(sa.insert(model), [{"id": 1, "n": 0, **tag}])
        engine.dispose()

    def process(self, **options: Any) -> Process:
        layer = DataLayer(
            options.pop("url", self.pg_url),
            redis=self.redis_url,
            models=MODELS,
            key_prefix=self.prefix,
            fence_lease=LEASE,
            l1_lease=L1_LEASE,
            clock=options.pop("clock", self.clock),
            **options,
        )
        self.processes.append(Process(layer, self.clock))
        return self.processes[-1]

    def pair(self) -> tuple[Process, Process]:
        """The writer's and the reader's process, both ready."""
        writer, reader = self.process().open(), self.process().open()
        writer.hear()
        return writer, reader

    def n(self, id: int = 1) -> int:
        with psycopg.connect(make_url(self.pg_url).set(drivername="postgresql").render_as_string(False)) as connection:
            row = connection.execute("SELECT n FROM sched_items WHERE id = %s", (id,)).fetchone()
        return int(row[0]) if row else -1

    def close(self) -> None:
        self.stack.close()
        for process in self.processes:
            process.close()
        self.processes.clear()
        gc.collect()


def read(process: Process, level: Any = "shared", id: int = 1, model: Any = Item) -> int:
    row = process.layer.repository(model).get(id, consistency=level)
    process.sync()
    return row.n if row is not None else -1


def hit(process: Process, id: int = 1, model: Any = Item) -> int:
    """A plain read, which L1 answers if it may."""
    row = process.layer.repository(model).get(id)
    process.sync()
    return row.n if row is not None else -1


def writing(process: Process, id: int = 1, model: Any = Item, n: int | None = None) -> Actor:
    """Somebody who raises a row's number by one."""

    def write() -> None:
        with process.layer.begin() as session:
            row = session.get_one(model, id, with_for_update=True)
            row.n = row.n + 1 if n is None else n

    return Actor(write)


def write(process: Process, id: int = 1, model: Any = Item) -> None:
    writing(process, id, model).finish()
    process.sync()


def bulk(process: Process, below: int = 100) -> Actor:
    """Somebody who raises numbers and does not know whose."""

    def run() -> None:
        with process.layer.engine.begin() as connection:
            connection.execute(I.update().where(I.c.n < below, I.c.tag == "t1").values(n=I.c.n + 1))

    return Actor(run)


# -- marks, fills, resolving -----------------------------------------------------------------------------------------


def a_reader_between_mark_and_commit_fills_nothing(world: World) -> None:
    w, r = world.pair()
    writer = writing(w).until("write.before_commit")
    assert read(r) == 0
    writer.finish()
    w.sync()
    assert read(r) == 1


def a_fill_that_was_read_before_the_mark_comes_too_late(world: World) -> None:
    w, r = world.pair()
    reader = Actor(lambda: read(r)).until("read.after_db")
    write(w)
    assert reader.finish() == 0, "it read before the commit"
    assert read(r) == 1
    assert read(w) == 1


def a_writer_that_died_after_its_commit_leaves_marks_that_its_readers_resolve(world: World) -> None:
    w, r = world.pair()
    read(r)
    writing(w).until("write.after_commit").crash()
    assert r.ask("HLEN", r.place.header) > 4
    assert read(r) == 1
    assert r.ask("HGET", r.place.header, "m:sched_items:1") is None, "the reader's own statement proved it"
    assert r.ask("GET", r.place.values + "sched_items:1").endswith(b"t1") or read(r) == 1
    with r.layer.engine.connect():
        before = _loads(r)
        assert read(r) == 1
        assert _loads(r) == before, "what the proof stored is a hit"


def _loads(process: Process) -> int:
    return sum(ladder.counts["l3_reads"] for ladder in process.layer.caches.ladders())


def the_row_and_the_proof_are_of_one_snapshot(world: World) -> None:
    w, r = world.pair()
    writer = writing(w).until("write.before_commit")
    reader = Actor(lambda: read(r)).until("test.proving")
    try:
        reader.until("test.between")  # only a proof in two statements passes here
    except Deviated:
        writer.until("write.after_commit")
    else:
        writer.until("write.after_commit")
        reader.finish()
    writer.crash()
    r.sync()
    assert read(r) == 1


def a_record_is_resolved_only_if_it_is_the_one_that_was_proved(world: World) -> None:
    w, r = world.pair()
    first = writing(w).until("write.after_commit")
    reader = Actor(lambda: read(r)).until("test.resolving")
    first.finish()
    w.sync()
    second = writing(w).until("write.before_commit")
    assert reader.finish() == 1
    third = world.process().open()
    assert read(third) == 1
    second.until("write.after_commit").crash()
    assert read(third) == 2


def two_writers_of_one_name_are_two_marks(world: World) -> None:
    w, r = world.pair()
    other = world.process().open()
    slow = bulk(w).until("write.before_commit")

    def elsewhere() -> None:
        with other.layer.engine.begin() as connection:
            connection.execute(I.update().where(I.c.tag == "t2").values(n=5))

    Actor(elsewhere).finish()
    other.sync()
    assert read(r) == 0
    slow.until("write.after_commit")
    assert read(r) == 1
    slow.finish()
    w.sync()
    assert read(r) == 1


def a_late_writer_does_not_leave_its_row_over_a_newer_one(world: World) -> None:
    """Two writers of a key without a row lock: the first one's row must not come after the second's."""
    w, r = world.pair()
    names = _touched("sched_items:1")
    first = w.authority.marker.announce(names, "3", _image(b"row 0"))
    second = w.authority.marker.announce(names, "3", _image(b"row 7"))
    w.authority.lift(second, Outcome.COMMITTED)
    w.authority.lift(first, Outcome.COMMITTED)
    w.sync()
    assert r.ask("EXISTS", r.place.values + "sched_items:1") == 0


def _touched(*keys: str) -> Any:
    from datalayer.coherence.touched import Touched

    return Touched(keys=keys)


def _image(entry: bytes) -> Any:
    """A row that a writer would leave."""
    space = SimpleNamespace(space="sched_items", entries=lambda rows: {"sched_items:1": (entry, 60.0)})
    return SimpleNamespace(space=space, rows={}, xid=None)


def a_transaction_that_has_written_caches_nothing_of_its_own(world: World) -> None:
    w, r = world.pair()

    def rolled_back() -> None:
        with w.layer.session() as session:
            row = session.get_one(Item, 1)
            row.n = 666
            session.flush()
            session.expunge(row)
            assert session.get_one(Item, 1).n == 666
            session.rollback()

    Actor(rolled_back).finish()
    w.sync()
    assert hit(w) == 0
    assert read(r) == 0


def a_transaction_with_an_old_snapshot_fills_nothing(world: World) -> None:
    w, r = world.pair()

    def repeatable() -> int:
        with r.layer.begin(isolation="REPEATABLE READ") as session:
            session.execute(sa.text("SELECT 1 FROM sched_items"))
            pass_by("test.snapshot")
            return session.get_one(Item, 1).n

    reader = Actor(repeatable).until("test.snapshot")
    write(w)
    assert reader.finish() == 0, "that is its isolation"
    r.sync()
    r.hear()
    assert read(r) == 1
    assert hit(r) == 1


def a_commit_whose_outcome_is_unknown_keeps_its_marks(world: World) -> None:
    """COMMIT is on its way, held up in the network, while its connection is given up."""
    proxy = world.stack.enter_context(TcpProxy.for_url(world.pg_url))
    w = world.process(url=proxy.url, statement_timeout=0.4, clock=None).open()
    r = world.process().open()
    writer = writing(w).until("write.before_commit")
    proxy.hold()
    with pytest.raises(sa.exc.DBAPIError):
        writer.finish()
    w.sync()
    assert read(r) == 0
    proxy.pass_()
    deadline = 400
    while world.n() == 0 and deadline:
        threading_wait()
        deadline -= 1
    assert world.n() == 1, "the COMMIT arrived after all"
    assert read(r) == 1


def a_commit_whose_outcome_is_unknown_leaves_no_row(world: World) -> None:
    """The connection dies before COMMIT is sent; nobody knows that here. Later it is known that it has ended."""
    w, r = world.pair()
    assert hit(w) == 0
    writer = writing(w).until("write.before_commit")
    terminate_backends(world.pg_url)
    with pytest.raises(sa.exc.DBAPIError):
        writer.finish()
    assert world.n() == 0
    w.keep()
    assert w.layer._parts.coherence.pending() == 0, "its end is known"
    assert hit(w) == 0
    assert read(r) == 0
    write(w)
    assert hit(w) == 1


def a_commit_that_is_refused_leaves_no_row(world: World) -> None:
    """A deferred constraint fails; the connection goes back to the pool without a rollback of its own."""
    w, r = world.pair()
    assert hit(w, model=Checked) == 1
    connection = w.layer.engine.connect()
    connection.execute(sa.update(Checked).where(Checked.__table__.c.id == 1).values(n=99))
    with pytest.raises(sa.exc.IntegrityError):
        connection.commit()
    connection.close()
    w.sync()
    assert hit(w, model=Checked) == 1
    assert read(r, model=Checked) == 1
    assert w.layer._parts.coherence.pending() == 0


def threading_wait() -> None:
    import threading

    threading.Event().wait(0.01)


def a_mark_is_swept_away_only_when_its_writer_has_ended(world: World) -> None:
    w, r = world.pair()
    writer = writing(w).until("write.before_commit")
    for _ in range(3):
        r.authority.sweeper.sweep(0)
        r.sync()
    assert read(r) == 0
    r.authority.sweeper.turn()
    r.sync()
    writer.until("write.after_commit")
    assert read(r) == 1
    writer.crash()
    for _ in range(3):
        r.authority.sweeper.sweep(0)
        r.sync()
    assert r.ask("HGET", r.place.header, "m:sched_items:1") is None


# -- bulk writes and births ------------------------------------------------------------------------------------------


def a_bulk_write_that_names_no_rows_is_marked_as_a_whole(world: World) -> None:
    w, r = world.pair()
    assert read(r) == 0
    writer = bulk(w).until("write.after_commit")
    assert read(r) == 1
    writer.crash()
    assert read(r) == 1


def values_of_before_a_bulk_write_are_not_believed_after_it(world: World) -> None:
    w, r = world.pair()
    assert read(r) == 0
    bulk(w).finish()
    w.sync()
    assert read(r) == 1


def a_row_that_is_born_is_not_said_to_be_missing(world: World) -> None:
    w, r = world.pair()
    assert read(r, id=99) == -1
    with w.layer.engine.begin() as connection:
        connection.execute(sa.insert(I).from_select(["id", "n", "tag"], sa.select(99, 4, sa.literal("t99"))))
    w.sync()
    assert read(r, id=99) == 4


# -- epochs ----------------------------------------------------------------------------------------------------------


def revoke(process: Process) -> None:
    process.fence.revoke(0, process.fence.stands[0].epoch)


def nothing_is_filled_before_older_transactions_have_ended(world: World) -> None:
    """The writer rightly marks nothing while the epoch is off, and is still running when the next one opens."""
    w, r = world.pair()
    revoke(r)
    w.fence.poll()
    world.clock.skip(2 * LEASE)
    w.fence.poll(), r.fence.poll()
    writer = writing(w).until("write.before_commit")
    r.fence.turn()
    assert r.fence.stands[0].state == 2
    assert read(r) == 0
    assert hit(r) == 0
    writer.until("write.after_commit").crash()
    r.fence.poll()
    assert read(r) == 1
    assert hit(r) == 1


def an_epoch_opens_in_two_transactions(world: World) -> None:
    """The writer gets its id between the opener's and the opener's commit, sees "off" and marks nothing."""
    w, r = world.pair()
    revoke(r)
    world.clock.skip(2 * LEASE)
    w.fence.poll(), r.fence.poll()
    world.clock.skip(1.1 * LEASE)
    w.fence.poll(), r.fence.poll()
    plain = make_url(world.pg_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as holder:
        holder.execute("SELECT 1 FROM datalayer_fence FOR UPDATE")
        opener = Actor(lambda: r.fence.open(0))
        opener.go()
        _wait_for_lock(holder)
        writer = writing(w).until("write.before_commit")
        holder.commit()
    opener.rest()
    r.fence.poll()
    assert r.fence.stands[0].state == 2
    assert read(r) == 0
    writer.until("write.after_commit").crash()
    r.fence.poll()
    assert read(r) == 1


def _wait_for_lock(connection: psycopg.Connection) -> None:
    for _ in range(1000):
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        ).fetchone()
        if row and row[0]:
            return
        threading_wait()
    raise Deviated("nobody waits for the lock")


def a_writer_asks_anew_whether_the_epoch_is_still_off(world: World) -> None:
    w, r = world.pair()
    revoke(r)
    w.fence.poll()
    world.clock.skip(2 * LEASE)
    w.fence.poll(), r.fence.poll()
    r.open()
    assert read(r) == 0
    write(w)
    assert read(r) == 1


def a_reader_whose_lease_is_over_asks_the_database(world: World) -> None:
    """It still talks to the old master, which answers; the writer's side has moved on."""
    pair, w, r, at = _fail_over_pair(world)
    assert read(r) == 0
    pair.fail_over()
    at["w"] = pair.master.port
    world.clock.skip(0.1)
    write(w)
    assert world.clock.value > 1000 + LEASE, "the first writer waits until every lease is over"
    assert read(r) == 1


def a_writer_waits_until_nobody_reads_from_the_old_master(world: World) -> None:
    pair, w, r, at = _fail_over_pair(world)
    assert read(r) == 0
    pair.fail_over()
    at["w"] = pair.master.port
    r.fence.poll()
    write(w)
    assert read(r) == 1


def a_replica_that_missed_the_mark_is_not_believed_when_it_is_the_master(world: World) -> None:
    pair, w, r, at = _fail_over_pair(world)
    assert read(r) == 0
    _in_step(pair)
    pair.freeze_replica()
    write(w)
    assert _holds_value(pair.other, r), "it still has what the writer replaced"
    pair.fail_over()
    at["r"] = pair.master.port
    assert read(r) == 1


def a_master_that_was_demoted_under_an_open_connection_is_not_believed(world: World) -> None:
    pair, w, r, _ = _fail_over_pair(world)
    assert read(r) == 0
    _in_step(pair)
    pair.freeze_replica()
    write(w)
    old = pair.master
    pair.fail_over()
    pair.rejoin()
    _wait(lambda: _holds_value(old, r), "the old master's data are replaced")
    r.fence.poll()
    assert read(r) == 1


def a_replica_of_the_right_lineage_is_not_believed(world: World) -> None:
    pair, w, r, at = _fail_over_pair(world)
    proxy = world.stack.enter_context(TcpProxy(("127.0.0.1", pair.master.port)))
    with pair.other.client() as client:
        ask(client, "REPLICAOF", "127.0.0.1", proxy.port)
    assert read(r) == 0
    _in_step(pair)
    _wait(lambda: _holds_value(pair.other, r), "the replica has the value")
    proxy.hold()
    write(w)
    at["r"] = pair.other.port
    assert read(r) == 1
    proxy.pass_()


def _fail_over_pair(world: World) -> tuple[RedisPair, Process, Process, dict[str, int]]:
    pair = RedisPair()
    world.stack.callback(pair.stop)
    at = {"w": pair.master.port, "r": pair.master.port}
    made = []
    for who in ("w", "r"):
        with patch.object(
            l2,
            "topology_of",
            lambda url, *, timeout, most, who=who: Moving(lambda: at[who], timeout=timeout, most=most),
        ):
            made.append(world.process().open())
    return pair, made[0], made[1], at


def _in_step(pair: RedisPair) -> None:
    def offset(server: Any, field: str) -> Any:
        with server.client() as client:
            return client.info("replication").get(field)

    _wait(
        lambda: (
            offset(pair.other, "master_link_status") == "up"
            and offset(pair.master, "master_repl_offset") <= (offset(pair.other, "slave_repl_offset") or -1)
        ),
        "the replica is in step",
    )


def _holds_value(server: Any, process: Process) -> bool:
    with server.client() as client:
        try:
            return bool(client.exists(process.place.values + "sched_items:1"))
        except Exception:
            return False


def _wait(true: Callable[[], bool], what: str) -> None:
    for _ in range(2000):
        if true():
            return
        threading_wait()
    raise Deviated(f"waited in vain until {what}")


def a_late_begin_of_an_epoch_does_not_bring_back_one_without_its_marks(world: World) -> None:
    """Two openers; the header is lost after the winner's marks; then the loser's INIT is executed."""
    first, second = world.process(), world.process()
    first.fence.poll(), second.fence.poll()
    loser = Actor(lambda: second.fence.open(0)).until("test.init")
    first.open()
    second_reader = world.process().open()
    assert read(second_reader) == 0
    writer = writing(first).until("write.before_commit")
    first.ask("DEL", first.place.header, first.place.values + "sched_items:1")
    loser.finish()
    assert read(second_reader) == 0
    writer.until("write.after_commit").finish()
    first.sync()
    assert read(second_reader) == 1


# -- L1 and the bus --------------------------------------------------------------------------------------------------


def a_read_that_was_overtaken_is_not_kept(world: World) -> None:
    w, r = world.pair()
    reader = Actor(lambda: hit(r)).until("read.before_l1_put")
    write(w)
    r.hear()
    assert reader.finish() == 0
    r.beat()
    assert hit(r) == 1


def what_was_not_heard_in_time_is_not_served(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    assert hit(r) == 0
    write(w)
    r.received()
    world.clock.skip(1.01 * L1_LEASE)
    assert hit(r) == 1


def a_message_that_was_lost_is_missed_at_the_next_heartbeat(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    write(w)
    r.received()
    world.clock.skip(0.9 * L1_LEASE)
    r.beat()
    world.clock.skip(0.5 * L1_LEASE)
    assert r.authority.horizon[0] > world.clock.value
    assert hit(r) == 1


def a_message_that_was_lost_and_followed_by_others_is_missed_too(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    write(w)
    r.received()
    for _ in range(3):
        write(w, 2)
    r.beat()
    world.clock.skip(0.5 * L1_LEASE)
    assert hit(r) == 1


def a_late_heartbeat_vouches_for_the_time_it_was_sent(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    r.bus.beat()
    (late,) = [m for m in r.received() if m.kind == "hb"]
    write(w)
    world.clock.skip(1.5 * L1_LEASE)
    r.hear([late])
    assert hit(r) == 1


def messages_twice_and_in_another_order_do_no_harm(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    write(w), write(w), write(w, 2)
    heard = r.received()
    r.hear([*reversed(heard), *heard])
    r.beat()
    assert hit(r) == 2
    assert r.authority.horizon[0] > world.clock.value


def a_read_that_may_not_be_kept_takes_the_older_one_away(world: World) -> None:
    """A strict read has seen the new row; the bus is late; the process may not go back to the old one."""
    w, r = world.pair()
    reader = Actor(lambda: read(r)).until("read.after_lease_check")
    assert hit(r) == 0
    write(w)
    assert reader.finish() == 1
    assert hit(r) == 1


def a_read_that_met_a_mark_takes_the_older_one_away(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    writing(w).until("write.after_commit").crash()
    assert read(r) == 1
    assert hit(r) == 1


def a_batch_that_met_a_mark_takes_the_older_ones_away(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    writing(w).until("write.after_commit").crash()
    assert r.layer.repository(Item).get_many([1, 2], consistency="shared")[1].n == 1
    assert hit(r) == 1


def a_batch_that_may_not_be_kept_takes_the_older_ones_away(world: World) -> None:
    w, r = world.pair()
    batch = Actor(lambda: r.layer.repository(Item).get_many([1, 2], consistency="shared")[1].n).until("test.many")
    assert hit(r) == 0
    write(w)
    assert batch.finish() == 1
    assert hit(r) == 1


def a_slow_read_does_not_come_back_after_a_batch_has_seen_more(world: World) -> None:
    w, r = world.pair()
    assert read(w) == 0
    slow = Actor(lambda: hit(r)).until("read.after_get")
    writing(w).until("write.after_commit").crash()
    assert r.layer.repository(Item).get_many([1, 2])[1].n == 1
    assert slow.finish() == 0
    assert hit(r) == 1


def a_read_that_redis_did_not_answer_is_not_followed_by_an_older_one(world: World) -> None:
    """Another thread's read, begun while the first one is about to ask the database, may not be kept after it."""
    w, r = world.pair()
    assert hit(r, 2) == 0
    r.layer.caches.ladders()[0].flights._patience = 0.01  # type: ignore[attr-defined]
    first = Actor(lambda: read(r), cut_off=True).until("test.loading")
    other = Actor(lambda: hit(r)).until("read.before_l1_put")
    write(w)
    assert first.finish() == 1
    assert other.finish() == 0
    assert hit(r) == 1


def a_batch_that_redis_did_not_answer_is_not_followed_by_an_older_row(world: World) -> None:
    w, r = world.pair()
    first = Actor(lambda: r.layer.repository(Item).get_many([1, 2])[1].n, cut_off=True).until("test.loading")
    other = Actor(lambda: hit(r)).until("read.before_l1_put")
    write(w)
    assert first.finish() == 1
    assert other.finish() == 0
    assert hit(r) == 1


def a_read_beside_a_commit_of_its_own_process_is_not_followed_by_an_older_one(world: World) -> None:
    """It passes by the caches because of the mark; when it comes to its row the mark is gone, and more has happened."""
    w, r = world.pair()
    own = bulk(r).until("write.before_commit")
    first = Actor(lambda: hit(r)).until("test.loading")
    own.finish()
    r.sync()
    other = Actor(lambda: hit(r)).until("read.before_l1_put")
    write(w)
    assert first.finish() == 2
    assert other.finish() == 1
    assert hit(r) == 2


def _overtaken_writer(world: World, look: Callable[[Process], int]) -> None:
    w, r = world.pair()
    writer = writing(r).until("write.after_commit")
    write(w)
    assert look(r) == 2
    writer.finish()
    r.sync()
    assert hit(r) == 2


def a_read_that_saw_more_than_its_process_commits_is_not_followed_by_that(world: World) -> None:
    """The writer would leave its row in memory, but another process has written since, which is not heard yet."""
    _overtaken_writer(world, hit)


def a_batch_that_saw_more_than_its_process_commits_is_not_followed_by_that(world: World) -> None:
    _overtaken_writer(world, lambda process: process.layer.repository(Item).get_many([1])[1].n)


def a_process_reads_what_it_has_written(world: World) -> None:
    w, _ = world.pair()
    assert hit(w) == 0
    bulk(w).until("write.before_commit").finish()
    assert hit(w) == 1
    write(w)
    assert hit(w) == 2


def _bring_back(world: World, insert: Any) -> None:
    """A process inserts a row that it still holds in memory: it has not heard yet that another one has deleted it."""
    w, r = world.pair()
    assert hit(r) == 0
    with w.layer.engine.begin() as connection:
        connection.execute(I.delete().where(I.c.id == 1))
    w.sync()
    with r.layer.engine.begin() as connection:
        connection.execute(insert)
    r.sync()
    assert hit(r) == 7


def a_process_reads_the_row_that_it_has_brought_back(world: World) -> None:
    _bring_back(world, I.insert().values(id=1, n=7, tag="t1"))


def a_process_reads_rows_that_it_has_brought_back_by_the_batch(world: World) -> None:
    _bring_back(
        world, I.insert().from_select(["id", "n", "tag"], sa.select(sa.literal(1), sa.literal(7), sa.literal("t1")))
    )


def a_reader_of_the_writer_s_process_keeps_nothing_while_it_commits(world: World) -> None:
    w, _ = world.pair()
    writer = writing(w).until("write.before_commit")
    assert hit(w) == 0
    writer.finish()
    assert hit(w) == 1


def what_was_kept_in_an_epoch_ends_with_it(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    revoke(w)
    world.clock.skip(1.2 * LEASE)
    w.fence.poll()
    world.clock.skip(1.2 * LEASE)
    w.open()
    r.bus._ears[0].until = world.clock.value + L1_LEASE  # its last heartbeat was sent just before
    r.fence.poll()
    r.authority.bus.reckon()
    write(w)
    assert hit(r) == 1


def a_writer_of_reference_rows_waits_until_no_memory_serves_them(world: World) -> None:
    w, r = world.pair()
    assert read(r, model=Reference) == 0
    assert hit(r, model=Reference) == 0
    began = world.clock.value
    write(w, model=Reference)
    assert world.clock.value >= began + L1_LEASE
    r.received()
    assert read(r, model=Reference) == 1


def a_causal_token_is_honoured_before_its_message_is_heard(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    with w.layer.session() as session:
        session.get_one(Item, 1).n = 1
        session.commit()
        token = session.causal_token
    w.sync()
    lost = r.received()
    assert hit(r) == 0, "bounded staleness, without the token"
    with r.layer.after(token):
        assert read(r, None) == 1
    r.hear(lost)
    with r.layer.after(token):
        assert read(r, None) == 1


def a_bus_that_recovers_in_the_middle_of_a_hit_does_not_vouch_for_it(world: World) -> None:
    """The entry is found while the bus is dead; before the horizon is looked at the bus is back."""
    w, r = world.pair()
    assert hit(r) == 0
    write(w)
    r.received()
    world.clock.skip(3 * L1_LEASE)
    r.fence.poll()
    assert r.authority.horizon[0] < world.clock.value
    world.clock.hook = r.beat
    assert hit(r) == 1
    write(w)
    r.received()
    world.clock.skip(3 * L1_LEASE)
    r.fence.poll()
    world.clock.hook = r.beat
    assert r.layer.repository(Item).get_many([1])[1].n == 2


def a_batch_is_held_to_the_same(world: World) -> None:
    w, r = world.pair()
    assert hit(r) == 0
    write(w)
    world.clock.skip(3 * L1_LEASE)
    r.fence.poll()
    assert r.layer.repository(Item).get_many([1])[1].n == 1


def a_snapshot_is_held_to_the_same(world: World) -> None:
    w, r = world.pair()
    things = r.layer.repository(Item)
    things.get_snapshot(1), things.get_snapshot(1)
    write(w)
    r.received()
    world.clock.skip(3 * L1_LEASE)
    r.fence.poll()
    world.clock.hook = r.beat
    assert things.get_snapshot(1).n == 1  # type: ignore[union-attr]


def a_row_found_by_a_unique_value_is_kept_for_a_lease_at_most(world: World) -> None:
    """It was read beside the shared tier: nobody has looked whether its writer is committing."""
    w, r = world.pair()
    writer = writing(w).until("write.before_commit")
    r.hear()
    with r.layer.session() as session:
        assert session.scalars(sa.select(Item).where(Item.tag == "t1")).one().n == 0
    writer.finish()
    w.sync()
    world.clock.skip(1.5 * L1_LEASE)
    r.fence.poll()
    r.beat()
    assert hit(r) == 1


def a_reference_row_found_by_a_unique_value_is_not_kept(world: World) -> None:
    """Its writer waits for what was kept before the mark, not for what is read while it waits."""
    w, r = world.pair()
    writer = writing(w, model=Reference).until("write.after_mark")
    r.hear()
    world.clock.skip(0.5 * L1_LEASE)
    r.beat()
    with r.layer.session() as session:
        assert session.scalars(sa.select(Reference).where(Reference.tag == "t1")).one().n == 0
    world.clock.skip(0.3 * L1_LEASE)
    r.beat()
    w.authority.sleep = lambda seconds: world.clock.skip(seconds - 0.8 * L1_LEASE)  # it sleeps since its mark
    writer.finish()
    w.sync()
    assert read(r, model=Reference) == 1


def a_strict_read_of_a_row_that_redis_does_not_keep_takes_nobody_else_s(world: World) -> None:
    w, r = world.pair()
    leader = Actor(lambda: hit(r, model=Local)).until("read.before_l1_put")
    write(w, model=Local)
    follower = Actor(lambda: read(r, model=Local))
    follower.go()
    _wait(lambda: r.layer.caches.ladders() and any(x.flights.followed for x in r.layer.caches.ladders()), "it follows")
    assert leader.finish() == 0
    assert follower.rest() == 1


def a_row_that_is_only_kept_in_the_process_is_kept_for_a_lease_at_most(world: World) -> None:
    w, r = world.pair()
    writer = writing(w, model=Local).until("write.before_commit")
    r.hear()
    assert hit(r, model=Local) == 0
    writer.finish()
    w.sync()
    world.clock.skip(1.5 * L1_LEASE)
    r.fence.poll()
    r.beat()
    assert hit(r, model=Local) == 1


def a_row_that_is_not_kept_in_the_process_is_read_from_redis(world: World) -> None:
    w, r = world.pair()
    assert hit(r, model=Remote) == 0
    write(w, model=Remote)
    assert hit(r, model=Remote) == 1


# -- cached queries --------------------------------------------------------------------------------------------------


def search(process: Process, level: Any = "shared") -> list[int]:
    found = process.layer.repository(Item).search_cached(sa.select(Item).where(Item.n > 0), consistency=level)
    process.sync()
    return sorted(row.id for row in found)


def a_list_that_is_read_while_a_writer_commits_is_not_kept(world: World) -> None:
    w, r = world.pair()
    writer = writing(w).until("write.before_commit")
    assert search(r) == []
    writer.finish()
    w.sync()
    assert search(r) == [1]


def a_list_that_was_read_before_the_mark_is_not_believed(world: World) -> None:
    w, r = world.pair()
    assert search(r) == []
    writing(w).until("write.after_commit").crash()
    assert search(r) == [1]


def a_list_is_not_kept_before_older_transactions_have_ended(world: World) -> None:
    w, r = world.pair()
    revoke(r)
    w.fence.poll()
    world.clock.skip(2 * LEASE)
    w.fence.poll(), r.fence.poll()
    writer = writing(w).until("write.before_commit")
    r.fence.turn()
    r.beat()
    assert search(r, "cached") == []
    assert search(r, "shared") == []
    writer.until("write.after_commit").crash()
    world.clock.skip(0.6 * L1_LEASE)
    r.beat()
    world.clock.skip(0.6 * L1_LEASE)
    assert r.authority.horizon[0] > world.clock.value
    assert search(r, "cached") == [1]


# -- mutants ---------------------------------------------------------------------------------------------------------

Mutant = Callable[[], AbstractContextManager[Any]]


def method(owner: Any, name: str, replacement: Any) -> Mutant:
    return lambda: patch.object(owner, name, replacement)


def script(name: str, *changes: tuple[str, str]) -> Mutant:
    return lambda: other_script(name, *changes)


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> Mutant:
    """``wrapper(original, self, *arguments)`` in place of a method."""

    def mutated() -> AbstractContextManager[Any]:
        original = getattr(owner, name)

        def replaced(self: Any, *arguments: Any, **named: Any) -> Any:
            return wrapper(original, self, *arguments, **named)

        return patch.object(owner, name, replaced)

    return mutated


def both(*mutants: Mutant) -> Mutant:
    @contextmanager
    def combined() -> Iterator[None]:
        with ExitStack() as stack:
            for mutant in mutants:
                stack.enter_context(mutant())
            yield

    return combined


def _proved_in_two_statements(original: Any, self: DriverReader, key: Any, xids: Any) -> Any:
    pass_by("test.proving")
    row = self.one(key)
    pass_by("test.between")
    ended, _ = original(self, key, xids)
    return ended, row


def _proved(original: Any, self: DriverReader, key: Any, xids: Any) -> Any:
    pass_by("test.proving")
    return original(self, key, xids)


def _resolve(original: Any, self: RedisTier, *arguments: Any) -> Any:
    pass_by("test.resolving")
    return original(self, *arguments)


def _get_many(original: Any, self: Any, *arguments: Any) -> Any:
    pass_by("test.many")
    return original(self, *arguments)


def _load(original: Any, self: Any, *arguments: Any) -> Any:
    pass_by("test.loading")
    return original(self, *arguments)


def _answer(nothing: Any) -> Callable[..., Any]:
    """The shared tier, as an actor sees it who is cut off from Redis."""
    return lambda original, self, *arguments: nothing if cut_off() else original(self, *arguments)


def _init(original: Any, self: Any, *arguments: Any) -> Any:
    pass_by("test.init")
    return original(self, *arguments)


#: Points of the test's own, where the library has none.
SEAMS: dict[Callable[[World], None], Mutant] = {
    the_row_and_the_proof_are_of_one_snapshot: around(DriverReader, "proved", _proved),
    a_record_is_resolved_only_if_it_is_the_one_that_was_proved: around(RedisTier, "resolve", _resolve),
    a_batch_that_may_not_be_kept_takes_the_older_ones_away: around(RedisTier, "get_many", _get_many),
    a_read_that_redis_did_not_answer_is_not_followed_by_an_older_one: both(
        around(RedisTier, "lease", _answer(None)), around(DriverReader, "one", _load)
    ),
    a_read_beside_a_commit_of_its_own_process_is_not_followed_by_an_older_one: around(DriverReader, "one", _load),
    a_batch_that_redis_did_not_answer_is_not_followed_by_an_older_row: both(
        around(RedisTier, "lease_many", _answer({})), around(DriverReader, "many", _load)
    ),
    a_late_begin_of_an_epoch_does_not_bring_back_one_without_its_marks: around(l2.RedisBackplane, "init", _init),
}

NO_MARK = script("MARK", ("redis.call('HSET', KEYS[1], 'm:' .. name, c .. rest)", ""))
NO_INVALIDATION = script(
    "MARK",
    ("redis.call('HSET', KEYS[1], 'm:' .. name, c .. rest)", ""),
    ("if v ~= '' and v ~= 'O' then", "if v == 'x' then"),
)
NOT_FINISHED = method(Guard, "finished", lambda self, key: None)
LIKE_ANY_OTHER = method(Near, "until_beside", lambda self, began: inf)
BLIND = method(Guard, "_valid", lambda self, key, ticket, absent: True)


def _settled(original: Any, self: Ledger, shards: int) -> Any:
    return [line._replace(settled=True) for line in original(self, shards)]


def _opened_at_once(original: Any, self: Ledger, shard: int, old: str, new: str, lineage: str) -> bool:
    number, nonce = new.split(".")
    return self._change(
        "UPDATE datalayer_fence SET st = 2, epoch = %s, nonce = %s, lineage = %s, theta = pg_current_xact_id() "
        "WHERE shard = %s AND epoch || '.' || nonce = %s AND st = 0",
        (int(number), nonce, lineage, shard, old),
    )


def _theta_of_a_snapshot(original: Any, self: Ledger, shard: int, epoch: str) -> bool:
    return self._change(
        "UPDATE datalayer_fence SET st = 2, theta = pg_snapshot_xmax(pg_current_snapshot()) "
        "WHERE shard = %s AND epoch || '.' || nonce = %s AND st = 1",
        (shard, epoch),
    )


def _never_polls(original: Any, self: Marker, todo: Any, act: Any) -> Any:
    for shard in list(todo):
        stand = self._fence.live(shard) or self._fence.stands[shard]
        if stand.state == 0:
            todo.discard(shard)
    return original(self, todo, act) if todo else None


def _eternal(original: Any, self: Fence, line: Any, sent: float) -> Any:
    return original(self, line, sent + 1e9)


def _any_lineage(original: Any, self: Any, place: Any, data: bytes, count: int, **how: Any) -> Any:
    """As if the reader did not look who the server is."""
    replies = original(self, place, data, count, **how)
    if count > 1 and replies and isinstance(replies[-1], bytes) and b"role:" in replies[-1]:
        replies[-1] = b"role:master " + b" ".join(stand.probe for stand in _stands)
    return replies


_stands: list[Any] = []


def _remember_stand(original: Any, self: Fence, line: Any, sent: float) -> Any:
    result = original(self, line, sent)
    _stands[:] = [*_stands[-20:], self.stands[line.shard]]
    return result


ANY_LINEAGE = both(around(l2.Wire, "ask", _any_lineage), around(Fence, "_take", _remember_stand))


def _any_role(original: Any, self: Any, place: Any, data: bytes, count: int, **how: Any) -> Any:
    replies = original(self, place, data, count, **how)
    if replies and isinstance(replies[-1], bytes):
        replies[-1] = replies[-1].replace(b"role:slave", b"role:master")
    return replies


def _without_drop(original: Any, self: Guard, change: Change) -> None:
    self._changes += 1


def _reborn_are_born(original: Any, self: Guard, change: Change) -> None:
    original(self, replace(change, reborn=False))


def _put_keeps(original: Any, self: Guard, key: Any, ticket: Any, value: Any, **how: Any) -> bool:
    with self._lock:
        if self._valid(key, ticket, False):
            return bool(original(self, key, ticket, value, **how))
    return False


def _put_many_keeps(original: Any, self: Guard, tickets: Any, puts: Any, until: float = inf) -> None:
    good = [put for put in puts if self._stripes[hash(put[0]) % 1024] == tickets.stripes[hash(put[0]) % 1024]]
    original(self, tickets, good, until)


def _look_first(original: Any, self: Near, schema: Any, keys: Any) -> Any:
    entry = self.l1.index.get(keys[0][0])
    now = self.l1.clock()
    if entry is None or entry.deadline <= now or self.horizon[0] <= now:
        return {}, keys
    return {keys[0]: self.served(schema, entry)}, []


def _lasting(original: Any, self: Near, schema: Any, keys: Any) -> Any:
    horizon, self.horizon = self.horizon, [inf]
    try:
        return original(self, schema, keys)
    finally:
        self.horizon = horizon


def _alone_looks(original: Any, self: Ladder, quest: Any) -> Any:
    if quest.name in self.flights._leaders:  # type: ignore[attr-defined]
        self.flights.lead(quest.name)
        if (found := self.near.look(quest.schema, quest.key)) is not None:
            return found
    return original(self, quest)


def _no_gap(original: Any, self: Bus, message: Any, nonce: str) -> None:
    self._ears[message.shard].epoch = message.epoch
    self._ears[message.shard].last = message.sequence
    original(self, message, nonce)


def _counts_only(original: Any, self: Bus, message: Any) -> None:
    """Any message counts as the next one."""
    original(self, message)
    self._ears[message.shard].last = message.sequence


def _sent_when_it_came(original: Any, self: Bus, message: Any, nonce: str) -> None:
    if nonce in self._sent:
        self._sent[nonce] = self._authority.clock()
    original(self, message, nonce)


def _any_epoch(original: Any, self: Bus, ear: Any, stand: Any) -> float:
    return float(min(ear.until, stand.until))


def _unpatient(original: Any, self: Strict, names: Any, connection: Any, *, patient: bool, **more: Any) -> Any:
    return original(self, names, connection, patient=False, **more)


def _lifts_all(original: Any, self: Marker, announced: Any, outcome: Outcome) -> None:
    original(self, announced, Outcome.ROLLED_BACK)


def _ends_well(original: Any, self: Coherence, marks: Any, outcome: Outcome) -> None:
    original(self, marks, Outcome.COMMITTED if outcome is Outcome.UNKNOWN else outcome)


def _ignores_refusals(original: Any, self: WriteTracker, context: Any) -> None:
    if context.is_disconnect:
        original(self, context)


def _all_ended(original: Any, self: Ledger, xids: Any) -> dict[str, bool]:
    return dict.fromkeys(xids, True)


def _frame_without_marks(original: Any, self: RedisTier, place: Any, stand: Any, header: Any) -> Any:
    epoch, generation, _, births, newborn = header
    return original(self, place, stand, (epoch, generation, None, births, newborn))


def _any_generation(prefix: bytes, _: bytes) -> Any:
    return re.compile(re.escape(prefix) + rb"[^|.]*\.(\d+)\|[^|]*\|").match


def _believes_any_birth(value: bytes, frame: Any) -> Any:
    start, _, now = frame
    parts = value.split(b"|", 3)
    births = parts[3][1:] if len(parts) == 4 and parts[3][:1] == b"N" else b"-"
    return _BELIEVED(value, (start, births, now))


_BELIEVED = l2.tier._believed


class _Always:
    def __get__(self, *_: Any) -> bool:
        return True


PLAYED: dict[Callable[[World], None], dict[str, Mutant]] = {
    a_reader_between_mark_and_commit_fills_nothing: {
        "MARK leaves no mark": NO_MARK,
        "marks end while their writer waits": both(
            script("LEASE", ("if h[1] then return", "if h[1] and false then return")),
            script("FILL", ("if redis.call('HEXISTS', KEYS[1], 'm:' .. name) == 1 then return 0 end", "")),
        ),
    },
    a_fill_that_was_read_before_the_mark_comes_too_late: {
        "FILL asks for no token": script(
            "FILL", ("if not v then return 0 end", "v = v or ''"), ("if v ~= expect then return 0 end", "")
        ),
        "MARK leaves the token": script("MARK", ("if v ~= '' and v ~= 'O' then", "if v == 'V' then")),
    },
    a_writer_that_died_after_its_commit_leaves_marks_that_its_readers_resolve: {
        "MARK leaves the value and no mark": NO_INVALIDATION,
        "nobody proves anything": around(DriverReader, "proved", lambda f, self, key, xids: (False, self.one(key))),
    },
    the_row_and_the_proof_are_of_one_snapshot: {
        "row first, then the writer's fate": around(DriverReader, "proved", _proved_in_two_statements),
    },
    a_record_is_resolved_only_if_it_is_the_one_that_was_proved: {
        "RESOLVE compares nothing": script(
            "RESOLVE", ("or string.sub(m, 1, string.find(m, '|', 1, true) - 1) ~= ARGV[4]", "")
        ),
    },
    two_writers_of_one_name_are_two_marks: {
        "the last mark replaces the others": script("MARK", ("c .. rest)", "c .. me)")),
    },
    a_late_writer_does_not_leave_its_row_over_a_newer_one: {
        "DONE compares no counter": script("DONE", ("before == ARGV[4] and", "before and")),
    },
    a_transaction_that_has_written_caches_nothing_of_its_own: {
        "it reads through the tiers": method(reads, "_clean", lambda session, connection: True),
    },
    a_transaction_with_an_old_snapshot_fills_nothing: {
        "isolation is not asked for": method(reads, "_UNSAFE_OPTIONS", ()),
    },
    a_commit_whose_outcome_is_unknown_keeps_its_marks: {
        "marks are lifted in every case": around(Marker, "lift", _lifts_all),
    },
    a_commit_whose_outcome_is_unknown_leaves_no_row: {
        "what has ended has committed": around(Coherence, "_end", _ends_well),
    },
    a_commit_that_is_refused_leaves_no_row: {
        "whoever tried to commit has committed": around(WriteTracker, "_error", _ignores_refusals),
    },
    a_mark_is_swept_away_only_when_its_writer_has_ended: {
        "the sweeper does not ask": around(Ledger, "ended", _all_ended),
    },
    a_bulk_write_that_names_no_rows_is_marked_as_a_whole: {
        "a hit does not look at the space's marks": around(RedisTier, "_frame", _frame_without_marks),
    },
    values_of_before_a_bulk_write_are_not_believed_after_it: {
        "a hit does not compare generations": method(l2.tier, "_start", _any_generation),
        "removing a tag's mark does not move its generation": script(
            "DONE", ("redis.call('HSET', KEYS[1], 'n:' .. ARGV[i], redis.call('HINCRBY', KEYS[1], 'f', 1))", "")
        ),
    },
    a_row_that_is_born_is_not_said_to_be_missing: {
        "a hit does not compare births": method(l2.tier, "_believed", _believes_any_birth),
    },
    nothing_is_filled_before_older_transactions_have_ended: {
        "every epoch counts as settled": around(Ledger, "read", _settled),
    },
    an_epoch_opens_in_two_transactions: {
        "begin and open are one transaction": around(Ledger, "begin", _opened_at_once),
        "theta is a snapshot's xmax": around(Ledger, "open", _theta_of_a_snapshot),
    },
    a_writer_asks_anew_whether_the_epoch_is_still_off: {
        "the old answer will do": around(Marker, "_everywhere", _never_polls),
    },
    a_reader_whose_lease_is_over_asks_the_database: {
        "leases do not end": around(Fence, "_take", _eternal),
    },
    a_writer_waits_until_nobody_reads_from_the_old_master: {
        "nobody waits": method(Fence, "waited", lambda self, shard, epoch: True),
    },
    a_replica_that_missed_the_mark_is_not_believed_when_it_is_the_master: {
        "a hit does not look at the lineage": ANY_LINEAGE,
    },
    a_master_that_was_demoted_under_an_open_connection_is_not_believed: {
        "a hit does not look who answers": ANY_LINEAGE,
    },
    a_replica_of_the_right_lineage_is_not_believed: {
        "a hit looks at the lineage, not at the role": around(l2.Wire, "ask", _any_role),
    },
    a_late_begin_of_an_epoch_does_not_bring_back_one_without_its_marks: {
        "epochs have numbers only": method(fence_module.secrets, "token_hex", lambda size=8: "00"),
    },
    a_read_that_was_overtaken_is_not_kept: {"tickets are not checked": BLIND},
    what_was_not_heard_in_time_is_not_served: {
        "L1 is served without news": around(Bus, "_until", lambda f, self, ear, stand: 1e12),
    },
    a_message_that_was_lost_is_missed_at_the_next_heartbeat: {
        "a gap is not noticed": around(Bus, "_own_beat", _no_gap),
        "a gap drops nothing": around(Guard, "drop_all", lambda f, self: None),
    },
    a_message_that_was_lost_and_followed_by_others_is_missed_too: {
        "messages need not be in sequence": around(Bus, "_invalidated", _counts_only),
    },
    a_late_heartbeat_vouches_for_the_time_it_was_sent: {
        "it vouches for the time it came": around(Bus, "_own_beat", _sent_when_it_came),
    },
    messages_twice_and_in_another_order_do_no_harm: {
        "messages are not heard, gaps are not noticed": both(
            around(Bus, "_invalidated", lambda f, self, message: None), around(Bus, "_own_beat", _no_gap)
        ),
    },
    a_read_that_may_not_be_kept_takes_the_older_one_away: {
        "a refused put leaves what is there": around(Guard, "put", _put_keeps),
    },
    a_read_that_met_a_mark_takes_the_older_one_away: {
        "it leaves what is there": around(Guard, "finished", lambda f, self, key: None),
    },
    a_read_that_redis_did_not_answer_is_not_followed_by_an_older_one: {"it takes nothing away": NOT_FINISHED},
    a_batch_that_redis_did_not_answer_is_not_followed_by_an_older_row: {"it takes nothing away": NOT_FINISHED},
    a_read_beside_a_commit_of_its_own_process_is_not_followed_by_an_older_one: {"it takes nothing away": NOT_FINISHED},
    a_read_that_saw_more_than_its_process_commits_is_not_followed_by_that: {"it takes nothing away": NOT_FINISHED},
    a_batch_that_saw_more_than_its_process_commits_is_not_followed_by_that: {"it takes nothing away": NOT_FINISHED},
    a_process_reads_what_it_has_written: {"own writes drop nothing": around(Guard, "_drop", _without_drop)},
    a_process_reads_the_row_that_it_has_brought_back: {
        "an INSERT changes no row that exists": method(classify, "_given", lambda *_: (None, False)),
    },
    a_process_reads_rows_that_it_has_brought_back_by_the_batch: {
        "rows that are born anew drop nothing": around(Guard, "_drop", _reborn_are_born),
    },
    a_reader_of_the_writer_s_process_keeps_nothing_while_it_commits: {
        "no mark in the process, none in Redis": both(
            NO_MARK,
            around(Guard, "begin", lambda f, self, change: None),
            around(Guard, "end", lambda f, self, *rest: None),
        ),
    },
    what_was_kept_in_an_epoch_ends_with_it: {"ears of another epoch count": around(Bus, "_until", _any_epoch)},
    a_writer_of_reference_rows_waits_until_no_memory_serves_them: {
        "the writer does not wait": around(Strict, "announce", _unpatient),
    },
    a_causal_token_is_honoured_before_its_message_is_heard: {
        "every token counts as heard": around(Strict, "caught_up", lambda f, self, token: True),
    },
    a_list_that_is_read_while_a_writer_commits_is_not_kept: {"MARK leaves no mark": NO_MARK},
    a_list_that_was_read_before_the_mark_is_not_believed: {"MARK leaves no mark": NO_MARK},
    a_list_is_not_kept_before_older_transactions_have_ended: {
        "every epoch counts as settled": around(Ledger, "read", _settled),
    },
    a_batch_that_met_a_mark_takes_the_older_ones_away: {"it leaves what is there": NOT_FINISHED},
    a_batch_that_may_not_be_kept_takes_the_older_ones_away: {
        "what is refused leaves what is there": around(Guard, "put_many", _put_many_keeps),
    },
    a_slow_read_does_not_come_back_after_a_batch_has_seen_more: {"tickets are not taken away": NOT_FINISHED},
    a_bus_that_recovers_in_the_middle_of_a_hit_does_not_vouch_for_it: {
        "the entry first, then the horizon": around(Near, "look_many", _look_first),
    },
    a_snapshot_is_held_to_the_same: {},
    a_batch_is_held_to_the_same: {"a batch looks at no horizon": around(Near, "look_many", _lasting)},
    a_row_found_by_a_unique_value_is_kept_for_a_lease_at_most: {"it is kept like any other": LIKE_ANY_OTHER},
    a_reference_row_found_by_a_unique_value_is_not_kept: {
        "it is kept for a lease": around(Near, "until_beside", lambda f, self, began: began + L1_LEASE),
    },
    a_row_that_is_only_kept_in_the_process_is_kept_for_a_lease_at_most: {"it is kept like any other": LIKE_ANY_OTHER},
    a_strict_read_of_a_row_that_redis_does_not_keep_takes_nobody_else_s: {
        "the leader's row will do": around(Ladder, "_alone", _alone_looks),
    },
    a_row_that_is_not_kept_in_the_process_is_read_from_redis: {"MARK leaves the value and no mark": NO_INVALIDATION},
}


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PrivatePostgres]:
    """Of this module alone: when an epoch is settled depends on every transaction of a server, other tests' too."""
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture
def world(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[World]:
    with world_on(pg_url, redis_url, key_prefix) as world:
        yield world


@contextmanager
def world_on(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[World]:
    with points():
        world = World(pg_url, redis_url, key_prefix)
        try:
            yield world
        finally:
            world.close()


def play(schedule: Callable[[World], None], world: World) -> None:
    _stands.clear()
    with SEAMS[schedule]() if schedule in SEAMS else ExitStack():
        schedule(world)


@pytest.mark.parametrize("schedule", PLAYED, ids=lambda schedule: schedule.__name__)
def test_the_protocol_survives(schedule: Callable[[World], None], world: World) -> None:
    play(schedule, world)


@pytest.mark.parametrize(
    ("schedule", "mutant"),
    [(schedule, name) for schedule, mutants in PLAYED.items() for name in mutants],
    ids=lambda item: item if isinstance(item, str) else item.__name__,
)
def test_the_weaker_variant_does_not(
    schedule: Callable[[World], None], mutant: str, postgres_server: PrivatePostgres, redis_url: str
) -> None:
    def failure() -> AssertionError | None:
        url = postgres_server.create_database(f"weaker_{secrets.token_hex(6)}")
        try:
            with world_on(url, redis_url, secrets.token_hex(6)) as world, PLAYED[schedule][mutant]():
                play(schedule, world)
        except AssertionError as found:
            return found
        return None

    # A read that a slow machine sends past Redis is right by accident.
    found = next(filter(None, (failure() for _ in range(8))), None)
    assert found is not None, "the weaker variant came through"
    assert not isinstance(found, Deviated), f"the schedule was not played: {found}"


def test_an_actor_that_is_left_behind_runs_no_further(world: World) -> None:
    w, r = world.pair()
    actor = writing(w).until("write.before_commit")
    actor.crash()
    with pytest.raises(Crashed):
        actor.finish()
    assert read(r) == 0

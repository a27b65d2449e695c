"""Transactions that commit by themselves: what they promise, when they are run again, how they fail."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from writing import Account

from datalayer import (
    ConfigError,
    DataLayer,
    DataLayerError,
    L3UnavailableError,
    PoolTimeout,
    Session,
    TransactionFailed,
    TransactionTimeout,
)
from datalayer.session.transactions import Begin, Pauses, Terms
from datalayer.testing.counting import Statements


def account(layer: DataLayer, id: int = 1, balance: int = 100) -> None:
    layer.repository(Account).set(Account(id=id, owner="ann", balance=balance))


def balance(layer: DataLayer, id: int = 1) -> int:
    """What everybody agrees on: this process's cache and the database."""
    (found,) = {layer.repository(Account).get_one(id, consistency=level).balance for level in ("cached", "database")}
    return found


def test_a_block_commits_and_its_instances_stay_loaded(layer: DataLayer) -> None:
    account(layer)
    with layer.begin() as session:
        found = session.get_one(Account, 1)
        found.balance = 7
    assert (found.balance, found.owner, balance(layer)) == (7, "ann", 7)


def test_a_block_that_raises_changes_nothing(layer: DataLayer) -> None:
    account(layer)
    with pytest.raises(RuntimeError), layer.begin() as session:  # noqa: PT012  # the block fails as a whole
        session.get_one(Account, 1).balance = 7
        session.flush()
        raise RuntimeError
    assert balance(layer) == 100


def test_a_savepoint_takes_back_its_own_part_only(layer: DataLayer) -> None:
    account(layer)
    account(layer, 2)
    with layer.begin() as session:
        session.get_one(Account, 1).balance = 7
        with pytest.raises(RuntimeError), session.begin_nested():  # noqa: PT012  # the block fails as a whole
            session.get_one(Account, 2).balance = 8
            session.flush()
            raise RuntimeError
        assert session.get_one(Account, 2).balance == 100
    assert (balance(layer), balance(layer, 2)) == (7, 100)


def test_a_block_may_roll_back_by_itself(layer: DataLayer) -> None:
    account(layer)
    with layer.begin() as session:
        session.get_one(Account, 1).balance = 7
        session.rollback()
    assert balance(layer) == 100


@pytest.mark.parametrize(
    "write",
    [
        lambda s: setattr(s.get_one(Account, 1), "balance", 7),
        lambda s: s.execute(sa.update(Account).values(balance=7)),
        lambda s: s.execute(sa.text("UPDATE w_accounts SET balance = 7")),
        lambda s: s.connection().exec_driver_sql("UPDATE w_accounts SET balance = 7"),
        lambda s: s.execute(sa.text("CREATE TABLE w_more (id int)")),
    ],
    ids=["unit of work", "bulk", "text", "driver sql", "ddl"],
)
def test_a_read_only_transaction_reads_and_refuses_every_write(
    layer: DataLayer, write: Callable[[Session], object]
) -> None:
    account(layer)
    with layer.begin(read_only=True) as session:
        assert session.get_one(Account, 1).balance == 100
        assert session.scalar(sa.select(sa.func.count()).select_from(Account)) == 1
        assert session.scalar(sa.text("SELECT 1")) == 1
    with pytest.raises(TransactionFailed, match="only read") as failure, layer.begin(read_only=True) as session:  # noqa: PT012  # the block fails as a whole
        write(session)
        session.flush()
    assert not failure.value.retryable
    with layer.begin() as session:  # the connection has not stayed read-only
        session.get_one(Account, 1).balance = 8
    assert balance(layer) == 8


def test_the_isolation_of_a_block_is_the_one_that_was_asked_for(pg: DataLayer) -> None:
    with pg.begin(isolation="serializable", read_only=True) as session:
        assert session.scalar(sa.text("SHOW transaction_isolation")) == "serializable"
        assert session.scalar(sa.text("SHOW transaction_read_only")) == "on"
    with pg.begin() as session:
        assert session.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
        assert session.scalar(sa.text("SHOW transaction_read_only")) == "off"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": "SERIALISABLE"}, "did you mean 'SERIALIZABLE'"),
        ({"timeout": "5 parsecs"}, "timeout: found '5 parsecs'"),
        ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries: found -1"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(layer: DataLayer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message), layer.begin(**options):
        pass


def test_a_statement_that_takes_longer_than_the_timeout_ends_the_transaction(pg: DataLayer) -> None:
    account(pg)
    began = time.monotonic()
    with pytest.raises(TransactionTimeout) as failure, pg.begin(timeout="200ms") as session:  # noqa: PT012  # the block fails as a whole
        session.get_one(Account, 1).balance = 7
        session.flush()
        session.execute(sa.text("SELECT pg_sleep(20)"))
    assert time.monotonic() - began < 5
    assert isinstance(failure.value, sa.exc.OperationalError)  # who catches SQLAlchemy's goes on doing so
    assert balance(pg) == 100
    with pg.begin() as session:  # SET LOCAL: the next transaction has the settings' own limit
        assert session.scalar(sa.text("SHOW statement_timeout")) == "30s"


def test_after_its_deadline_a_transaction_neither_goes_on_nor_commits(layer: DataLayer) -> None:
    account(layer)
    with (  # noqa: PT012  # the block fails as a whole
        pytest.raises(TransactionTimeout, match=r"longer than its timeout of 0\.05 s"),
        layer.begin(timeout=0.05) as session,
    ):
        session.get_one(Account, 1).balance = 7
        session.flush()
        threading.Event().wait(0.06)
        session.scalar(sa.select(1))
    with pytest.raises(TransactionTimeout), layer.begin(timeout=0.05) as session:  # noqa: PT012  # the block fails as a whole
        session.get_one(Account, 1).balance = 7
        session.flush()
        threading.Event().wait(0.06)
    assert balance(layer) == 100


def test_a_lock_that_is_not_free_in_time_ends_the_transaction(open_layer: Callable[..., DataLayer]) -> None:
    layer = open_layer(lock_timeout=0.1)
    account(layer)
    with layer.begin() as holder:
        holder.get_one(Account, 1).balance = 7
        holder.flush()
        with pytest.raises(TransactionTimeout, match="lock_timeout"), layer.begin() as session:
            session.get_one(Account, 1).balance = 8
        holder.rollback()
    assert balance(layer) == 100


def conflict(layer: DataLayer, both: threading.Barrier, outcomes: list[Any]) -> Callable[[], None]:
    """A serializable read-modify-write, twice at once: one of the two cannot be serialized."""

    def body(session: Session) -> int:
        found = session.scalars(sa.select(Account).where(Account.id == 1)).one()
        with suppress(threading.BrokenBarrierError):  # the second try is alone
            both.wait(timeout=5)
        found.balance += 1
        return found.balance

    def run() -> None:
        try:
            outcomes.append(layer.run(body, isolation="SERIALIZABLE"))
        except BaseException as error:
            outcomes.append(error)

    return run


def test_a_serialization_failure_is_run_again_until_both_are_done(pg: DataLayer) -> None:
    account(pg)
    both, outcomes = threading.Barrier(2), []
    threads = [threading.Thread(target=conflict(pg, both, outcomes)) for _ in range(2)]
    threads[0].start()
    threads[1].start()
    while threads[0].is_alive() and threads[1].is_alive():
        threads[0].join(0.01)
        threads[1].join(0.01)
    both.abort()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [101, 102]
    assert balance(pg) == 102


def test_on_sqlite_serializable_transactions_wait_for_each_other(sqlite_url: str) -> None:
    with DataLayer(sqlite_url, models=[Account]) as layer:
        Account.__table__.create(layer.engine)  # type: ignore[attr-defined]
        account(layer)

        def add(session: Session) -> None:
            session.get_one(Account, 1).balance += 1

        def work() -> None:
            for _ in range(10):
                layer.run(add, isolation="SERIALIZABLE", retries=50)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert balance(layer) == 130


def deadlock(layer: DataLayer) -> list[BaseException]:
    """Two transactions that lock two rows crosswise; what the losers raise."""
    both, failures = threading.Barrier(2), []

    def lock(first: int, second: int) -> None:
        try:
            with layer.begin() as session:
                session.execute(sa.update(Account).where(Account.id == first).values(balance=first))
                both.wait()
                session.execute(sa.update(Account).where(Account.id == second).values(balance=first))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=lock, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_a_deadlock_says_that_it_may_be_run_again(pg: DataLayer) -> None:
    account(pg, 1)
    account(pg, 2)
    (failure,) = deadlock(pg)
    assert isinstance(failure, TransactionFailed)
    assert isinstance(failure, sa.exc.OperationalError)
    assert failure.retryable
    assert "deadlock" in str(failure)
    assert type(failure.__cause__).__name__ == "DeadlockDetected"
    assert {balance(pg, 1), balance(pg, 2)} in ({1}, {2})


def test_a_failure_can_be_pickled_and_leaves_the_drivers_words_behind(pg: DataLayer) -> None:
    account(pg, 1)
    account(pg, 2)
    (failure,) = deadlock(pg)
    copy = pickle.loads(pickle.dumps(failure))
    assert (type(copy), str(copy), copy.retryable) == (TransactionFailed, str(failure), True)


class Flaky:
    """Fails a number of times as a database would, then works."""

    def __init__(self, layer: DataLayer, failures: int, state: str = "40001") -> None:
        self.layer, self.left, self.state, self.calls = layer, failures, state, 0

    def __call__(self, session: Session) -> str:
        self.calls += 1
        session.get_one(Account, 1).balance += 1
        session.flush()
        if self.left:
            self.left -= 1
            session.execute(sa.text(f"DO $$ BEGIN RAISE SQLSTATE '{self.state}'; END $$"))
        return "done"


def begin(layer: DataLayer, slept: list[float], **options: Any) -> Begin:
    return Begin(layer.session, Terms.of(**options), Pauses(slept.append, lambda: 0.5))


def test_retries_are_bounded_and_their_pauses_grow(pg: DataLayer) -> None:
    account(pg)
    flaky, slept = Flaky(pg, failures=9), []
    with pytest.raises(TransactionFailed):  # noqa: PT012
        for attempt in begin(pg, slept, retries=3):
            with attempt as session:
                flaky(session)
    assert flaky.calls == 4
    assert slept == pytest.approx([0.0075, 0.015, 0.03])
    assert balance(pg) == 100


def test_pauses_are_drawn_at_random_and_end_at_a_second() -> None:
    slept: list[float] = []
    pauses = Pauses(slept.append)
    for _ in range(50):
        pauses.wait(1)
        pauses.wait(30)
    assert all(0.005 <= pause <= 0.01 for pause in slept[::2])
    assert all(0.5 <= pause <= 1.0 for pause in slept[1::2])
    assert len(set(slept)) > 50


def test_a_loop_runs_its_body_until_it_commits_and_then_ends(pg: DataLayer) -> None:
    account(pg)
    flaky = Flaky(pg, failures=2)
    for attempt in pg.begin(retries=3, isolation="SERIALIZABLE"):
        with attempt as session:
            flaky(session)
    assert (flaky.calls, balance(pg)) == (3, 101)


def test_run_returns_what_the_function_returns_and_runs_it_again(pg: DataLayer) -> None:
    account(pg)
    flaky = Flaky(pg, failures=1, state="40P01")
    assert pg.run(flaky) == "done"
    assert (flaky.calls, balance(pg)) == (2, 101)
    assert pg.run(lambda session: session.get_one(Account, 1)).owner == "ann"


def test_the_applications_own_exception_is_not_a_reason_to_run_again(pg: DataLayer) -> None:
    calls = []

    def broken(session: Session) -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pg.run(broken)
    assert len(calls) == 1


def test_a_with_block_says_how_it_could_have_been_run_again(pg: DataLayer) -> None:
    account(pg)
    with pytest.raises(TransactionFailed) as failure, pg.begin(retries=3) as session:
        Flaky(pg, failures=1)(session)
    assert failure.value.retryable
    assert any("layer.run" in note for note in failure.value.__notes__)


def test_the_retries_of_a_with_block_get_it_a_connection(pg: DataLayer) -> None:
    tries: list[int] = []
    layers: list[DataLayer] = []

    def opened() -> Session:
        tries.append(1)
        if len(tries) < 3:
            layers.append(DataLayer("postgresql+psycopg://nobody@127.0.0.1:1/x", models=[Account]))
            return layers[-1].session()
        return pg.session()

    slept: list[float] = []
    with Begin(opened, Terms.of(retries=3), Pauses(slept.append)) as session:
        assert session.scalar(sa.select(1)) == 1
    assert (len(tries), len(slept)) == (3, 2)
    for layer in layers:
        layer.close()


def test_sqlite_says_that_another_writer_was_quicker(sqlite_url: str) -> None:
    with DataLayer(sqlite_url, models=[Account]) as layer:
        Account.__table__.create(layer.engine)  # type: ignore[attr-defined]
        account(layer)
        with layer.begin() as first:
            first.get_one(Account, 1).balance = 7
            first.flush()
            with pytest.raises(TransactionFailed, match="SQLite has one writer") as failure, layer.begin() as second:  # noqa: PT012  # the block fails as a whole
                second.execute(sa.text("PRAGMA busy_timeout=10"))
                second.execute(sa.update(Account).values(balance=8))
        assert failure.value.retryable
        assert balance(layer) == 7


def test_an_exhausted_pool_says_which_and_how_large(open_layer: Callable[..., DataLayer]) -> None:
    layer = open_layer(pool_size=1, pool_min=1, pool_timeout=0.1)
    account(layer)
    with layer.begin() as session:
        session.get_one(Account, 1).balance = 7
        session.flush()
        with pytest.raises(PoolTimeout, match=r"pool_size=1.*pool_timeout=0\.1") as failure:
            layer.repository(Account).set(Account(id=2, owner="bob"))
        assert layer.repository(Account).get_one(1).balance == 100  # hits and reads go on
    assert isinstance(failure.value, sa.exc.TimeoutError)


def test_a_database_that_is_not_there_is_said_by_every_door() -> None:
    with DataLayer("postgresql+psycopg://me:hunter2@127.0.0.1:1/x", models=[Account]) as layer:
        doors: list[Callable[[], object]] = [
            lambda: layer.repository(Account).set(Account(id=1, owner="ann")),
            lambda: layer.repository(Account).update(1, owner="ann"),
            lambda: layer.run(lambda s: s.scalar(sa.select(1)), retries=1),
            lambda: layer.session().scalar(sa.select(1)),
        ]
        for door in doors:
            with pytest.raises(L3UnavailableError, match="cannot be reached") as failure:
                door()
            assert "hunter2" not in str(failure.value)
            assert isinstance(failure.value, DataLayerError)


def test_read_only_blocks_are_served_from_the_caches(layer: DataLayer) -> None:
    account(layer)
    balance(layer)
    with Statements(layer.engine) as statements, layer.begin(read_only=True) as session:
        assert session.get_one(Account, 1).balance == 100
        assert statements.taken() == 0

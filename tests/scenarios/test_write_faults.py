"""What a writer is told when the database fails under it, and what everybody reads afterwards. Real servers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from writing import KEYS, MODELS, Account, Heard, Plain, Watched, create_tables, heard

from datalayer import (
    DataLayer,
    DataLayerError,
    L3UnavailableError,
    PoolTimeout,
    Repository,
    Session,
    TransactionFailed,
    TransactionOutcomeUnknown,
    TransactionTimeout,
)
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_postgres
from datalayer.testing.servers.postgres import PrivatePostgres

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("DATALAYER_TEST_LONG") == "1"


@pytest.fixture
def proxy(pg_url: str) -> Iterator[TcpProxy]:
    with TcpProxy.for_url(pg_url) as proxy:
        yield proxy


@pytest.fixture
def told() -> Iterator[Heard]:
    heard.__init__()  # type: ignore[misc]
    yield heard
    heard.__init__()  # type: ignore[misc]


@pytest.fixture
def open_layer() -> Iterator[Callable[..., DataLayer]]:
    made: list[DataLayer] = []

    def opened(url: str, **options: Any) -> DataLayer:
        # One connection and no others: what is cut is then the one that writes.
        options = {"pool_min": 0, "models": MODELS, "encryption_keys": KEYS} | options
        made.append(DataLayer(url, **options))
        create_tables(made[-1])
        return made[-1]

    yield opened
    for layer in made:
        layer.close()


def fill(layer: DataLayer) -> None:
    layer.repository(Account).set_many([Account(id=i, owner=f"o{i}", balance=100) for i in range(1, 5)])
    layer.repository(Watched).set(Watched(id=1, name="old"))
    heard.taken()


def read(layer: DataLayer, id: int = 1) -> int:
    """What this process reads, from its caches and from the database: the same."""
    rows = layer.repository(Account)
    (found,) = {rows.get_one(id, consistency=level).balance for level in ("cached", "shared", "database")}  # type: ignore[arg-type]
    return found


# -- the reply to COMMIT is lost (row 18) ------------------------------------------------------------------------------


def in_block(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.get_one(Account, 1).balance = 7


def in_session(layer: DataLayer) -> None:
    with layer.session() as session:
        session.get_one(Account, 1).balance = 7
        session.commit()


DOORS: dict[str, Callable[[DataLayer], object]] = {
    "begin": in_block,
    "session": in_session,
    "run": lambda layer: layer.run(lambda s: setattr(s.get_one(Account, 1), "balance", 7)),
    "staged": lambda layer: layer.transaction().set(Account(id=1, balance=7, owner="o1")).commit(),
    "repository": lambda layer: layer.repository(Account).update(1, balance=7),
    "bulk_load": lambda layer: layer.repository(Account).bulk_load(
        [{"id": 1, "owner": "o1", "balance": 7}], on_conflict="update"
    ),
}


@pytest.mark.parametrize("done", [True, False], ids=["committed", "never arrived"])
@pytest.mark.parametrize(
    ("door", "with_redis"), [*((door, False) for door in DOORS), ("begin", True), ("bulk_load", True)]
)
def test_a_commit_whose_reply_was_lost_has_an_unknown_outcome_and_nobody_reads_the_past(
    open_layer: Callable[..., DataLayer],
    pg_url: str,
    redis_url: str,
    key_prefix: str,
    proxy: TcpProxy,
    door: str,
    done: bool,
    with_redis: bool,
) -> None:
    shared = {"redis": redis_url, "key_prefix": key_prefix} if with_redis else {}
    writer, other = open_layer(proxy.url, **shared), open_layer(pg_url, **shared)
    fill(writer)
    assert read(writer) == 100
    if with_redis:
        assert read(other) == 100
    proxy.cut(b"COMMIT\0", side="request", answered=True) if done else proxy.cut(
        b"COMMIT\0", side="request", keep_match=False
    )
    with pytest.raises(TransactionOutcomeUnknown, match="may be committed or not") as failure:
        DOORS[door](writer)
    assert proxy.cuts == 1
    assert isinstance(failure.value, sa.exc.OperationalError)
    assert not failure.value.retryable
    expected = 7 if done else 100
    assert read(writer) == expected
    if with_redis:
        assert other.repository(Account).get_one(1, consistency="shared").balance == expected
    in_block(writer)  # and life goes on
    assert read(writer) == 7


def test_an_unknown_outcome_is_not_run_again_nor_told_to_hooks(
    open_layer: Callable[..., DataLayer], proxy: TcpProxy, told: Heard
) -> None:
    layer, calls = open_layer(proxy.url), []
    fill(layer)
    layer.repository(Watched).get(1)  # the driver's first connection to a server commits something of its own

    def count(session: Session) -> None:
        calls.append(1)
        session.get_one(Watched, 1).name = "new"

    proxy.cut(b"COMMIT\0", side="request", answered=True)
    with pytest.raises(TransactionOutcomeUnknown):
        layer.run(count, retries=5)
    assert len(calls) == 1
    assert told.taken("after_set") == []
    staged = layer.transaction(retries=5).update(Account, 1, balance=7)
    proxy.cut(b"COMMIT\0", side="request", answered=True)
    with pytest.raises(TransactionOutcomeUnknown):
        staged.commit()
    with pytest.raises(TransactionFailed, match="unknown outcome"):
        staged.commit()


def test_a_lost_autocommit_statement_has_an_unknown_outcome_too(
    open_layer: Callable[..., DataLayer], proxy: TcpProxy
) -> None:
    layer = open_layer(proxy.url)
    fill(layer)
    with layer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        proxy.cut(b"UPDATE", side="request", answered=True)
        with pytest.raises(TransactionOutcomeUnknown):
            connection.execute(sa.update(Account).where(Account.id == 1).values(balance=7))
    assert layer.repository(Account).get_one(1, consistency="database").balance == 7


# -- the connection is lost before COMMIT (rows 13 to 15) --------------------------------------------------------------


def terminate(layer: DataLayer, session: Session) -> None:
    """End the backend of a session from another connection."""
    pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
    with layer.engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


@pytest.mark.parametrize("when", ["before a statement", "before COMMIT"])
def test_a_transaction_whose_backend_was_ended_is_run_again_from_its_start(
    open_layer: Callable[..., DataLayer], pg_url: str, when: str
) -> None:
    # A writer that leaves its rows in L1 reads them before COMMIT, and would see there that its backend has gone.
    layer, calls = open_layer(pg_url, write_mode="through_l1_lazy"), []
    fill(layer)
    read(layer)

    def pay(session: Session) -> None:
        calls.append(1)
        session.get_one(Account, 1).balance -= 10
        session.flush()
        if len(calls) == 1:
            terminate(layer, session)
        if when == "before a statement":
            session.get_one(Account, 2).balance += 10

    if when == "before a statement":
        layer.run(pay)
        assert len(calls) == 2
        assert (read(layer, 1), read(layer, 2)) == (90, 110)
    else:  # nobody can tell a server that hung up before COMMIT from one that hung up after it
        with pytest.raises(TransactionOutcomeUnknown):
            layer.run(pay)
        assert read(layer, 1) == 100


def test_a_lost_transaction_says_that_nothing_was_committed(open_layer: Callable[..., DataLayer], pg_url: str) -> None:
    layer = open_layer(pg_url)
    fill(layer)
    read(layer)
    with pytest.raises(L3UnavailableError, match="nothing was committed") as failure, layer.begin() as session:  # noqa: PT012  # the block fails as a whole
        session.get_one(Account, 1).balance = 7
        session.flush()
        terminate(layer, session)
        session.get_one(Account, 2)
    assert failure.value.retryable  # type: ignore[attr-defined]
    assert read(layer) == 100


@pytest.mark.parametrize("with_redis", [False, True], ids=["alone", "redis"])
def test_a_connection_that_is_lost_while_a_commit_is_prepared_is_said_like_any_other(
    open_layer: Callable[..., DataLayer], pg_url: str, redis_url: str, key_prefix: str, with_redis: bool
) -> None:
    layer = open_layer(pg_url, **({"redis": redis_url, "key_prefix": key_prefix} if with_redis else {}))
    fill(layer)
    read(layer)
    with layer.session() as session:
        session.get_one(Account, 1).balance = 7
        session.flush()
        terminate(layer, session)
        with pytest.raises((L3UnavailableError, TransactionOutcomeUnknown)) as failure:
            session.commit()
        assert isinstance(failure.value, sa.exc.OperationalError)
    assert read(layer) == 100


def test_a_load_that_loses_its_connection_has_loaded_nothing(open_layer: Callable[..., DataLayer], pg_url: str) -> None:
    layer = open_layer(pg_url)
    plain = layer.repository(Plain)

    def rows(session: Session) -> Iterator[dict[str, Any]]:
        for i in range(5000):
            if i == 3000:
                terminate(layer, session)
            yield {"id": i, "name": "n"}

    for on_conflict in ("error", "update"):
        with pytest.raises(L3UnavailableError, match="nothing was committed"), layer.begin() as session:
            Repository[Plain](session).bulk_load(rows(session), on_conflict=on_conflict)  # type: ignore[arg-type]
        assert plain.count() == 0
    assert plain.bulk_load([{"id": 1}]) == 1


@pytest.fixture(scope="module")
def server() -> Iterator[PrivatePostgres]:
    server = start_postgres()
    yield server
    server.stop()


def test_writes_to_a_dead_database_fail_fast_and_leave_the_caches_alone(
    open_layer: Callable[..., DataLayer], server: PrivatePostgres
) -> None:
    layer = open_layer(server.create_database("dead"))
    fill(layer)
    read(layer)
    server.kill()
    try:
        for door in DOORS.values():
            began = time.monotonic()
            with pytest.raises(L3UnavailableError):
                door(layer)
            assert time.monotonic() - began < 5
        assert layer.repository(Account).get_one(1).balance == 100
    finally:
        server.restart()
    in_block(layer)
    assert read(layer) == 7


def test_writes_to_a_database_that_hangs_are_bounded(open_layer: Callable[..., DataLayer], proxy: TcpProxy) -> None:
    layer = open_layer(proxy.url, statement_timeout=0.4, connect_timeout=2, write_mode="through_l1_lazy")
    fill(layer)
    for lost, error in ((b"UPDATE", L3UnavailableError), (b"COMMIT\0", TransactionOutcomeUnknown)):
        with layer.session() as session:
            session.get_one(Account, 1).balance = 7
            if lost == b"COMMIT\0":
                session.flush()
            proxy.blackhole()
            began = time.monotonic()
            with pytest.raises(error):
                session.commit()
            assert time.monotonic() - began < 5
            proxy.pass_()
    assert layer._parts.watchdog.fired >= 2
    assert read(layer) == 100


# -- the database refuses (rows 16, 21, 22) ----------------------------------------------------------------------------


def test_a_database_that_only_reads_says_so(open_layer: Callable[..., DataLayer], pg_url: str) -> None:
    admin = open_layer(pg_url)
    fill(admin)
    name = sa.make_url(pg_url).database
    with admin.engine.begin() as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    layer = DataLayer(pg_url, models=MODELS, encryption_keys=KEYS)
    with layer:
        assert read(layer) == 100
        for door in DOORS.values():
            with pytest.raises(TransactionFailed, match="may only read"):
                door(layer)
        assert read(layer) == 100


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ("53100", L3UnavailableError, "no disk space left"),
        ("53200", L3UnavailableError, "no memory left"),
        ("53300", PoolTimeout, "no more connections"),
        ("57014", TransactionTimeout, "statement_timeout"),
        ("55P03", TransactionTimeout, "lock_timeout"),
        ("40001", TransactionFailed, "could not be serialized"),
        ("40P01", TransactionFailed, "deadlock"),
        ("25006", TransactionFailed, "may only read"),
    ],
)
def test_each_refusal_of_the_server_has_its_name(
    open_layer: Callable[..., DataLayer], pg_url: str, state: str, error: type[DataLayerError], message: str
) -> None:
    layer = open_layer(pg_url)
    fill(layer)
    read(layer)
    with layer.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'the row of ann' USING ERRCODE = '{state}'; END $$"
            )
        )
        connection.execute(
            sa.text("CREATE TRIGGER refuse BEFORE UPDATE ON w_accounts FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    for name, door in DOORS.items():
        with pytest.raises(error, match=message) as failure:
            door(layer)
        assert "ann" not in str(failure.value), name
        assert "the row of ann" in str(failure.value.__cause__)
    assert read(layer) == 100


# -- the application is killed (row 23) --------------------------------------------------------------------------------

PAYER = """
import random, sys
import sqlalchemy as sa
from writing import KEYS, MODELS, Account
from datalayer import DataLayer

layer = DataLayer(sys.argv[1], redis=sys.argv[2], key_prefix=sys.argv[3], models=MODELS, encryption_keys=KEYS)
accounts = layer.repository(Account)
rng = random.Random(int(sys.argv[4]))

def pay(session):
    a, b = sorted(rng.sample(range(1, 5), 2))
    amount = rng.randint(-20, 20)
    session.get_one(Account, a, with_for_update=True).balance -= amount
    session.flush()
    session.get_one(Account, b, with_for_update=True).balance += amount

print("ready", flush=True)
while True:
    if rng.random() < 0.3:
        note = str(rng.random())
        rows = [{"id": i, "owner": f"o{i}", "note": note} for i in range(1, 5)]
        accounts.bulk_load(rows, on_conflict="update")
    else:
        layer.run(pay, retries=10)
"""


def test_an_application_that_is_killed_has_written_all_of_a_transaction_or_nothing(
    open_layer: Callable[..., DataLayer], pg_url: str, redis_url: str, key_prefix: str, rng: random.Random
) -> None:
    layer = open_layer(pg_url, redis=redis_url, key_prefix=key_prefix)
    fill(layer)
    rows = layer.repository(Account)
    for _ in range(30 if LONG else 2):
        command = [sys.executable, "-c", PAYER, pg_url, redis_url, key_prefix, str(rng.randrange(10**9))]
        paths = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": paths}) as payer:
            assert payer.stdout is not None
            assert payer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.05, 0.4))
            payer.send_signal(signal.SIGKILL)
        for _ in range(3):
            with layer.begin(isolation="REPEATABLE READ", read_only=True) as session:
                stored = dict(map(tuple, session.execute(sa.select(Account.id, Account.balance))))  # type: ignore[arg-type]
                notes = set(session.scalars(sa.select(Account.note)))
            if layer.run(lambda s: s.scalar(_RUNNING)) == 0:
                break  # the server has ended what the payer had begun
        assert sum(stored.values()) == 400
        assert len(notes) == 1
        shared = {id: rows.get_one(id, consistency="shared").balance for id in stored}
        assert shared == {id: rows.get_one(id, consistency="database").balance for id in stored}


_RUNNING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)

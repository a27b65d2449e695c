"""A store in a table: what the database, its connection and its other users do to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from stores import quick_sqlite

from datalayer.errors import ConflictError, DataLayerError, StoreError, TransactionOutcomeUnknown
from datalayer.kv import SqlStore
from datalayer.testing.compliance import (
    ExpiringCompliance,
    ManualClock,
    TransactionalCompliance,
)
from datalayer.testing.counting import Statements
from datalayer.testing.proxy import TcpProxy


class Plain(SqlStore):
    """As on a database whose upsert nobody knows: SERIALIZABLE, and an insert after an update that met no row."""

    def __init__(self, engine: sa.Engine, **options: Any) -> None:
        super().__init__(engine, **options)
        self._upserts, self._single = False, engine


@pytest.fixture
def engine(pg_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(pg_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def shared_engine(pg_module_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(pg_module_url)
    yield engine
    engine.dispose()


class TestWithoutAnUpsert(ExpiringCompliance, TransactionalCompliance):
    @pytest.fixture
    def store(self, shared_engine: sa.Engine, key_prefix: str, clock: ManualClock) -> Iterator[Any]:
        with closing(Plain(shared_engine, table=key_prefix, clock=clock)) as store:
            yield store


def test_one_call_is_one_statement(any_engine: sa.Engine) -> None:
    with closing(SqlStore(any_engine)) as store:
        with Statements(any_engine) as statements:
            costs = []
            for call in (
                lambda: store.put(b"k", b"v"),
                lambda: store.put(b"k", b"w", ttl=5),
                lambda: store.get(b"k"),
                lambda: store.exists(b"k"),
                lambda: store.ttl(b"k"),
                lambda: store.delete(b"k"),
            ):
                call()
                costs.append(statements.taken())
        assert costs == [1] * 6


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "postgres":
        engine = sa.create_engine(request.getfixturevalue("pg_url"))
    else:
        engine = quick_sqlite(f"sqlite:///{tmp_path / 'kv.db'}")
    yield engine
    engine.dispose()


def test_who_starts_together_finds_the_table_that_one_of_them_made(engine: sa.Engine, pg_url: str) -> None:
    other = sa.create_engine(pg_url)

    def make_it_first(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith("CREATE TABLE"):
            SqlStore(other).close()

    sa.event.listen(engine, "before_cursor_execute", make_it_first)
    with closing(SqlStore(engine)) as store:
        store.put(b"k", b"v")
        assert store.get(b"k") == b"v"
    other.dispose()


def test_a_table_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    with pytest.raises(StoreError, match="table 'datalayer_kv' of a sqlite database failed") as caught:
        SqlStore(engine)
    assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
    engine.dispose()


def test_a_table_of_ones_own_is_not_made(any_engine: sa.Engine) -> None:
    with closing(SqlStore(any_engine, create=False)) as store, pytest.raises(StoreError, match="failed"):
        store.get(b"k")
    assert sa.inspect(any_engine).get_table_names() == []


def test_values_do_not_stand_in_messages(any_engine: sa.Engine) -> None:
    with closing(SqlStore(any_engine)) as store:
        with any_engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE datalayer_kv"))
        with pytest.raises(StoreError) as caught:
            store.put(b"secret key", b"secret value")
        assert "secret" not in str(caught.value)


def test_what_has_ended_is_swept_when_asked(any_engine: sa.Engine) -> None:
    clock = ManualClock()
    with closing(SqlStore(any_engine, clock=clock)) as store:
        for number in range(5):
            store.put(b"%d" % number, b"v", ttl=number + 1)
        store.put(b"ever", b"v")
        clock.advance(3)
        assert store.compact() == 3
        assert store.compact() == 0
        assert [key for key, _ in store.scan()] == [b"3", b"4", b"ever"]


def test_two_stores_of_one_table_see_each_other_and_conflict(engine: sa.Engine) -> None:
    with closing(SqlStore(engine)) as one, closing(SqlStore(engine)) as two:
        one.put(b"k", b"1")
        assert two.get(b"k") == b"1"
        transaction = one.begin()
        assert transaction.get(b"k") == b"1"
        transaction.put(b"sum", b"1")
        two.put(b"k", b"2")
        with pytest.raises(ConflictError):
            transaction.commit()
        assert one.get(b"sum") is None


@pytest.mark.parametrize("kind", [SqlStore, Plain])
def test_transactions_that_count_together_lose_no_count(engine: sa.Engine, kind: type[SqlStore]) -> None:
    """Each reads, adds one and writes; who meets another one runs again."""
    failed: list[BaseException] = []

    def count(store: SqlStore, times: int) -> None:
        while times:
            try:
                with store.begin() as transaction:
                    transaction.put(b"n", b"%d" % (int(transaction.get(b"n") or b"0") + 1))
                times -= 1
            except ConflictError:
                continue
            except DataLayerError as error:
                failed.append(error)
                return

    with closing(kind(engine)) as store:
        threads = [threading.Thread(target=count, args=(store, 15)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert store.get(b"n") == b"60"


# -- connections that end ----------------------------------------------------------------------------------------------


@pytest.fixture
def far(pg_url: str) -> Iterator[tuple[TcpProxy, SqlStore]]:
    with TcpProxy.for_url(pg_url) as proxy:
        engine = sa.create_engine(proxy.url)
        with closing(SqlStore(engine)) as store:
            yield proxy, store
        engine.dispose()


def test_a_database_that_went_away_is_an_error_until_it_is_back(far: tuple[TcpProxy, SqlStore]) -> None:
    proxy, store = far
    store.put(b"k", b"v")
    proxy.refuse()
    for call in (lambda: store.get(b"k"), lambda: store.put(b"k", b"w"), lambda: list(store.scan())):
        with pytest.raises(StoreError) as caught:
            call()
        assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
    proxy.pass_()
    assert store.get(b"k") == b"v"


def test_a_commit_whose_answer_is_lost_says_that_nobody_knows(far: tuple[TcpProxy, SqlStore]) -> None:
    proxy, store = far
    transaction = store.begin()
    transaction.put(b"a", b"1")
    transaction.put(b"b", b"2")
    proxy.cut(b"COMMIT\0", side="request", answered=True)
    with pytest.raises(TransactionOutcomeUnknown, match="look at what it was to write"):
        transaction.commit()
    assert proxy.cuts == 1
    assert dict(store.scan()) == {b"a": b"1", b"b": b"2"}


def test_a_commit_that_never_arrived_left_nothing(far: tuple[TcpProxy, SqlStore]) -> None:
    proxy, store = far
    store.put(b"a", b"old")
    transaction = store.begin()
    transaction.put(b"a", b"new")
    transaction.put(b"b", b"new")
    proxy.cut(b"INSERT", side="request")
    with pytest.raises(StoreError):
        transaction.commit()
    assert dict(store.scan()) == {b"a": b"old"}

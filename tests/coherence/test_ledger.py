"""The fence's own connections: lost ones are replaced, and what fails fails as SQLAlchemy fails. Standbys vouch for
nothing."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from datalayer.coherence.ledger import Ledger
from datalayer.testing.faults import terminate_backends
from datalayer.testing.servers import start_postgres
from datalayer.testing.servers.cluster import wait_until
from datalayer.tiers.engines import reading_engine


def ledger_on(url: str) -> Iterator[Ledger]:
    engine = sa.create_engine(url)
    ledger = Ledger(reading_engine(engine, size=2), bool, bool)
    yield ledger
    ledger.close()
    engine.dispose()


@pytest.fixture
def ledger(pg_url: str) -> Iterator[Ledger]:
    yield from ledger_on(pg_url)


def test_a_connection_that_was_terminated_is_replaced_within_the_call(ledger: Ledger, pg_url: str) -> None:
    assert [line.epoch for line in ledger.read(2)] == ["1.", "1."]
    for _ in range(3):
        assert terminate_backends(pg_url) > 0
        assert len(ledger.read(2)) == 2
    assert terminate_backends(pg_url) > 0
    assert ledger.begin(0, "1.", "2.a", "f" * 40)
    assert terminate_backends(pg_url) > 0
    assert ledger.ended(["3"]) == {"3": True}


def test_an_error_is_one_of_sqlalchemy(ledger: Ledger) -> None:
    with pytest.raises(sa.exc.DBAPIError) as failure:
        ledger.ended(["no number"])
    assert isinstance(failure.value.orig, psycopg.Error)


def test_a_database_that_is_away_is_an_error_of_sqlalchemy() -> None:
    (ledger,) = ledger_on("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(sa.exc.OperationalError):
        ledger.read(1)


def test_a_standby_vouches_for_nothing() -> None:
    """Its snapshots say "finished" of transactions that still run, and its rows are old."""
    primary = start_postgres()
    replica = None
    try:
        (here,) = ledger_on(primary.url)
        assert len(here.read(1)) == 1
        replica = primary.replica()
        (there,) = ledger_on(replica.url)
        with psycopg.connect(primary.url.replace("+psycopg", "")) as running:
            row = running.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            wait_until("the replica has the table", lambda: _has_fence(replica.url if replica else ""))
            assert there._run("SELECT count(*) FROM datalayer_fence") == [(1,)]
            there._made.add(1)
            assert there.read(1) == []
            assert there.ended([str(row[0]), "3"]) == {str(row[0]): False, "3": False}
            assert here.ended([str(row[0]), "3"]) == {str(row[0]): False, "3": True}
        here.close(), there.close()
    finally:
        if replica is not None:
            replica.stop()
        primary.stop()


def _has_fence(url: str) -> bool:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT to_regclass('datalayer_fence') IS NOT NULL").fetchone()
        return bool(row and row[0])

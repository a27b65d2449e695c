"""Many processes that migrate at once, and processes that are killed at any step."""

from __future__ import annotations

import os
import threading

import pytest
import sqlalchemy as sa
from herd import Herd
from migrate_support import migrate, rows, run, things, valid

from datalayer.errors import MigrationError, MigrationLockedError
from datalayer.migrate.lock import only_migrator
from datalayer.migrate.options import MigrateOptions
from datalayer.migrate.runner import create_missing, plan
from datalayer.migrate.status import migration_status

#: Of the statements after which a process is killed, one in so many.
STRIDE = 1 if os.environ.get("DATALAYER_TEST_LONG") else 3


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def filled(request: pytest.FixtureRequest) -> str:
    """URL of a database with the plain schema and 20 rows. SQLite gives up on a lock at once, we do the waiting."""
    url = str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url"))
    url += "?timeout=0.05" if request.param == "sqlite" else ""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    migrate(engine, things())
    run(engine, *(f"INSERT INTO things VALUES ({i}, 'name {i}')" for i in range(20)))
    return url


def test_eight_processes_at_once_do_the_work_once(filled: str) -> None:
    with Herd(filled) as herd:
        steps = sorted(done or 0 for done in herd.migrate(8))
    assert steps[:7] == [0] * 7
    assert steps[7] > 5


def test_killed_after_any_statement_the_next_run_goes_on(filled: str) -> None:
    engine = sa.create_engine(filled, poolclass=sa.pool.NullPool)
    killed = 0
    with Herd(filled) as herd:
        while herd.migrate(die_after=STRIDE * killed + 1) == [None]:
            killed += 1
            assert killed < 60
            assert rows(engine, "SELECT count(*) FROM things") == [(20,)]
        assert herd.migrate() == [0]
    assert killed >= 3
    assert rows(engine, "SELECT DISTINCT must FROM things") == [("said",)]
    if engine.dialect.name == "postgresql":
        assert rows(engine, "SELECT 1 FROM pg_constraint WHERE NOT convalidated") == []
        assert rows(engine, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
        assert rows(engine, "SELECT conname FROM pg_constraint WHERE conname LIKE 'datalayer_nn%'") == []


BUILDER = """
SELECT pid FROM pg_stat_activity
WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock' AND datname = current_database()"""


def failing(engine: sa.Engine, schema: sa.MetaData) -> None:
    with pytest.raises(MigrationError, match="create index it on things"):
        create_missing(engine, [schema])


@pytest.mark.postgres
def test_an_index_whose_builder_was_killed_is_built_by_the_next_run(pg_url: str) -> None:
    engine = sa.create_engine(pg_url, poolclass=sa.pool.NullPool)
    migrate(engine, things())
    run(engine, "INSERT INTO things VALUES (1, 'a')")
    with engine.begin() as reader:
        reader.execute(sa.text("UPDATE things SET name = 'b'"))  # what the index has to wait for
        builder = threading.Thread(target=failing, args=(engine, things(sa.Index("it", "name"))))
        builder.start()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            while not other.execute(sa.text(BUILDER)).all():
                builder.join(0.01)
            assert states(engine)["create index it on things"] == "running"
            other.execute(sa.text(f"SELECT pg_terminate_backend(pid) FROM ({BUILDER}) builder"))
        builder.join()
    assert rows(engine, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('it')") == [(False,)]
    assert states(engine)["create index it on things"] == "interrupted"
    assert [refusal.rule for refusal in plan(engine, [things()]).refused] == ["half-made-index"]
    assert migrate(engine, things(sa.Index("it", "name"))).applied == ("create index it on things",)
    assert valid(engine, "it")
    assert list(states(engine).values()) == ["applied", "applied"]


def states(engine: sa.Engine) -> dict[str, str]:
    return {record.name: record.state for record in migration_status(engine)}


@pytest.mark.postgres
def test_a_migrator_that_waits_does_not_hold_up_an_index(pg_url: str) -> None:
    engine = sa.create_engine(pg_url, poolclass=sa.pool.NullPool)
    migrate(engine, things())
    started = threading.Event()
    waited: list[str] = []

    def wait() -> None:
        started.set()
        waited.append(str(create_missing(engine, [things()])))

    with only_migrator(engine, wait=1) as connection:
        waiter = threading.Thread(target=wait)
        waiter.start()
        started.wait()
        connection.exec_driver_sql("SET statement_timeout = '20s'")
        connection.exec_driver_sql("CREATE INDEX CONCURRENTLY it ON things (name)")
    waiter.join()
    assert waited[0].startswith("refused: drop-index")


def test_who_waits_too_long_is_told_so(filled: str) -> None:
    engine = sa.create_engine(filled, poolclass=sa.pool.NullPool)
    with only_migrator(engine, wait=1), pytest.raises(MigrationLockedError, match="another process"):
        create_missing(engine, [things()], MigrateOptions(wait=0))


@pytest.mark.postgres
def test_a_step_waits_its_turn_and_is_tried_again(pg_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = sa.create_engine(pg_url, poolclass=sa.pool.NullPool)
    migrate(engine, things())
    richer = things(sa.Column("x", sa.Text))
    caplog.set_level("INFO", "datalayer.migrate")
    holder = engine.connect()
    holder.execute(sa.text("SELECT * FROM things"))
    reports = []
    migrator = threading.Thread(target=lambda: reports.append(migrate(engine, richer, lock_timeout=0.05)))
    migrator.start()
    while "others hold the table" not in caplog.text and migrator.is_alive():
        migrator.join(0.01)
    holder.close()
    migrator.join()
    assert reports[0].applied == ("add column things.x",)


def test_a_plan_reads_only(filled: str) -> None:
    engine = sa.create_engine(filled, poolclass=sa.pool.NullPool)
    first = plan(engine, [things(sa.Column("x", sa.Text))])
    assert [step.text for step in first.steps] == ["add column things.x"]
    assert [step.text for step in plan(engine, [things(sa.Column("x", sa.Text))]).steps] == ["add column things.x"]

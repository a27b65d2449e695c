"""The tables of the coherence protocol come with a migration, and no comparison of schemas sees them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from alembic_support import alembic
from migrate_support import rows, run
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import DataLayer, column
from datalayer.coherence.ledger import TABLES, Ledger
from datalayer.migrate.runner import MigrationReport, plan

pytestmark = pytest.mark.postgres

SHAPE = """
SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_name LIKE 'datalayer%' ORDER BY 1, 2"""


class Base(DeclarativeBase):
    pass


class Owned(Base):
    __tablename__ = "own_tables_owned"
    id: Mapped[int] = column(primary_key=True)


def ledger(url: str | sa.URL) -> Ledger:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    return Ledger(engine, lambda _: None, lambda _: None)


def test_a_migration_makes_them_once_with_a_line_for_each_shard(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Owned]) as layer:
        report = layer.migrate(fence_shards=3)
        assert report.applied == (
            "create table datalayer_fence",
            "create table datalayer_wb_applied",
            "add the lines of 3 shards to datalayer_fence",
            "create table own_tables_owned",
        )
        assert layer.migrate(fence_shards=3).applied == ()
        assert layer.migrate(fence_shards=5).applied == ("add the lines of 5 shards to datalayer_fence",)
        assert rows(layer.engine, "SELECT shard, epoch, st FROM datalayer_fence ORDER BY 1") == [
            (shard, 1, 0) for shard in range(5)
        ]
        assert not layer.drift()
        assert layer.drift().strangers == ()


def test_a_layer_makes_them_without_being_asked_and_also_where_alembic_versions_the_models(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Owned]) as layer:
        run(layer.engine, "CREATE TABLE alembic_version (version_num varchar(32))")
        run(layer.engine, "INSERT INTO alembic_version VALUES ('1')")
        report = layer.migrate()
        assert [text.split()[-1] for text in report.applied] == [
            "datalayer_fence",
            "datalayer_wb_applied",
            "datalayer_fence",
        ]
        assert [refusal.rule for refusal in report.refused] == ["alembic-versioned"]


def test_sqlite_has_none(sqlite_url: str) -> None:
    with DataLayer(sqlite_url, models=[Owned]) as layer:
        assert layer.migrate(fence_shards=3).applied == ("create table own_tables_owned",)


def test_the_revision_makes_what_the_first_process_would_make(pg_url: str, other_url: str) -> None:
    by_alembic, by_use = (sa.create_engine(url, poolclass=sa.pool.NullPool) for url in (pg_url, other_url))
    said = alembic(pg_url, "upgrade head", "check")
    assert "No new upgrade operations" in said
    assert "xid8" not in said  # no warning about a type of our own
    ledger(other_url).read(1)
    assert len(rows(by_use, SHAPE)) == 9
    assert rows(by_alembic, SHAPE) == rows(by_use, SHAPE)
    assert rows(by_alembic, "SELECT * FROM datalayer_fence") == rows(by_use, "SELECT * FROM datalayer_fence")
    assert plan(by_alembic, [sa.MetaData()]).steps == ()


@pytest.fixture
def other_url(pg_url: str) -> Iterator[str]:
    """A second empty database."""
    name = f"other_{secrets.token_hex(4)}"
    admin = sa.create_engine(pg_url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(pg_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def role(pg_url: str) -> Iterator[sa.URL]:
    """URL of the migrated database for a role that may create nothing and read nothing."""
    name, admin = f"app_{secrets.token_hex(4)}", sa.create_engine(pg_url, poolclass=sa.pool.NullPool)
    with DataLayer(pg_url, models=[Owned]) as layer:
        layer.migrate()
    run(admin, f"CREATE ROLE {name} LOGIN PASSWORD 'app'", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield sa.make_url(pg_url).set(username=name, password="app")
    run(admin, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_role_that_may_not_create_tables_adds_the_lines_of_more_shards(role: sa.URL, pg_url: str) -> None:
    admin = sa.create_engine(pg_url, poolclass=sa.pool.NullPool)
    run(admin, f"GRANT SELECT, INSERT, UPDATE ON datalayer_fence TO {role.username}")
    assert [line.shard for line in ledger(role).read(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("there", [True, False])
def test_a_role_that_may_do_nothing_finds_nothing_to_do(role: sa.URL, pg_url: str, there: bool) -> None:
    if not there:
        run(sa.create_engine(pg_url, poolclass=sa.pool.NullPool), *(f"DROP TABLE {name}" for name in TABLES))
    with DataLayer(role.render_as_string(hide_password=False), models=[Owned]) as layer:
        assert layer.migrate() == MigrationReport()


def test_processes_that_start_while_the_migration_runs_do_not_collide_with_it(pg_url: str) -> None:
    errors: list[BaseException] = []

    def quietly(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # the test reports it
                errors.append(error)

        return run

    with DataLayer(pg_url, models=[Owned]) as layer:
        works: list[Callable[[], object]] = [*(lambda: ledger(pg_url).read(2) for _ in range(4)), layer.migrate]
        threads = [threading.Thread(target=quietly(work)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert rows(layer.engine, "SELECT count(*) FROM datalayer_fence") == [(2,)]

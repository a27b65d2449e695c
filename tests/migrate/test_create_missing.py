"""``layer.migrate()``: additive, idempotent, and safe in every process at once."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import CachePolicy, DataLayer, column
from datalayer.migrate.runner import MigrationReport, create_missing
from datalayer.models.policy import Index


def schema(*extra: sa.Column, indexed: bool = False) -> sa.MetaData:
    metadata = sa.MetaData()
    table = sa.Table(
        "things", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), *extra
    )
    if indexed:
        sa.Index("ix_things_name", table.c.name)
    return metadata


def richer() -> sa.MetaData:
    level = sa.Column("level", sa.Integer, nullable=False, server_default="7")
    return schema(sa.Column("note", sa.Text), level, indexed=True)


def test_a_second_run_finds_nothing_to_do(engine: sa.Engine) -> None:
    assert create_missing(engine, [schema()]).applied == ("create table things",)
    again = create_missing(engine, [schema()])
    assert again == MigrationReport()
    assert str(again) == "nothing to do"


def test_columns_and_indexes_are_added_and_rows_kept(engine: sa.Engine) -> None:
    create_missing(engine, [schema()])
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO things VALUES (1, 'kept')"))
        connection.execute(sa.text("CREATE TABLE strangers (id int)"))
    report = create_missing(engine, [richer()])
    assert set(report.applied) == {
        "add column things.note",
        "add column things.level",
        "create index ix_things_name on things",
    }
    assert report.refused == ()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id, name, note, level FROM things")).all() == [(1, "kept", None, 7)]
    assert create_missing(engine, [richer()]).applied == ()
    assert "strangers" in sa.inspect(engine).get_table_names()


def test_what_is_not_additive_is_refused_with_its_reason(engine: sa.Engine) -> None:
    create_missing(engine, [schema(sa.Column("old", sa.Text))])
    report = create_missing(engine, [schema(sa.Column("must", sa.Text, nullable=False))])
    assert report.applied == ()
    assert any("adding-required-field: things.must" in line for line in report.refused)
    if engine.dialect.name == "postgresql":
        assert any(line.startswith("drop-column: things.old") for line in report.refused)
    assert "old" in {column["name"] for column in sa.inspect(engine).get_columns("things")}


def test_eight_migrators_at_once_do_the_work_once(pg_url: str) -> None:
    reports: list[MigrationReport] = []
    errors: list[BaseException] = []

    def migrate() -> None:
        try:
            with DataLayer(pg_url) as layer:
                reports.append(create_missing(layer.engine, [schema(indexed=True)]))
        except BaseException as error:  # the test reports it
            errors.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(len(report.applied) for report in reports)[:7] == [0] * 7
    assert max(len(report.applied) for report in reports) >= 1


def test_an_index_that_was_left_half_made_is_rebuilt(pg_url: str) -> None:
    with DataLayer(pg_url) as layer:
        create_missing(layer.engine, [schema()])
        with layer.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO things VALUES (1, 'a'), (2, 'a')"))
        with (
            layer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            pytest.raises(sa.exc.IntegrityError),
        ):
            connection.exec_driver_sql("CREATE UNIQUE INDEX CONCURRENTLY ix_things_name ON things (name)")
        assert create_missing(layer.engine, [schema(indexed=True)]).applied == (
            "create index ix_things_name on things",
        )
        with layer.engine.connect() as connection:
            valid = connection.scalar(
                sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_things_name')")
            )
        assert valid is True


class Base(DeclarativeBase):
    pass


class Reading(Base):
    __tablename__ = "policy_readings"
    __cache__ = CachePolicy(partition_by="at", indexes=(Index("sensor", "at"),))
    sensor: Mapped[int] = column(primary_key=True)
    at: Mapped[dt.datetime] = column(sa.DateTime(timezone=True), primary_key=True)


@pytest.mark.postgres
def test_a_policy_asks_for_partitions_and_indexes(pg_url: str) -> None:
    with DataLayer(pg_url, models=Base) as layer:
        layer.migrate(partitions_ahead=1)
        assert layer.create_partitions(2).applied[0].startswith("create partition policy_readings_p")
        with layer.begin() as session:
            session.add(Reading(sensor=1, at=dt.datetime.now(dt.UTC)))
        with layer.engine.connect() as connection:
            of_default = connection.scalar(sa.text("SELECT count(*) FROM policy_readings_default"))
            parts = connection.scalar(sa.text("SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'"))
        assert (of_default, parts) == (0, 4)
        assert [index["name"] for index in sa.inspect(layer.engine).get_indexes("policy_readings")] == [
            "ix_policy_readings_sensor_at"
        ]
        assert not layer.drift()

"""``CachePolicy(external_writes=True)``: the migration installs triggers that tell of every write, whoever wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from migrate_support import rows
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import CachePolicy, DataLayer, column
from datalayer.migrate.runner import create_missing
from datalayer.migrate.triggers import CHANNEL

TOLD = CachePolicy(external_writes=True)


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "told_owners"
    __cache__ = TOLD
    id: Mapped[int] = column(primary_key=True)


class Pet(Base):
    __tablename__ = "told_pets"
    __cache__ = TOLD
    house: Mapped[str] = column(primary_key=True)
    number: Mapped[int] = column(primary_key=True)
    owner_id: Mapped[int] = column(ForeignKey("told_owners.id", ondelete="CASCADE"))


class Quiet(Base):
    __tablename__ = "told_quiet"
    id: Mapped[int] = column(primary_key=True)


class Alone(DeclarativeBase):
    pass


class Single(Alone):
    __tablename__ = "told_singles"
    __cache__ = TOLD
    id: Mapped[int] = column(primary_key=True)


Told = list[tuple[str, Any]]


class Ear:
    """Runs SQL over a connection that the layer does not know, and says what was told meanwhile."""

    def __init__(self, url: str) -> None:
        plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._hears = psycopg.connect(plain, autocommit=True)
        self._hears.execute(f"LISTEN {CHANNEL}")
        self._writes = psycopg.connect(plain)

    def run(self, *statements: str, commit: bool = True) -> list[dict[str, Any]]:
        with self._writes.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)  # type: ignore[arg-type]
        (self._writes.commit if commit else self._writes.rollback)()
        with self._writes.cursor() as cursor:
            cursor.execute("NOTIFY datalayer_writes, 'end'")
        self._writes.commit()
        found = []
        for told in self._hears.notifies(timeout=20):
            if told.payload == "end":
                return found
            found.append(json.loads(told.payload))
        raise AssertionError("the listener heard nothing")

    def told(self, *statements: str) -> Told:
        return [(told["table"], told["keys"]) for told in self.run(*statements)]

    def close(self) -> None:
        self._hears.close()
        self._writes.close()


@pytest.fixture(scope="module")
def url(pg_module_url: str) -> str:
    """A migrated database."""
    with DataLayer(pg_module_url, models=Base) as layer:
        layer.migrate()
    return pg_module_url


@pytest.fixture
def ear(url: str) -> Iterator[Ear]:
    found = Ear(url)
    found.run("TRUNCATE told_owners, told_pets, told_quiet")
    yield found
    found.close()


def test_every_kind_of_write_is_told_with_its_keys(ear: Ear) -> None:
    assert ear.told("INSERT INTO told_owners VALUES (1), (2), (3)") == [("told_owners", [[1], [2], [3]])]
    assert ear.told("INSERT INTO told_pets VALUES ('it''s', 1, 1), ('b', 2, 2)") == [
        ("told_pets", [["it's", 1], ["b", 2]])
    ]
    assert ear.told("UPDATE told_pets SET owner_id = 3 WHERE number = 2") == [("told_pets", [["b", 2]])]
    assert ear.told("UPDATE told_pets SET number = 5 WHERE number = 2") == [("told_pets", [["b", 2], ["b", 5]])]
    assert ear.told("DELETE FROM told_pets WHERE number = 5") == [("told_pets", [["b", 5]])]
    assert ear.told("TRUNCATE told_pets") == [("told_pets", None)]


def test_cascades_are_told(ear: Ear) -> None:
    ear.run("INSERT INTO told_owners VALUES (1)", "INSERT INTO told_pets VALUES ('a', 7, 1)")
    assert sorted(ear.told("DELETE FROM told_owners")) == [("told_owners", [[1]]), ("told_pets", [["a", 7]])]


def test_copy_is_told(ear: Ear) -> None:
    connection = ear._writes
    with connection.cursor() as cursor, cursor.copy("COPY told_owners FROM STDIN") as copy:
        copy.write("41\n42\n")
    assert ear.told() == [("told_owners", [[41], [42]])]


def test_many_rows_are_told_as_the_table(ear: Ear) -> None:
    assert ear.told("INSERT INTO told_owners SELECT generate_series(1, 100)")[0][1] == [[i] for i in range(1, 101)]
    assert ear.told("UPDATE told_owners SET id = -id WHERE id <= 50")[0][1] is not None
    assert ear.told("UPDATE told_owners SET id = id + 10000") == [("told_owners", None)]
    long = "x" * 3000
    pets = ", ".join(f"('{long}{i}', {i}, 10077)" for i in range(3))
    assert ear.told(f"INSERT INTO told_pets VALUES {pets}") == [("told_pets", None)]


def test_what_changes_nothing_or_is_rolled_back_is_not_told(ear: Ear) -> None:
    assert ear.told("UPDATE told_owners SET id = 1 WHERE id = 99", "DELETE FROM told_pets WHERE number = 99") == []
    assert ear.run("INSERT INTO told_owners VALUES (5)", commit=False) == []
    assert ear.told("INSERT INTO told_quiet VALUES (1)") == []


def test_the_writers_transaction_is_named(ear: Ear) -> None:
    (told,) = ear.run("INSERT INTO told_owners VALUES (6)")
    ((xid,),) = rows_of(ear, "SELECT xmin::text FROM told_owners WHERE id = 6")
    assert told == {"schema": "public", "table": "told_owners", "xid": xid, "keys": [[6]]}


def rows_of(ear: Ear, sql: str) -> list[Any]:
    return ear._writes.execute(sql).fetchall()  # type: ignore[arg-type]


def test_the_plan_is_empty_afterwards_and_what_is_missing_is_made(url: str, ear: Ear) -> None:
    with DataLayer(url, models=Base) as layer:
        assert layer.migrate().applied == ()
        ear.run("DROP TRIGGER datalayer_update ON told_pets", "DROP TRIGGER datalayer_truncate ON told_pets")
        assert layer.migrate().applied == ("create triggers that tell of update, truncate on told_pets",)
        ear.run("CREATE OR REPLACE FUNCTION datalayer_notify() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'")
        assert layer.migrate().applied == ("create function datalayer_notify",)
        assert ear.told("INSERT INTO told_owners VALUES (8)") == [("told_owners", [[8]])]
        assert not layer.drift()


def test_triggers_that_no_policy_asks_for_are_left_and_reported(pg_url: str) -> None:
    with DataLayer(pg_url, models=Alone) as layer:
        layer.migrate()
        plain = sa.MetaData()
        sa.Table("told_singles", plain, sa.Column("id", sa.Integer, primary_key=True))
        report = create_missing(layer.engine, [plain])
        assert [refusal.rule for refusal in report.refused] == ["drop-trigger"] * 4
        assert report.blocked == ()
        assert len(rows(layer.engine, "SELECT 1 FROM pg_trigger WHERE tgname LIKE 'datalayer%'")) == 4


def test_sqlite_needs_none(sqlite_url: str) -> None:
    with DataLayer(sqlite_url, models=Alone) as layer:
        assert layer.migrate().applied == ("create table told_singles",)

"""Sessions on a read replica: past every cache, read-only, and never behind this process's own writes."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import CachePolicy, DataLayer, Model, Q, Repository, TransactionFailed, column
from datalayer.testing.counting import Statements
from datalayer.testing.servers import start_postgres
from datalayer.testing.servers.postgres import PrivatePostgres

Pair = tuple[PrivatePostgres, PrivatePostgres]


class Copied(Model):
    __tablename__ = "copied"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    primary = start_postgres()
    replica = primary.replica()
    yield primary, replica
    replica.stop()
    primary.stop()


@pytest.fixture
def layer(servers: Pair) -> Iterator[DataLayer]:
    with DataLayer(servers[0].url, read_replica=servers[1].url, models=[Copied]) as layer:
        Model.metadata.drop_all(layer.engine, tables=[Copied.__table__])  # type: ignore[list-item]
        Model.metadata.create_all(layer.engine, tables=[Copied.__table__])  # type: ignore[list-item]
        layer.repository(Copied).create(Copied(id=1, name="one"))
        yield layer


def pause_replay(servers: Pair, *, paused: bool) -> None:
    engine = sa.create_engine(servers[1].url)
    with engine.connect() as connection:
        connection.execute(sa.text(f"SELECT pg_wal_replay_{'pause' if paused else 'resume'}()"))
        connection.commit()
    engine.dispose()


def in_recovery(session: object) -> bool:
    return bool(session.scalar(sa.text("SELECT pg_is_in_recovery()")))  # type: ignore[attr-defined]


def test_reads_go_to_the_replica_see_own_writes_and_fill_no_cache(layer: DataLayer) -> None:
    things = layer.repository(Copied)
    for i in range(5):
        things.update(1, name=f"v{i}")
        with layer.on_replica() as session:
            assert in_recovery(session)
            assert session.get_one(Copied, 1).name == f"v{i}"
    things.create(Copied(id=2, name="two"))
    layer.touch(Copied)
    (ladder,) = layer.caches.ladders()
    with layer.on_replica() as session:
        found = session.get(Copied, 2)
        assert session.scalars(sa.select(Copied.name).order_by(Copied.id)).all() == ["v4", "two"]
        assert [row.name for row in Repository[Copied](session).search(Q(Copied).where(id=2))] == ["two"]
    assert len(ladder.l1) == 0
    assert found is not None
    assert found.name == "two", "instances stay loaded"


def test_a_model_may_have_a_copy_of_its_own(servers: Pair) -> None:
    class Base(DeclarativeBase):
        pass

    class Reported(Base):
        __tablename__ = "reported"
        __cache__ = CachePolicy(read_replica=servers[1].url)
        id: Mapped[int] = column(primary_key=True)

    with DataLayer(servers[0].url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        layer.repository(Reported).create(Reported(id=1))
        assert set(layer.health().tiers) == {"l1", "l2", "l3"}
        with layer.on_replica(Reported) as session:
            assert in_recovery(session)
            assert session.get_one(Reported, 1).id == 1
        with layer.on_replica() as session:
            assert not in_recovery(session), "the layer has none"
        (name,) = set(layer.health().tiers) - {"l1", "l2", "l3"}
        assert name.startswith("replica ")
        assert "@" not in name


def test_a_replica_that_lags_behind_our_writes_is_passed_by(layer: DataLayer, servers: Pair) -> None:
    pause_replay(servers, paused=True)
    try:
        layer.repository(Copied).update(1, name="new")
        with layer.on_replica(wait=0.02) as session:
            assert not in_recovery(session)
            assert session.get_one(Copied, 1).name == "new"
        other = DataLayer(servers[0].url, read_replica=servers[1].url, models=[Copied])
        with other, other.on_replica(wait=0) as session:
            assert in_recovery(session), "who has written nothing may see the past"
            assert session.get_one(Copied, 1).name == "one"
    finally:
        pause_replay(servers, paused=False)
    with layer.on_replica(wait=20) as session:
        assert in_recovery(session)
        assert session.get_one(Copied, 1).name == "new"


def test_the_primary_is_asked_for_its_position_once_after_a_write(layer: DataLayer) -> None:
    with layer.on_replica():
        pass
    with Statements(layer.engine) as statements:
        with layer.on_replica(), layer.on_replica():
            pass
        assert statements.texts == []


def test_a_session_on_the_replica_or_in_its_place_cannot_write(layer: DataLayer, servers: Pair) -> None:
    with layer.on_replica() as session:
        session.add(Copied(id=9, name="nine"))
        with pytest.raises(TransactionFailed):
            session.flush()
        session.rollback()
    with DataLayer(servers[0].url, models=[Copied]) as alone, alone.on_replica() as session:
        assert not in_recovery(session)
        with pytest.raises(TransactionFailed):
            session.execute(sa.insert(Copied).values(id=9, name="nine"))
        session.rollback()
    assert layer.repository(Copied).get(9) is None


@pytest.mark.parametrize("level", ["shared", "database"])
def test_reads_that_may_not_lag_go_to_the_primary(layer: DataLayer, level: str) -> None:
    with layer.consistency(level), layer.on_replica() as session:  # type: ignore[arg-type]
        assert not in_recovery(session)


def test_a_replica_that_is_away_is_passed_by_logged_once_and_seen_in_health(
    servers: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = "postgresql+psycopg://postgres@127.0.0.1:1/postgres"
    with DataLayer(servers[0].url, read_replica=nobody, models=[Copied]) as layer:
        with caplog.at_level(logging.WARNING, logger="datalayer.l3"):
            for _ in range(2):
                with layer.on_replica() as session:
                    assert not in_recovery(session)
        assert [record.event for record in caplog.records] == ["replica.away"]
        health = layer.health()
        assert (health.status, health.tiers["replica"].ok) == ("degraded", False)


def test_health_and_statistics_know_the_replica(layer: DataLayer) -> None:
    health = layer.health()
    assert (health.status, health.tiers["replica"].ok) == ("ok", True)
    with layer.on_replica() as session:
        session.execute(sa.text("SELECT 'r', name FROM copied"))
    assert [s.calls for s in layer.query_stats() if s.statement == "SELECT ?, name FROM copied"] == [1]


def test_a_copy_that_cannot_say_what_it_has_serves_until_this_process_writes(tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/copy.db"
    with DataLayer(url, models=[Copied]) as copy:
        Model.metadata.create_all(copy.engine, tables=[Copied.__table__])  # type: ignore[list-item]
        copy.repository(Copied).create(Copied(id=1, name="copy"))
    with DataLayer("sqlite://", read_replica=url, models=[Copied]) as layer:
        with layer.on_replica() as session:
            assert session.get_one(Copied, 1).name == "copy"
            with pytest.raises(TransactionFailed):
                session.execute(sa.delete(Copied))
            session.rollback()
        Model.metadata.create_all(layer.engine, tables=[Copied.__table__])  # type: ignore[list-item]
        layer.repository(Copied).create(Copied(id=1, name="own"))
        with layer.on_replica() as session:
            assert session.get_one(Copied, 1).name == "own"

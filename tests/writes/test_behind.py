"""What a caller sees of write-behind: acknowledgements, reads, refusals, dead letters, hooks, limits and errors."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import (
    AlreadyExistsError,
    CachePolicy,
    ConfigError,
    DataLayer,
    Hooks,
    InvalidModelError,
    MissingPrimaryKeyError,
    NotFoundError,
    SoftDelete,
    UnavailableError,
    Versioned,
    WriteBehindExhausted,
    WriteMode,
    column,
)
from datalayer.testing.counting import Statements
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_cluster, start_redis

BEHIND = CachePolicy(write_mode=WriteMode.BEHIND)
STILL: dict[str, Any] = {"write_behind_flush_interval": 3600, "write_behind_flush_threshold": 1_000_000}
seen: list[Any] = []


class Base(DeclarativeBase):
    pass


class Score(Base):
    __tablename__ = "wb_scores"
    __cache__ = BEHIND
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    points: Mapped[int] = column(default=0)
    note: Mapped[str | None]
    made: Mapped[Any] = column(sa.DateTime(timezone=True), auto_now_add=True)


class Strict(Base):
    __tablename__ = "wb_strict"
    __table_args__ = (sa.CheckConstraint("points >= 0", name="ck_points"),)
    __cache__ = CachePolicy(
        write_mode=WriteMode.BEHIND,
        hooks=Hooks(
            before_set=lambda obj: refuse(obj),
            after_set=lambda obj: seen.append(("after", obj.id, obj.points)),
            on_write_error=lambda key, error: seen.append(("error", key, type(error))),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    points: Mapped[int]


class Secret(Base):
    __tablename__ = "wb_secrets"
    __cache__ = BEHIND
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    email: Mapped[str] = column(encrypted=True, blind_index=True)
    points: Mapped[int] = mapped_column(sa.CheckConstraint("points >= 0"), default=0)


class Soft(SoftDelete, Base):
    __tablename__ = "wb_soft"
    __cache__ = BEHIND
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]


class Pair(Base):
    __tablename__ = "wb_pairs"
    __cache__ = BEHIND
    left: Mapped[str] = mapped_column(primary_key=True)
    right: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]


class Plain(Base):
    __tablename__ = "wb_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def refuse(obj: Any) -> None:
    if obj.points == 13:
        raise ValueError("thirteen is unlucky")


KEYS = {"k1": b"k" * 32}


def open_layer(url: str, **options: Any) -> DataLayer:
    layer = DataLayer(url, models=Base, encryption_keys=KEYS, **(STILL | options))
    layer.explain(Score)
    assert layer._parts.registry.classes()
    Base.metadata.create_all(layer.engine)
    return layer


@pytest.fixture
def layer(sqlite_url: str) -> Iterator[DataLayer]:
    seen.clear()
    with open_layer(sqlite_url) as layer:
        yield layer


def stored(layer: DataLayer, statement: str) -> list[Any]:
    with layer.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


# -- writes and reads --------------------------------------------------------------------------------------------------


def test_a_write_returns_before_the_database_has_it_and_is_read_at_once(layer: DataLayer) -> None:
    scores = layer.repository(Score)
    with Statements(layer.engine) as statements:
        made = scores.set(Score(id=1, name="ann", note=None, made=None, points=3))
        before = len(statements)
        found = scores.get(1)
        assert len(statements) == before
    assert (made.name, made.points, made.made is not None) == ("ann", 3, True)
    assert found is not None
    assert (found.name, found.points, found.made) == ("ann", 3, made.made)
    assert stored(layer, "SELECT * FROM wb_scores") == []
    assert layer.stats().dirty_count == 1
    assert layer.flush().ok
    assert stored(layer, "SELECT name, points FROM wb_scores") == [("ann", 3)]
    assert layer.stats().dirty_count == 0
    assert scores.get_one(1).name == "ann"


def test_reads_of_every_kind_by_key_see_what_is_queued(layer: DataLayer) -> None:
    scores = layer.repository(Score)
    scores.set_many([Score(id=i, name=f"n{i}") for i in range(3)])
    for level in ("cached", "shared"):
        assert scores.get(1, consistency=level).name == "n1"  # type: ignore[arg-type, union-attr]
        assert sorted(scores.get_many([0, 1, 2, 9], consistency=level)) == [0, 1, 2]  # type: ignore[arg-type]
    assert scores.get(1, consistency="database") is None
    assert scores.exists(2)
    with layer.session() as session:
        assert session.get(Score, 2).name == "n2"  # type: ignore[union-attr]
    scores.invalidate_all()
    assert scores.get_one(2).name == "n2"
    assert scores.count() == 0
    layer.flush()
    assert scores.count() == 3


def test_many_writes_of_one_row_are_one_statement(layer: DataLayer) -> None:
    scores = layer.repository(Score)
    scores.set(Score(id=1, name="first"))
    for i in range(50):
        scores.update(1, points=i)
    behind = layer._behind()
    behind.flush()
    assert (behind.counts["flushed"], behind.counts["rows"]) == (51, 1)
    assert stored(layer, "SELECT name, points FROM wb_scores") == [("first", 49)]


def test_what_is_not_loaded_is_taken_from_the_newest_row(layer: DataLayer) -> None:
    scores = layer.repository(Score)
    made = scores.set(Score(id=1, name="ann", note="keep", points=7)).made
    again = scores.set(Score(id=1, name="anna"))
    assert (again.note, again.points, again.made) == ("keep", 7, made)
    layer.flush()
    again = scores.set(Score(id=1, points=8))
    assert (again.name, again.note) == ("anna", "keep")


def test_what_has_no_value_and_no_default_is_refused(layer: DataLayer) -> None:
    with pytest.raises(InvalidModelError, match=r"Score\.name has no value"):
        layer.repository(Score).set(Score(id=1))
    with pytest.raises(MissingPrimaryKeyError):
        layer.repository(Score).set(Score(name="x"))


def test_create_update_and_delete_answer_from_what_is_queued(layer: DataLayer) -> None:
    scores = layer.repository(Score)
    scores.create(Score(id=1, name="ann"))
    with pytest.raises(AlreadyExistsError):
        scores.create(Score(id=1, name="bob"))
    with pytest.raises(NotFoundError):
        scores.update(2, name="x")
    assert scores.delete(1) is True
    assert scores.delete(1) is False
    assert scores.get(1) is None
    with pytest.raises(InvalidModelError, match="increment"):
        scores.compare_and_set(Score(id=1, name="x"), expected={"name": "y"})


def test_soft_deletes_and_their_return_are_queued(layer: DataLayer) -> None:
    soft = layer.repository(Soft)
    soft.set(Soft(id=1, name="x"))
    assert soft.delete(1) is True
    assert soft.get(1) is None
    assert soft.delete(1) is False
    assert soft.restore(1).name == "x"
    assert soft.get_one(1).name == "x"
    assert soft.delete(1, hard=True) is True
    layer.flush()
    assert stored(layer, "SELECT * FROM wb_soft") == []


def test_composite_keys_are_queued(layer: DataLayer) -> None:
    pairs = layer.repository(Pair)
    pairs.set(Pair(left="a", right=1, text="one"))
    assert pairs.get_one(("a", 1)).text == "one"
    layer.flush()
    pairs.delete(("a", 1))
    assert pairs.get(("a", 1)) is None
    layer.flush()
    assert stored(layer, "SELECT * FROM wb_pairs") == []


def test_additions_are_exact_and_read_after_they_are_applied(layer: DataLayer) -> None:
    scores = layer.repository(Score)
    scores.set(Score(id=1, name="ann", points=1))
    for _ in range(10):
        scores.increment(1, points=2)
    assert scores.get_one(1).points == 21
    with pytest.raises(InvalidModelError, match="no column that can be added to"):
        scores.increment(1, name=1)


def test_an_addition_to_a_row_that_is_not_there_becomes_a_dead_letter(sqlite_url: str) -> None:
    with open_layer(sqlite_url, write_behind_max_retry=0) as layer:
        layer.repository(Score).increment(5, points=1)
        assert layer.flush(5).dead == 1
        (letter,) = layer.dead_letters().list()
        assert (letter.table, letter.key, letter.kind) == ("wb_scores", "5", "add")


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_sessions_refuse_to_write_what_is_written_behind(layer: DataLayer) -> None:
    layer.repository(Score).set(Score(id=1, name="ann"))
    writes: list[Any] = [
        lambda session: session.add(Score(id=2, name="x", points=0, made=None)),
        lambda session: session.execute(sa.update(Score).values(points=1)),
        lambda session: session.execute(sa.insert(Score.__table__).values(id=3, name="x", points=0)),  # type: ignore[arg-type]
        lambda session: session.execute(sa.delete(Score)),
    ]
    for write in writes:
        with layer.session() as session, pytest.raises(InvalidModelError, match="written behind"):
            write(session) or session.commit()
    with layer.begin() as session:
        session.add(Plain(id=1, name="through"))
    assert stored(layer, "SELECT name FROM wb_plain") == [("through",)]


# -- hooks and dead letters --------------------------------------------------------------------------------------------


def test_hooks_are_called_at_the_call_and_at_the_flush(layer: DataLayer) -> None:
    strict = layer.repository(Strict)
    with pytest.raises(ValueError, match="unlucky"):
        strict.set(Strict(id=1, points=13))
    assert layer.stats().dirty_count == 0
    strict.set(Strict(id=1, points=1))
    strict.set(Strict(id=1, points=2))
    assert seen == []
    layer.flush()
    assert seen == [("after", 1, 2)]


def test_a_refused_write_is_tried_again_then_kept_and_the_rest_goes_on(sqlite_url: str) -> None:
    seen.clear()
    with open_layer(sqlite_url, write_behind_max_retry=1) as layer:
        strict = layer.repository(Strict)
        strict.set_many([Strict(id=1, points=-1), Strict(id=2, points=2)])
        report = layer.flush(10)
        assert (report.left, report.waiting, report.dead) == (0, 0, 1)
        assert stored(layer, "SELECT id FROM wb_strict") == [(2,)]
        (letter,) = layer.dead_letters().list()
        assert (letter.table, letter.key, letter.kind, letter.attempts) == ("wb_strict", "1", "set", 2)
        assert "ck_points" in letter.reason
        assert ("error", 1, WriteBehindExhausted) in seen
        assert strict.get(1) is None  # what will never be there is not shown any longer
        assert layer.queue_status().dead == 1


def test_a_dead_letter_is_retried_unless_a_newer_write_came(sqlite_url: str) -> None:
    with open_layer(sqlite_url, write_behind_max_retry=0) as layer:
        strict = layer.repository(Strict)
        strict.set_many([Strict(id=1, points=-1), Strict(id=2, points=-2), Strict(id=3, points=-3)])
        assert layer.flush(5).dead == 3
        strict.set(Strict(id=1, points=5))
        layer.flush()
        letters = layer.dead_letters()
        with layer.engine.begin() as connection:  # the constraint was a mistake
            connection.exec_driver_sql("ALTER TABLE wb_strict RENAME TO old")
            connection.exec_driver_sql(
                "CREATE TABLE wb_strict (id INTEGER PRIMARY KEY, points INTEGER, _wb_seq BIGINT)"
            )
            connection.exec_driver_sql("INSERT INTO wb_strict SELECT id, points, _wb_seq FROM old")
        keys = {letter.key: letter.id for letter in letters.list()}
        assert letters.drop([keys["3"]]) == 1
        assert letters.retry() == 2
        assert layer.flush(5).ok
        assert len(letters) == 0
        assert stored(layer, "SELECT id, points FROM wb_strict ORDER BY id") == [(1, 5), (2, -2)]
        assert strict.get_one(2).points == -2


def test_secrets_are_ciphertext_in_the_journal_and_in_dead_letters(layer: DataLayer, tmp_path: Path) -> None:
    secrets = layer.repository(Secret)
    secrets.set_many([Secret(id=1, email="ann@example.com"), Secret(id=2, email="bob@example.com", points=-1)])
    assert secrets.get_one(1).email == "ann@example.com"
    everything = b"".join(path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file())
    assert b"example.com" not in everything
    layer.flush(0.5)
    assert stored(layer, "SELECT body FROM datalayer_dead_letters")
    everything = b"".join(path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file())
    assert b"example.com" not in everything
    assert [row.id for row in secrets.search(sa.select(Secret).where(Secret.email == "ann@example.com"))] == [1]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_full_journal_writes_through(sqlite_url: str) -> None:
    with open_layer(sqlite_url, write_behind_max_backlog=2) as layer:
        scores = layer.repository(Score)
        for i in range(4):
            scores.set(Score(id=i, name="x"))
        assert [row[0] for row in stored(layer, "SELECT id FROM wb_scores")] == [2, 3]
        scores.set(Score(id=1, name="newest"))
        layer.flush()
        assert stored(layer, "SELECT name FROM wb_scores WHERE id = 1") == [("newest",)]


def test_a_row_that_is_too_large_is_written_through(sqlite_url: str) -> None:
    with open_layer(sqlite_url, max_value_bytes=1000) as layer:
        scores = layer.repository(Score)
        scores.set(Score(id=1, name="small"))
        scores.set(Score(id=1, name="l" * 2000))
        assert scores.get_one(1).name == "l" * 2000
        layer.flush()
        assert stored(layer, "SELECT length(name) FROM wb_scores") == [(2000,)]


def test_a_flush_begins_by_itself_after_the_interval_and_after_the_threshold(sqlite_url: str) -> None:
    for options in ({"write_behind_flush_interval": 0.01}, {"write_behind_flush_threshold": 2}):
        with open_layer(sqlite_url, **options) as layer:
            layer.repository(Score).set_many([Score(id=i, name="x") for i in range(3)])
            deadline = time.monotonic() + 10
            while layer.stats().dirty_count and time.monotonic() < deadline:
                time.sleep(0.005)
            assert layer.stats().dirty_count == 0


def test_close_flushes_and_then_everything_is_refused(sqlite_url: str) -> None:
    layer = open_layer(sqlite_url)
    scores = layer.repository(Score)
    scores.set(Score(id=1, name="x"))
    report = layer.close()
    assert report is not None
    assert (report.ok, report.flushed) == (True, 1)
    assert layer.close() is None
    with pytest.raises(UnavailableError):
        scores.set(Score(id=2, name="y"))
    with open_layer(sqlite_url) as again:
        assert stored(again, "SELECT name FROM wb_scores") == [("x",)]


def test_close_says_what_is_left_and_the_next_process_finds_it(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = open_layer(sqlite_url, close_timeout=0.2)
    layer.repository(Score).set(Score(id=1, name="x"))
    blocker = sqlite3.connect(make_url(sqlite_url).database or "")
    blocker.execute("PRAGMA busy_timeout=0")
    blocker.execute("BEGIN IMMEDIATE")
    layer.engine.dispose()
    with caplog.at_level(logging.ERROR, "datalayer.writes"):
        report = layer.close()
    blocker.close()
    assert report is not None
    assert (report.ok, report.left) == (False, 1)
    assert "left" in caplog.text
    with open_layer(sqlite_url) as heir:
        assert heir.flush().ok
        assert stored(heir, "SELECT name FROM wb_scores") == [("x",)]


# -- journals ----------------------------------------------------------------------------------------------------------


def test_a_damaged_entry_is_set_aside_and_reported(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_layer(sqlite_url) as layer:
        scores = layer.repository(Score)
        scores.set_many([Score(id=i, name=f"n{i}") for i in range(3)])
        (path,) = Path(f"{make_url(sqlite_url).database}-journals").glob("*.journal")
        with sqlite3.connect(path) as other:
            other.execute("UPDATE entries SET body = x'FF00', name = CAST(x'FF' AS TEXT) WHERE id = 2")
        other.close()
        with caplog.at_level(logging.ERROR, "datalayer.writes"):
            assert layer.flush().ok
        assert "damaged" in caplog.text
        assert [row[0] for row in stored(layer, "SELECT id FROM wb_scores")] == [0, 2]


def test_a_forked_child_queues_in_a_journal_of_its_own(sqlite_url: str) -> None:
    with open_layer(sqlite_url) as layer:
        scores = layer.repository(Score)
        scores.set(Score(id=1, name="parent"))
        child = os.fork()
        if not child:
            try:
                layer.repository(Score).set(Score(id=2, name="child"))
                assert layer.flush().ok
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert [row[0] for row in stored(layer, "SELECT id FROM wb_scores")] == [2]
        assert layer.flush().ok
        assert [row[0] for row in stored(layer, "SELECT id FROM wb_scores ORDER BY id")] == [1, 2]


def test_a_journal_in_memory_warns(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "datalayer.writes"), open_layer(sqlite_url, journal="memory") as layer:
        layer.repository(Score).set(Score(id=1, name="x"))
        assert "lost when this process ends" in caplog.text
        assert layer.flush().ok
        assert stored(layer, "SELECT name FROM wb_scores") == [("x",)]


def test_sequence_numbers_grow_when_the_way_of_making_them_changes(pg_url: str, redis_url: str, tmp_path: Path) -> None:
    paths = {"journal": "file", "journal_path": str(tmp_path / "j")}
    for i, options in enumerate((paths, {"redis": redis_url, **paths}, paths, {"redis": redis_url, **paths})):
        with open_layer(pg_url, **options) as layer:
            layer.repository(Score).set(Score(id=1, name=f"n{i}"))
            assert layer.flush(10).ok
            assert stored(layer, "SELECT name FROM wb_scores") == [(f"n{i}",)]


# -- configuration -----------------------------------------------------------------------------------------------------


def test_migrate_adds_the_column_to_a_table_that_exists(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE wb_pairs (left TEXT, right INTEGER, text TEXT, PRIMARY KEY (left, right))"
        )
        connection.exec_driver_sql("INSERT INTO wb_pairs VALUES ('a', 1, 'old')")
    engine.dispose()
    with DataLayer(sqlite_url, models=[Pair], **STILL) as layer:
        pairs = layer.repository(Pair)
        with pytest.raises(ConfigError, match=r"layer\.migrate"):
            pairs.set(Pair(left="a", right=1, text="new"))
        layer.migrate()
        pairs.set(Pair(left="a", right=1, text="new"))
        assert layer.flush().ok
        assert stored(layer, "SELECT text FROM wb_pairs") == [("new",)]


def test_a_model_that_only_the_database_can_check_cannot_be_written_behind() -> None:
    class Own(DeclarativeBase):
        pass

    class Hidden(Own):
        __tablename__ = "wb_hidden"
        __cache__ = BEHIND
        id: Mapped[int] = mapped_column(primary_key=True)
        password: Mapped[str] = column(omit_cache=True)

    with pytest.raises(ConfigError, match="password is omit_cache"):
        DataLayer("sqlite://", models=[Hidden])


def test_the_default_mode_leaves_models_that_cannot_be_queued_as_they_are(sqlite_url: str) -> None:
    class Own(DeclarativeBase):
        pass

    class Fast(Own):
        __tablename__ = "wb_fast"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)

    class Counted(Versioned, Own):
        __tablename__ = "wb_counted"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)

    with DataLayer(sqlite_url, models=Own, write_mode="behind", **STILL) as layer:
        layer.migrate()
        layer.repository(Fast).set(Fast(id=1))
        layer.repository(Counted).create(Counted(id=1))
        assert stored(layer, "SELECT * FROM wb_fast") == []
        assert stored(layer, "SELECT id FROM wb_counted") == [(1,)]


def test_a_layer_without_a_place_for_its_journal_says_so(pg_url: str) -> None:
    with open_layer(pg_url) as layer, pytest.raises(ConfigError, match="journal_path"):
        layer.repository(Score)


def test_redis_in_front_of_sqlite_is_refused(sqlite_url: str, redis_url: str) -> None:
    with open_layer(sqlite_url, redis=redis_url) as layer, pytest.raises(ConfigError, match="needs PostgreSQL"):
        layer.repository(Score)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"appendonly": "no"}, "append-only"),
        ({"appendonly": "yes", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru"),
    ],
)
def test_a_redis_that_may_lose_the_journal_is_refused(
    pg_url: str, tmp_path: Path, config: dict[str, str], words: str
) -> None:
    server = start_redis(options=config)
    try:
        for journal in (None, "redis"):
            with (
                open_layer(pg_url, redis=server.url, journal=journal) as layer,
                pytest.raises(ConfigError, match=words),
            ):
                layer.repository(Score)
        with open_layer(pg_url, redis=server.url, journal_allow_unsafe=True) as layer:
            layer.repository(Score)
            assert "append-only file" in layer._behind().durability
        with open_layer(pg_url, redis=server.url, journal_path=str(tmp_path / "j")) as layer:
            layer.repository(Score)
            assert "machine's disk" in layer._behind().durability
    finally:
        server.stop()


# -- faults ------------------------------------------------------------------------------------------------------------

FAST: dict[str, Any] = {"fence_lease": 0.8, "redis_timeout": 0.2, "breaker_reset": 0.05}


def test_writes_go_through_while_redis_is_away_and_are_queued_again_afterwards(pg_url: str) -> None:
    server = start_redis(options={"appendonly": "yes"})
    try:
        with open_layer(pg_url, redis=server.url, **FAST) as layer:
            scores = layer.repository(Score)
            scores.set(Score(id=1, name="queued"))
            server.kill()
            began = time.monotonic()
            scores.set(Score(id=1, name="through"))
            assert time.monotonic() - began < 5
            assert stored(layer, "SELECT name FROM wb_scores") == [("through",)]
            assert scores.get_one(1).name == "through"
            server.restart()
            deadline = time.monotonic() + 20
            while layer._behind().counts["acknowledged"] < 2 and time.monotonic() < deadline:
                scores.set(Score(id=2, name="again"))
                time.sleep(0.05)
            assert layer.flush(20).ok
            assert stored(layer, "SELECT name FROM wb_scores ORDER BY id") == [("through",), ("again",)]
            assert layer._behind().counts["acknowledged"] >= 2
    finally:
        server.stop()


def test_a_redis_whose_memory_is_full_takes_nothing_and_the_call_writes_through(pg_url: str) -> None:
    server = start_redis(options={"appendonly": "yes", "maxmemory-policy": "noeviction"})
    try:
        with open_layer(pg_url, redis=server.url, **FAST) as layer, server.client() as client:
            scores = layer.repository(Score)
            scores.set(Score(id=1, name="queued"))
            client.config_set("maxmemory", 1)
            scores.set(Score(id=1, name="through"))
            assert stored(layer, "SELECT name FROM wb_scores") == [("through",)]
            assert scores.get_one(1).name == "through"
            client.config_set("maxmemory", 0)
            assert layer.flush(10).ok
            assert stored(layer, "SELECT name FROM wb_scores") == [("through",)]
    finally:
        server.stop()


def test_writes_are_accepted_up_to_the_backlog_while_the_database_is_away(
    pg_url: str, redis_url: str, key_prefix: str
) -> None:
    with TcpProxy.for_url(pg_url) as proxy:
        options = FAST | {"journal": "redis", "journal_allow_unsafe": True, "write_behind_max_backlog": 3}
        options["key_prefix"] = key_prefix
        with open_layer(proxy.url, redis=redis_url, close_timeout=1, statement_timeout=2, **options) as layer:
            rows = layer.repository(Strict)
            rows.set(Strict(id=0, points=0))
            layer.flush()
            rows.get(0)
            proxy.refuse()
            authority = layer._behind()._authority
            assert authority is not None
            while authority.fence.live(0) is not None:
                time.sleep(0.02)
            for i in range(1, 4):
                rows.set(Strict(id=i, points=i))
            assert rows.get_one(2).points == 2
            with pytest.raises((UnavailableError, sa.exc.DBAPIError)):
                rows.set(Strict(id=4, points=4))
            proxy.pass_()
            assert layer.flush(20).ok
            assert [row[0] for row in stored(layer, "SELECT id FROM wb_strict ORDER BY id")] == [0, 1, 2, 3]


def test_queued_writes_work_on_a_cluster(pg_url: str) -> None:
    cluster = start_cluster(replicas=0)
    address = "redis+cluster://" + ",".join(url.partition("://")[2].partition("/")[0] for url in cluster.urls)
    try:
        options = {"journal": "redis", "journal_allow_unsafe": True, "redis_timeout": 2.0, "fence_lease": 10.0}
        with open_layer(pg_url, redis=address, **options) as a, open_layer(pg_url, redis=address, **options) as b:
            a.repository(Score).set_many([Score(id=i, name=f"n{i}", points=0, note=None, made=None) for i in range(60)])
            found = b.repository(Score).get_many(range(60), consistency="shared")
            assert [found[i].name for i in range(60)] == [f"n{i}" for i in range(60)]
            assert b.flush(20).ok
            assert stored(b, "SELECT count(*) FROM wb_scores") == [(60,)]
            assert a._behind().counts["acknowledged"] == 60
    finally:
        cluster.stop()

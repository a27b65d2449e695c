"""Slow statements are logged and all are counted, without their values."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from recorder import Recorder
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.observe.statements import Statements, normalized
from datalayer.tiers.l3 import ListeningReader

SECRET = "Tr0ub4dor"


class Timed(Model):
    __tablename__ = "timed"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def layer_of(pg_url: str) -> Iterator[Any]:
    layers: list[DataLayer] = []

    def make(**options: Any) -> DataLayer:
        layer = DataLayer(pg_url, models=[Timed], **options)
        layers.append(layer)
        Model.metadata.create_all(layer.engine, tables=[Timed.__table__])  # type: ignore[list-item]
        with layer.engine.begin() as connection:
            connection.execute(sa.delete(Timed))
            connection.execute(sa.insert(Timed), [{"id": i, "name": SECRET} for i in (1, 2, 3)])
        return layer

    yield make
    for layer in layers:
        layer.close()


@pytest.fixture
def slow(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, logger="datalayer.slow")
    return lambda: [record for record in caplog.records if record.name == "datalayer.slow"]


def run(layer: DataLayer, text: str, **values: Any) -> None:
    with layer.engine.begin() as connection:
        connection.execute(sa.text(text), values)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("SELECT a.b1 FROM a\n WHERE x = %(x_1)s::INTEGER", "SELECT a.b1 FROM a WHERE x = ?"),
        ("SELECT 1.5e3, .5, 0x1F, a1, 'it''s', E'a\\'b', $q$x'y$q$, U&'z'", "SELECT ?, ..., a1, ?, ..."),
        ("SELECT a FROM t WHERE a IN (%(a_1)s::VARCHAR, %(a_2)s::VARCHAR)", "SELECT a FROM t WHERE a IN (?, ...)"),
        ("INSERT INTO t VALUES (?, ?), (?, ?),(?, ?)", "INSERT INTO t VALUES (?, ...), ..."),
        (
            'SELECT "it\'s 1" FROM t -- secret\n/* more\n */ WHERE a::text = :b',
            'SELECT "it\'s 1" FROM t WHERE a::text = ?',
        ),
        ("SELECT a FROM t WHERE b = 'never closed 12", "SELECT a FROM t WHERE b = ?"),
        ("SELECT $1::TIMESTAMP WITH TIME ZONE, x FROM t", "SELECT ?, x FROM t"),
        ("CREATE ROLE r PASSWORD 'p'; SELECT /* 'x", "CREATE ROLE r PASSWORD ?; SELECT"),
    ],
)
def test_a_normalized_statement_has_no_values(written: str, kept: str) -> None:
    assert normalized(written) == kept


def test_mysql_quotes_values_in_its_own_way() -> None:
    assert normalized("SELECT `a` # 1\n, \"v\", 'a\\'b' FROM t", mysql=True) == "SELECT `a` , ?, ... FROM t"


def test_a_slow_statement_is_logged_once_with_its_text_and_without_values(layer_of: Any, slow: Any) -> None:
    layer = layer_of(slow_query=0.05)
    run(layer, f"SELECT name, pg_sleep(0.06) FROM timed WHERE id = 1 AND name = '{SECRET}' AND name = :n", n=SECRET)
    (record,) = slow()
    text = record.getMessage()
    assert "slow statement: SELECT name, pg_sleep(?) FROM timed WHERE id = ? AND name = ? AND name = ?" in text
    assert SECRET not in text
    assert record.levelno == logging.WARNING
    assert record.datalayer["rows"] == 1
    assert 0.06 <= record.datalayer["seconds"] < 5
    run(layer, "SELECT 1")
    assert len(slow()) == 1


def test_a_slow_read_of_the_driver_is_logged(layer_of: Any, slow: Any) -> None:
    layer = layer_of(slow_query=0.05)
    things = layer.repository(Timed)
    assert things.get(1).name == SECRET
    holding, held = threading.Event(), threading.Event()

    def hold() -> None:
        with layer.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE timed IN ACCESS EXCLUSIVE MODE"))
            held.set()
            holding.wait(10)
            connection.execute(sa.text("SELECT pg_sleep(0.2)"))

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    reader = threading.Thread(target=lambda: things.get(2))
    reader.start()
    holding.set()
    holder.join(10)
    reader.join(10)
    texts = [record.getMessage() for record in slow() if "pg_sleep" not in record.getMessage()]
    assert len(texts) == 1
    assert "FROM timed WHERE timed.id = ?" in texts[0]


def test_a_statement_that_fails_for_being_too_slow_is_logged_as_well(layer_of: Any, slow: Any) -> None:
    layer = layer_of(slow_query=0.05, statement_timeout=0.2)
    with pytest.raises(sa.exc.DBAPIError):
        run(layer, "SELECT pg_sleep(3)")
    (record,) = slow()
    assert record.datalayer["failed"] is True
    (stats,) = [s for s in layer.query_stats() if "pg_sleep" in s.statement]
    assert (stats.calls, stats.errors, stats.slow) == (1, 1, 1)


def test_statements_are_counted_by_their_normalized_text(layer_of: Any) -> None:
    layer = layer_of(slow_query=0.05)
    for i in (1, 2):
        run(layer, f"SELECT name, 'x{i}' FROM timed WHERE id = {i}")
    run(layer, "SELECT pg_sleep(0.3)")
    things = layer.repository(Timed)
    things.get(1), things.get(2), things.get(1)
    found = {stats.statement: stats for stats in layer.query_stats()}
    twice = found["SELECT name, ? FROM timed WHERE id = ?"]
    assert (twice.calls, twice.slow, twice.errors) == (2, 0, 0)
    assert 0 < twice.mean <= twice.max <= twice.total
    assert layer.query_stats(1)[0].statement == "SELECT pg_sleep(?)", "the dearest comes first"
    (by_key,) = [s for s in found.values() if s.statement.endswith("FROM timed WHERE timed.id = ?")]
    assert by_key.calls == 2, "the driver's reads are counted, and hits in L1 are none"
    stats = layer.stats()
    assert stats.statements >= 5
    assert stats.slow_statements == 1
    assert stats.queries[0].statement == "SELECT pg_sleep(?)"
    assert stats.to_dict()["queries"][0]["slow"] == 1
    assert SECRET not in str(stats.to_dict())


def test_rows_that_a_transaction_reads_by_key_are_counted_once(layer_of: Any) -> None:
    layer = layer_of()
    with layer.session() as session:
        assert session.get(Timed, 1, with_for_update=True).name == SECRET
    (locking,) = [stats for stats in layer.query_stats() if "FOR UPDATE" in stats.statement]
    assert locking.calls == 1


def test_the_table_of_statements_is_bounded_and_keeps_the_dearest() -> None:
    table = Statements(slow=0, most=10)
    table.took("SELECT dear", 9.0)
    for i in range(1000):
        table.took(f"SELECT c{i}x", 0.001)
    assert len(table.top()) <= 10
    assert table.top(1)[0].statement == "SELECT dear"
    assert table.calls == 1001


def test_the_log_and_the_table_can_be_had_without_each_other(layer_of: Any, slow: Any) -> None:
    counting = layer_of(slow_query=0.02, slow_query_log=False)
    run(counting, "SELECT pg_sleep(0.03)")
    assert not slow()
    assert counting.query_stats(1)[0].slow == 1
    logging_only = layer_of(slow_query=0.02, query_stats=False)
    run(logging_only, "SELECT pg_sleep(0.03)")
    assert len(slow()) == 1
    assert logging_only.query_stats() == []
    assert logging_only.stats().slow_statements == 1


def test_nothing_is_installed_when_nobody_wants_to_know(layer_of: Any) -> None:
    layer = layer_of(slow_query=0, query_stats=False)
    assert layer._parts.timing is None
    assert layer.query_stats() == []
    listeners = [*layer.engine.dispatch.before_cursor_execute]
    with_table = layer_of(slow_query=0)
    assert len(with_table.engine.dispatch.before_cursor_execute) == len(listeners) + 1


def test_the_drivers_own_way_is_still_taken_and_an_application_that_listens_still_sees_all(layer_of: Any) -> None:
    layer = layer_of()
    things = layer.repository(Timed)
    seen: list[str] = []
    things.get(1)
    assert isinstance(things._reader._rows, ListeningReader)
    assert not things._reader._rows._heard()
    sa.event.listen(layer.engine, "before_cursor_execute", lambda _c, _cur, statement, *_: seen.append(statement))
    things.get(2)
    assert len(seen) == 1
    assert sum(s.calls for s in layer.query_stats() if s.statement.endswith("FROM timed WHERE timed.id = ?")) == 2


def test_an_engine_of_the_applications_is_left_as_it_was(pg_url: str) -> None:
    engine = sa.create_engine(pg_url)

    def listeners() -> list[int]:
        found = engine.dispatch.before_cursor_execute, engine.dispatch.after_cursor_execute
        return [*map(len, found), len(engine.dialect.dispatch.handle_error)]

    before = listeners()
    with DataLayer(engine=engine, models=[Timed], metrics=Recorder(), metrics_interval=3600):
        assert all(now > then for now, then in zip(listeners(), before, strict=True))
    assert listeners() == before
    engine.dispose()


def test_a_recorder_is_told_the_latency_and_the_errors_of_statements(layer_of: Any) -> None:
    recorder = Recorder()
    layer = layer_of(metrics=recorder, slow_query=0, query_stats=False, metrics_interval=3600)
    layer.repository(Timed).get(1)
    assert {"get", "insert"} <= recorder.operations("l3")
    with pytest.raises(sa.exc.IntegrityError):
        run(layer, "INSERT INTO timed (id, name) VALUES (1, 'again')")
    assert recorder.counts["error", "l3", "integrity"] == 1


def test_sqlite_statements_are_timed_as_well() -> None:
    with DataLayer("sqlite://", models=[Timed]) as layer:
        Model.metadata.create_all(layer.engine, tables=[Timed.__table__])  # type: ignore[list-item]
        layer.repository(Timed).create(Timed(id=1, name=SECRET))
        assert any(s.statement.startswith("INSERT INTO timed") for s in layer.query_stats())
        assert SECRET not in str(layer.query_stats())

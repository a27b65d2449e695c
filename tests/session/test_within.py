"""Rows that a transaction reads by key: with and without locks, seen and unseen by listeners, as SQLAlchemy would."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
import zoo
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer, TransactionTimeout
from datalayer.testing.counting import Statements


def write_past_the_layer(layer: DataLayer, text: str) -> None:
    with sa.create_engine(layer.engine.url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text(text))


def test_a_locked_row_is_the_databases_whatever_is_cached(layer: DataLayer) -> None:
    layer.repository(zoo.Note).get(1)
    write_past_the_layer(layer, "UPDATE zoo_notes SET text = 'new' WHERE id = 1")
    with layer.begin() as session:
        note = session.get_one(zoo.Note, 1, with_for_update=True)
        assert note.text == "new"
        assert sa.inspect(note).persistent
        assert session.get(zoo.Note, 99, with_for_update=True) is None
        with pytest.raises(sa.exc.NoResultFound):
            session.get_one(zoo.Note, 99, with_for_update=True)


def test_a_lock_that_was_asked_for_is_held(layer: DataLayer) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no row locks")
    with layer.begin() as holder:
        holder.get_one(zoo.Note, 1, with_for_update=True)
        with layer.session() as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(TransactionTimeout):
                other.get_one(zoo.Note, 1, with_for_update=True)
    with layer.begin() as other:
        assert other.get_one(zoo.Note, 1, with_for_update=True).text == "keep"


def test_an_instance_that_the_session_has_is_locked_and_left_as_sqlalchemy_leaves_it(layer: DataLayer) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite would read the snapshot of its transaction")
    for count, session in enumerate((PlainSession(layer.engine), layer.session())):
        with session:
            note = session.get_one(zoo.Note, 1)
            before = note.text
            write_past_the_layer(layer, f"UPDATE zoo_notes SET text = 'new {count}' WHERE id = 1")
            assert session.get_one(zoo.Note, 1, with_for_update=True) is note
            assert note.text == before, "not without populate_existing"
            with PlainSession(layer.engine) as other, pytest.raises(sa.exc.OperationalError):
                other.get(zoo.Note, 1, with_for_update={"nowait": True})


def test_what_is_pending_is_flushed_before_a_row_is_locked(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.add(zoo.Note(id=5, text="pending"))
        session.execute(sa.select(1))
        note = session.get_one(zoo.Note, 5, with_for_update=True)
        assert note.text == "pending"
        with session.no_autoflush:
            session.add(zoo.Note(id=6, text="unseen"))
            assert session.get(zoo.Note, 6, with_for_update=True) is None


def test_a_locked_row_that_is_changed_is_written_and_seen(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.get_one(zoo.Note, 1, with_for_update=True).text = "changed"
    assert layer.repository(zoo.Note).get_one(1).text == "changed"


@pytest.mark.parametrize("model", [zoo.Fancy, zoo.Dog, zoo.Truck, zoo.Half, zoo.Uncached, zoo.Account])
def test_a_locked_row_has_what_a_plain_one_has(layer: DataLayer, model: type) -> None:
    key = 2 if model in (zoo.Dog, zoo.Truck) else 1
    with layer.begin() as session:
        locked = session.get_one(model, key, with_for_update=True)
        found = {a.key: getattr(locked, a.key) for a in sa.inspect(model).column_attrs}
    with layer.begin() as session, session._to_database():
        plain = session.get_one(model, key)
        assert found == {name: getattr(plain, name) for name in found}


def test_a_composite_key_can_be_locked(layer: DataLayer) -> None:
    with layer.begin() as session:
        assert session.get_one(zoo.Place, ("pt", 1), with_for_update=True).name == "porto"
        assert session.get(zoo.Place, {"country": "pt", "number": 2}, with_for_update=True) is None


def test_who_listens_sees_every_statement(layer: DataLayer) -> None:
    with Statements(layer.engine) as statements, layer.begin() as session:
        session.get_one(zoo.Note, 1, with_for_update=True)
        session.get_one(zoo.Club, 1)
        assert statements.taken() == 2
    with layer.begin() as session, Statements(session.connection()) as statements:
        session.get_one(zoo.Note, 1, with_for_update=True)
        assert statements.taken() == 1


def test_an_engine_that_echoes_logs_every_statement(any_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = sa.create_engine(any_url, echo=True)
    with DataLayer(engine=engine, models=zoo.Model) as layer:
        zoo.Model.metadata.create_all(engine)
        with caplog.at_level(logging.INFO, "sqlalchemy.engine"), layer.begin() as session:
            caplog.clear()
            assert session.get(zoo.Note, 1, with_for_update=True) is None
            assert "zoo_notes" in caplog.text
    engine.dispose()


def test_a_connection_that_dies_under_a_locking_read_is_not_used_again(layer: DataLayer) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no sessions to end")
    with layer.session() as session:
        session.get_one(zoo.Note, 1)
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        write_past_the_layer(layer, f"SELECT pg_terminate_backend({pid}, 5000)")
        with pytest.raises(sa.exc.OperationalError) as failure:
            session.get(zoo.Note, 2, with_for_update=True)
        assert failure.value.connection_invalidated
        session.rollback()
        assert session.get_one(zoo.Note, 1, with_for_update=True).text == "keep"

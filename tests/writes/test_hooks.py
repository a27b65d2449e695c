"""Hooks around writes: what they may refuse, when they are told, and what becomes of a hook that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from writing import Heard, Watched

from datalayer import ConflictError, DataLayer, HookError, Repository, Session
from datalayer.testing.counting import Statements

#: Every way to write a row of a model: each writes row 1 with the name "new".
WRITES: dict[str, Callable[[Session], object]] = {
    "unit of work": lambda s: setattr(s.get_one(Watched, 1), "name", "new"),
    "merge": lambda s: s.merge(Watched(id=1, name="new")),
    "repository update": lambda s: Repository[Watched](s).update(1, name="new"),
    "repository set": lambda s: Repository[Watched](s).set(Watched(id=1, name="new")),
    "repository set of an instance of the session": lambda s: _changed(s),
    "repository compare_and_set": lambda s: Repository[Watched](s).compare_and_set(
        Watched(id=1, name="new"), expected={"name": "old"}
    ),
}


def _changed(session: Session) -> None:
    found = session.get_one(Watched, 1)
    found.name = "new"
    Repository[Watched](session).set(found)


@pytest.fixture
def rows(layer: DataLayer, heard: Heard) -> Repository[Watched]:
    rows = layer.repository(Watched)
    rows.create(Watched(id=1, name="old"))
    rows.get(1)
    heard.taken()
    return rows


@pytest.mark.parametrize("how", WRITES)
def test_every_write_asks_before_and_tells_after_its_commit(
    layer: DataLayer, rows: Repository[Watched], heard: Heard, how: str
) -> None:
    with layer.session() as session:
        WRITES[how](session)
        session.flush()
        assert heard.taken("before_set") == [("before_set", 1, "new")]
        session.commit()
        assert heard.taken() == [("after_set", 1, "new")]
    assert rows.get_one(1).name == "new"


@pytest.mark.parametrize("how", WRITES)
def test_a_write_that_was_rolled_back_is_never_told(
    layer: DataLayer, rows: Repository[Watched], heard: Heard, how: str
) -> None:
    with layer.session() as session:
        WRITES[how](session)
        session.flush()
        session.rollback()
        session.add(Watched(id=2, name="other"))
        session.commit()
    assert [call for call in heard.taken("after_set") if call[1] == 1] == []
    with layer.session() as session:
        WRITES[how](session)
        session.flush()  # and close without a word
    assert heard.taken("after_set") == []


@pytest.mark.parametrize("how", WRITES)
def test_a_refusal_reaches_the_caller_and_no_tier_is_touched(
    layer: DataLayer, rows: Repository[Watched], heard: Heard, how: str
) -> None:
    def refuse(obj: Any) -> None:
        raise ValueError("not with me")

    heard.before = refuse
    with layer.session() as session, Statements(layer.engine) as statements:
        with pytest.raises(ValueError, match="not with me"):  # noqa: PT012
            WRITES[how](session)
            session.flush()
        assert not [s for s in statements.texts if not s.lstrip().upper().startswith("SELECT")]
        session.rollback()
    assert heard.taken("after_set") == []
    assert rows.get_one(1).name == "old"
    assert rows.get_one(1, consistency="database").name == "old"


@pytest.mark.parametrize("how", WRITES)
def test_a_hook_that_breaks_before_the_write_is_a_hook_error(
    layer: DataLayer, rows: Repository[Watched], heard: Heard, how: str
) -> None:
    heard.before = lambda obj: 1 / 0
    with layer.session() as session, pytest.raises(HookError, match="ZeroDivisionError") as failure:  # noqa: PT012
        WRITES[how](session)
        session.flush()
    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    assert rows.get_one(1).name == "old"


def test_a_hook_that_breaks_after_the_write_is_logged_and_counted_and_the_write_stands(
    layer: DataLayer, rows: Repository[Watched], heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    heard.after = lambda obj: 1 / 0
    before = layer.stats().errors
    with caplog.at_level(logging.ERROR, "datalayer.hooks"):
        assert rows.update(1, name="new").name == "new"
    assert rows.get_one(1).name == "new"
    assert layer.stats().errors == before + 1
    assert "after_set" in caplog.text


def test_a_hook_may_change_what_is_written(rows: Repository[Watched], heard: Heard) -> None:
    heard.before = lambda obj: setattr(obj, "name", obj.name.strip().lower())
    assert rows.create(Watched(id=2, name="  BOB ")).name == "bob"
    assert rows.set(Watched(id=3, name=" CYD")).name == "cyd"
    assert rows.update(1, name="ANN ").name == "ann"
    assert [rows.get_one(id, consistency="database").name for id in (1, 2, 3)] == ["ann", "bob", "cyd"]


def test_a_hook_may_write_other_rows_which_are_asked_for_too(layer: DataLayer, heard: Heard) -> None:
    with layer.session() as session:
        heard.before = lambda obj: session.add(Watched(id=obj.id + 1, name="n")) if obj.id < 3 else None
        session.add(Watched(id=1, name="n"))
        session.commit()
    assert [call[1] for call in heard.taken("before_set")] == [1, 2, 3]


def test_what_a_savepoint_took_back_is_not_told(layer: DataLayer, rows: Repository[Watched], heard: Heard) -> None:
    with layer.session() as session:
        session.add(Watched(id=2, name="outer"))
        session.flush()
        with session.begin_nested() as inner:
            session.add(Watched(id=3, name="lost"))
            session.flush()
            inner.rollback()
        with session.begin_nested():
            session.add(Watched(id=4, name="kept"))
        assert heard.taken("after_set") == []  # a released savepoint is no commit
        session.commit()
    assert [call[1] for call in heard.taken("after_set")] == [2, 4]


def test_a_commit_that_was_refused_is_not_told(pg: DataLayer, heard: Heard) -> None:
    with pg.engine.begin() as connection:
        connection.execute(
            sa.text("ALTER TABLE w_watched ADD CONSTRAINT late UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
        )
    rows = pg.repository(Watched)
    rows.create(Watched(id=1, name="taken"))
    heard.taken()
    with pytest.raises(sa.exc.IntegrityError):
        rows.create(Watched(id=2, name="taken"))
    assert heard.taken("after_set") == []


def test_an_object_that_did_not_change_is_not_asked_for(
    layer: DataLayer, rows: Repository[Watched], heard: Heard
) -> None:
    with layer.begin() as session:
        session.get_one(Watched, 1).name = "old"
    assert heard.taken() == []


def test_deletes_have_no_hooks(rows: Repository[Watched], heard: Heard) -> None:
    assert rows.delete(1)
    assert heard.taken() == []


def test_a_failed_comparison_is_not_told(rows: Repository[Watched], heard: Heard) -> None:
    with pytest.raises(ConflictError):
        rows.compare_and_set(Watched(id=1, name="new"), expected={"name": "else"})
    assert heard.taken("after_set") == []


def test_every_read_by_key_asks_first(rows: Repository[Watched], heard: Heard) -> None:
    rows.get(1), rows.get_one(1), rows.get_snapshot(1), rows.exists(1), rows.get_many([1, 2])
    assert heard.taken() == [("before_get", 1)] * 5 + [("before_get", 2)]


def test_hooks_work_in_a_session_without_a_layer(layer: DataLayer, heard: Heard) -> None:
    with Session(layer.engine) as session:
        session.add(Watched(id=9, name="n"))
        session.commit()
    assert heard.taken() == [("before_set", 9, "n"), ("after_set", 9, "n")]

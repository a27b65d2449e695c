"""Every kind of write: seen by all after its commit, by nobody else before, and never after a rollback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
import zoo
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer, Session
from datalayer.contracts.coherence import Outcome, WriteSet
from datalayer.testing.counting import Statements

Row = tuple[type, Any]

P = zoo.Member
T = P.__table__


def upsert(session: Session, **values: Any) -> None:
    insert = (
        sa.dialects.postgresql.insert if session.get_bind().dialect.name == "postgresql" else sa.dialects.sqlite.insert
    )
    session.execute(
        insert(P).values(id=1, name="w", **values).on_conflict_do_update(index_elements=["id"], set_={"name": "w"})
    )


def text_returning(session: Session) -> None:
    statement = sa.select(P).from_statement(sa.text("UPDATE zoo_players SET name = 'w' WHERE id = 1 RETURNING *"))
    session.scalars(statement).all()


def dml_in_cte(session: Session) -> None:
    if session.get_bind().dialect.name != "postgresql":
        pytest.skip("SQLite has no DML in a CTE")
    changed = sa.update(T).where(T.c.id == 1).values(name="w").returning(T.c.id).cte("changed")
    session.execute(sa.select(changed.c.id)).all()


def copy_in(session: Session) -> None:
    session.connection().exec_driver_sql("UPDATE zoo_players SET name = 'w' WHERE id = 1")


WRITES: dict[str, Callable[[Session], object]] = {
    "unit of work": lambda s: setattr(s.get_one(P, 1), "name", "w"),
    "merge": lambda s: s.merge(P(id=1, name="w")),
    "orm update, pinned": lambda s: s.execute(sa.update(P).where(P.id == 1).values(name="w")),
    "orm update, in": lambda s: s.execute(sa.update(P).where(P.id.in_([1, 2])).values(name="w")),
    "orm update, any row": lambda s: s.execute(sa.update(P).where(P.email == "ann@x").values(name="w")),
    "orm update, no sync": lambda s: s.execute(
        sa.update(P).where(P.id == 1).values(name="w"), execution_options={"synchronize_session": False}
    ),
    "orm update by primary key": lambda s: s.execute(sa.update(P), [{"id": 1, "name": "w"}]),
    "query update": lambda s: s.query(P).filter_by(id=1).update({"name": "w"}),
    "core update": lambda s: s.execute(T.update().where(T.c.id == 1).values(name="w")),
    "core update, executemany": lambda s: s.execute(
        T.update().where(T.c.id == sa.bindparam("k")).values(name=sa.bindparam("v")), [{"k": 1, "v": "w"}]
    ),
    "core update, on the connection": lambda s: s.connection().execute(T.update().values(name="w")),
    "bulk_update_mappings": lambda s: s.bulk_update_mappings(P, [{"id": 1, "name": "w"}]),
    "bulk_save_objects": lambda s: s.bulk_save_objects([_changed(s)]),
    "upsert": upsert,
    "text": lambda s: s.execute(sa.text("UPDATE zoo_players SET name = 'w' WHERE id = 1")),
    "text with a comment": lambda s: s.execute(sa.text("/* select */ update zoo_players set name = 'w' where id = 1")),
    "text returning": text_returning,
    "driver sql": copy_in,
    "dml in a cte": dml_in_cte,
}


def _changed(session: Session) -> Any:
    player = session.get_one(P, 1)
    session.expunge(player)
    player.name = "w"
    return player


@pytest.fixture
def warm(layer: DataLayer) -> Callable[[], str]:
    """Reads player 1 through a repository, a session and a snapshot; all agree."""
    players = layer.repository(P)

    def read() -> str:
        with layer.session() as session:
            names = {session.get_one(P, 1).name, players.get_one(1).name, players.get_snapshot(1).name}  # type: ignore[union-attr]
        (name,) = names
        return name

    assert read() == "ann"
    return read


@pytest.mark.parametrize("kind", WRITES)
def test_a_committed_write_is_read_by_everybody(layer: DataLayer, warm: Callable[[], str], kind: str) -> None:
    with layer.session() as session:
        WRITES[kind](session)
        session.commit()
    assert warm() == "w"


@pytest.mark.parametrize("kind", WRITES)
def test_a_rolled_back_write_was_never_there(layer: DataLayer, warm: Callable[[], str], kind: str) -> None:
    with layer.session() as session:
        WRITES[kind](session)
        session.flush()
        if layer.engine.dialect.name == "postgresql" or kind == "unit of work":
            assert warm() == "ann"
        session.rollback()
    assert warm() == "ann"
    with layer.session() as session:
        WRITES[kind](session)
        session.flush()  # and close without a word
    assert warm() == "ann"


@pytest.mark.parametrize("kind", WRITES)
def test_the_writing_transaction_reads_its_own_write(layer: DataLayer, warm: Callable[[], str], kind: str) -> None:
    with layer.session() as session:
        WRITES[kind](session)
        session.flush()
        session.expunge_all()
        assert session.get_one(P, 1).name == "w"
        assert session.scalars(sa.select(P).where(P.email == "ann@x")).one().name == "w"
        session.rollback()
    assert warm() == "ann"


def test_an_exact_write_leaves_the_other_rows_cached(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(P)
    players.get_many([1, 2])
    exact = ["unit of work", "orm update, pinned", "core update", "core update, executemany"]
    for kind in exact:
        with layer.session() as session:
            WRITES[kind](session)
            session.commit()
        players.get(1)
        statements.taken()
        assert players.get_one(2).name == "bob"
        assert statements.taken() == 0, kind


def test_a_plain_insert_leaves_cached_rows_alone(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(P)
    players.get(1)
    assert players.get(500) is None
    with layer.begin() as session:
        session.execute(T.insert().values(id=500, name="new", level=1))
    statements.taken()
    assert players.get(1) is not None
    assert statements.taken() == 0
    assert players.get_one(500).name == "new"


@pytest.mark.parametrize(
    "insert",
    [
        lambda s: s.add(P(id=500, name="new")),
        lambda s: s.execute(sa.insert(P), [{"id": 500, "name": "new"}]),
        lambda s: s.bulk_insert_mappings(P, [{"id": 500, "name": "new"}]),
        lambda s: s.execute(sa.text("INSERT INTO zoo_players (id, name, level) VALUES (500, 'new', 1)")),
        lambda s: s.execute(
            T.insert().from_select(
                ["id", "name", "level"], sa.select(sa.literal(500), T.c.name, T.c.level).where(T.c.id == 1)
            )
        ),
    ],
)
def test_an_insert_ends_what_was_known_to_be_absent(layer: DataLayer, insert: Callable[[Session], object]) -> None:
    players = layer.repository(P)
    assert players.get(500) is None
    with layer.session() as session:
        insert(session)
        session.commit()
    assert players.get(500) is not None


@pytest.mark.parametrize(
    "remove",
    [
        lambda s: s.delete(s.get_one(P, 1)),
        lambda s: s.execute(sa.delete(P).where(P.id == 1)),
        lambda s: s.execute(T.delete()),
        lambda s: s.execute(sa.text("DELETE FROM zoo_players WHERE id = 1")),
    ],
)
def test_a_delete_and_the_databases_cascade_reach_every_row(
    layer: DataLayer, remove: Callable[[Session], object]
) -> None:
    players, badges = layer.repository(P), layer.repository(zoo.Badge)
    assert players.get(1) is not None
    assert badges.get(1) is not None
    with layer.session() as session:
        remove(session)
        session.commit()
    assert players.get(1) is None
    assert badges.get(1) is None


def test_set_null_by_the_database_reaches_the_children(layer: DataLayer) -> None:
    players = layer.repository(P)
    assert players.get_one(1).team_id == 1
    with layer.begin() as session:
        session.delete(session.get_one(zoo.Club, 1))
    assert players.get_one(1).team_id is None


def test_a_cascade_that_only_the_database_knows_is_found(layer: DataLayer) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite cannot alter a foreign key")
    with layer.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE zoo_sized_parent (id int primary key)"))
        connection.execute(
            sa.text("ALTER TABLE zoo_sized ADD COLUMN parent int REFERENCES zoo_sized_parent ON DELETE CASCADE")
        )
        connection.execute(sa.text("INSERT INTO zoo_sized_parent VALUES (1)"))
        connection.execute(sa.text("INSERT INTO zoo_sized VALUES (1, 'x', 1)"))
    sized = layer.repository(zoo.Sized)
    assert sized.get(1) is not None
    parent = sa.Table("zoo_sized_parent", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    with layer.engine.begin() as connection:
        connection.execute(parent.delete())
    assert sized.get(1) is None


def test_a_changed_natural_key_moves_its_followers(layer: DataLayer) -> None:
    naturals, followers = layer.repository(zoo.Natural), layer.repository(zoo.Follower)
    assert followers.get_one(1).code == "a"
    assert naturals.get("b") is None
    with layer.begin() as session:
        session.get_one(zoo.Natural, "a").code = "b"
    assert followers.get_one(1).code == "b"
    assert naturals.get("a") is None
    assert naturals.get_one("b").label == "A"


def test_a_link_in_a_secondary_table_is_not_lost(layer: DataLayer) -> None:
    with layer.begin() as session:
        player = session.get_one(P, 1)
        player.tags.append(session.get_one(zoo.Tag, 1))
    with layer.session() as session:
        assert [tag.name for tag in session.get_one(P, 1).tags] == ["new"]


def test_a_plain_session_and_the_engine_itself_are_heard(layer: DataLayer, warm: Callable[[], str]) -> None:
    with PlainSession(layer.engine) as session:
        session.get_one(P, 1).name = "plain"
        session.commit()
    assert warm() == "plain"
    with layer.engine.begin() as connection:
        connection.execute(T.update().values(name="engine"))
    assert warm() == "engine"
    with layer.engine.connect() as connection:
        connection.execute(T.update().values(name="core"))
        connection.commit()
        assert warm() == "core"


def test_an_autocommit_connection_is_heard(layer: DataLayer, warm: Callable[[], str]) -> None:
    with layer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(T.update().where(T.c.id == 1).values(name="auto"))
        assert warm() == "auto"
        connection.execute(sa.text("UPDATE zoo_players SET name = 'text'"))
        assert warm() == "text"


def test_ddl_forgets_everything(layer: DataLayer, warm: Callable[[], str]) -> None:
    with layer.engine.begin() as connection:
        zoo.Model.metadata.drop_all(connection)
        zoo.Model.metadata.create_all(connection)
    assert layer.repository(P).get(1) is None


def test_a_savepoint_that_is_rolled_back_changes_nothing(layer: DataLayer, warm: Callable[[], str]) -> None:
    with layer.session() as session:
        player = session.get_one(P, 1)
        with session.begin_nested() as nested:
            player.name = "inner"
            session.flush()
            nested.rollback()
        session.commit()
    assert warm() == "ann"
    with layer.session() as session:
        with session.begin_nested():
            session.get_one(P, 1).name = "kept"
        assert layer.repository(P).get_one(1).name == "ann"
        session.commit()
    assert warm() == "kept"


def test_an_exception_in_the_block_rolls_back(layer: DataLayer, warm: Callable[[], str]) -> None:
    def fail() -> None:
        with layer.begin() as session:
            session.get_one(P, 1).name = "lost"
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert warm() == "ann"


def test_a_refused_commit_leaves_the_caches_as_they_were(layer: DataLayer, warm: Callable[[], str]) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("needs a deferred constraint")
    with layer.engine.begin() as connection:
        connection.execute(
            sa.text(
                "ALTER TABLE zoo_badges ADD CONSTRAINT late FOREIGN KEY (id) REFERENCES zoo_tags "
                "DEFERRABLE INITIALLY DEFERRED"
            )
        )
    assert warm() == "ann"
    with layer.session() as session:
        session.get_one(P, 1).name = "never"
        session.add(zoo.Badge(id=77, player_id=2, label="x"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
    assert warm() == "ann"
    assert layer._parts.coherence.pending() == 0


def test_a_two_phase_commit_is_heard(layer: DataLayer, warm: Callable[[], str]) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no two-phase commit")
    with layer.session(twophase=True) as session:
        session.get_one(P, 1).name = "prepared"
        session.prepare()
        assert layer.repository(P).get_one(1).name == "ann"
        session.commit()
    assert warm() == "prepared"


def test_touch_tells_of_writers_that_cannot_be_heard(layer: DataLayer, warm: Callable[[], str]) -> None:
    pooled = layer.engine.raw_connection()
    pooled.cursor().execute("UPDATE zoo_players SET name = 'raw'")
    pooled.commit()
    pooled.close()
    assert warm() == "ann"
    layer.touch(P)
    assert warm() == "raw"


def test_marks_do_not_outlive_their_transactions(layer: DataLayer, warm: Callable[[], str]) -> None:
    for kind in WRITES:
        if kind != "dml in a cte":
            with layer.session() as session:
                WRITES[kind](session)
                session.commit()
    assert layer._parts.coherence.pending() == 0
    assert all(ladder.guard.pending() == 0 for ladder in layer.caches.ladders())  # type: ignore[attr-defined]


def test_a_model_that_is_first_read_during_a_commit_obeys_its_marks(layer: DataLayer) -> None:
    coherence = layer._parts.coherence
    marks = coherence.mark(WriteSet(tables={"zoo_players"}))
    players = layer.repository(P)
    with Statements(layer.engine) as statements:
        players.get(1)
        players.get(1)
        assert statements.taken() == 2
        coherence.finish(marks, Outcome.COMMITTED)
        players.get(1)
        players.get(1)
        assert statements.taken() == 1

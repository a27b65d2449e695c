"""Every read that must go to the database although the row is cached: one test a rule."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
import zoo
from sqlalchemy import event
from sqlalchemy.orm import joinedload, with_loader_criteria

import datalayer
from datalayer import DataLayer, Session
from datalayer.testing.counting import Statements


@pytest.fixture
def session(layer: DataLayer, statements: Statements) -> Iterator[Session]:
    """A session of a layer whose cache holds player 1, team 1 and employee 2."""
    with layer.session() as first:
        first.get(zoo.Member, 1)
        first.get(zoo.Club, 1)
        first.get(zoo.Employee, 1)
        first.get(zoo.Employee, 2)
    statements.taken()
    with layer.session() as session:
        yield session


def test_the_fixture_would_hit(session: Session, statements: Statements) -> None:
    assert session.get_one(zoo.Member, 1).team is not None
    assert statements.taken() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"options": [joinedload(zoo.Member.team)]},
        {"with_for_update": True},
        {"populate_existing": True},
        {"execution_options": {"anything": 1}},
        {"bind_arguments": {"clause": sa.select(zoo.Member)}},
    ],
    ids=lambda o: next(iter(o)),
)
def test_a_get_with_options_asks_the_database(session: Session, statements: Statements, options: dict) -> None:
    assert session.get(zoo.Member, 1, **options) is not None
    assert statements.taken() == 1


def test_an_identity_token_asks_the_database(session: Session, statements: Statements) -> None:
    session.get(zoo.Member, 1, identity_token="shard")
    assert statements.taken() == 1


def test_refresh_and_expired_attributes_ask_the_database(session: Session, statements: Statements) -> None:
    player = session.get_one(zoo.Member, 1)
    session.refresh(player)
    assert statements.taken() == 1
    session.expire(player)
    assert player.name == "ann"
    assert statements.taken() == 1


def test_merge_never_starts_from_a_cached_row(session: Session, statements: Statements) -> None:
    merged = session.merge(zoo.Member(id=1, name="changed"))
    assert statements.taken() == 1
    assert merged.name == "changed"


def test_a_statement_listener_sees_the_select_and_may_filter(session: Session, statements: Statements) -> None:
    @event.listens_for(session, "do_orm_execute")
    def only_blue(state: sa.orm.ORMExecuteState) -> None:
        state.statement = state.statement.options(with_loader_criteria(zoo.Member, zoo.Member.name == "bob"))

    assert session.get(zoo.Member, 1) is None
    assert statements.taken() == 1
    assert session.scalars(sa.select(zoo.Member).where(zoo.Member.email == "ann@x")).all() == []


def test_a_listener_on_the_session_class_filters_repositories_too(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    assert players.get(1) is not None

    def only_blue(state: sa.orm.ORMExecuteState) -> None:
        state.statement = state.statement.options(with_loader_criteria(zoo.Member, zoo.Member.name == "bob"))

    event.listen(datalayer.Session, "do_orm_execute", only_blue)
    try:
        assert players.get(1) is None
        assert players.get_snapshot(1) is None
        assert players.get_many([1, 2]).keys() == {2}
        assert not players.exists(1)
    finally:
        event.remove(datalayer.Session, "do_orm_execute", only_blue)
    assert players.get(1) is not None


def test_a_lazy_load_of_a_parent_with_options_asks_the_database(session: Session, statements: Statements) -> None:
    option = sa.orm.defaultload(zoo.Member.team).load_only(zoo.Club.name)
    player = session.scalars(sa.select(zoo.Member).where(zoo.Member.name == "ann").options(option)).one()
    statements.taken()
    assert player.team is not None
    assert statements.taken() == 1


def test_a_relationship_that_must_not_load_still_raises(session: Session) -> None:
    worker = session.get_one(zoo.Employee, 2)
    with pytest.raises(sa.exc.InvalidRequestError, match="raise"):
        _ = worker.boss


def test_a_schema_translation_asks_the_database(layer: DataLayer, session: Session, statements: Statements) -> None:
    session.connection(execution_options={"schema_translate_map": {"nowhere": None}})
    assert session.get(zoo.Member, 1) is not None
    assert statements.taken() == 1


def test_an_external_transaction_is_never_read_from_or_put_into_the_cache(
    layer: DataLayer, session: Session, statements: Statements
) -> None:
    session.close()
    with layer.engine.connect() as connection:
        outer = connection.begin()
        connection.execute(sa.update(zoo.Member).values(name="inside"))
        with Session(connection, layer=layer, join_transaction_mode="create_savepoint") as inner:
            assert inner.get_one(zoo.Member, 1).name == "inside"
            assert inner.get_one(zoo.Member, 2).name == "inside"
        outer.rollback()
    with layer.session() as after:
        assert after.get_one(zoo.Member, 1).name == "ann"
        assert after.get_one(zoo.Member, 2).name == "bob"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_promises_more_asks_the_database(
    layer: DataLayer, session: Session, statements: Statements, level: str
) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one level")
    session.connection(execution_options={"isolation_level": level})
    assert session.get(zoo.Member, 1) is not None
    assert statements.taken() == 1


def test_an_isolation_set_by_text_is_noticed(layer: DataLayer, session: Session, statements: Statements) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no SET TRANSACTION")
    session.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    statements.taken()
    assert session.get(zoo.Member, 1) is not None
    assert statements.taken() == 1


def test_an_open_sqlite_snapshot_is_neither_served_from_nor_put_into_the_cache(
    layer: DataLayer, session: Session, statements: Statements
) -> None:
    if layer.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL takes a snapshot for each statement")
    session.execute(sa.text("BEGIN"))
    assert session.get_one(zoo.Member, 2).name == "bob"
    with layer.begin() as other:
        other.get_one(zoo.Tag, 1).name = "old"
    assert session.get_one(zoo.Tag, 1).name == "new"
    session.rollback()
    with layer.session() as after:
        assert after.get_one(zoo.Tag, 1).name == "old"


@pytest.mark.parametrize("key", ["1", 1.0, True])
def test_a_key_of_another_type_is_put_to_the_database(layer: DataLayer, session: Session, key: object) -> None:
    with sa.orm.Session(layer.engine) as plain:
        expected = _outcome(plain, key)
    assert _outcome(session, key) == expected
    session.rollback()
    assert session.get_one(zoo.Member, 1).name == "ann"


def _outcome(session: sa.orm.Session, key: object) -> object:
    try:
        found = session.get(zoo.Member, key)
    except sa.exc.SQLAlchemyError as error:
        return type(error)
    return found.id if found is not None else None


def test_a_written_key_is_read_from_the_database_by_its_own_transaction(
    session: Session, statements: Statements
) -> None:
    player = session.get_one(zoo.Member, 1)
    player.name = "mine"
    session.flush()
    session.expunge(player)
    statements.taken()
    assert session.get_one(zoo.Member, 1).name == "mine"
    assert statements.taken() == 1


def test_the_kill_switch_and_the_database_level_ask_the_database(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    statements.taken()
    with layer.cache_disabled(), layer.session() as session:
        assert session.get_one(zoo.Member, 1).name == players.get_one(1).name
    assert statements.taken() == 2
    with layer.consistency("database"), layer.session() as session:
        assert session.get_one(zoo.Member, 1).name == players.get_one(1).name
    assert statements.taken() == 2
    with layer.session(consistency="database") as session:
        session.get_one(zoo.Member, 1)
    assert statements.taken() == 1
    assert players.get(1, consistency="database") is not None
    assert statements.taken() == 1
    assert players.get(1) is not None
    assert statements.taken() == 0


def test_an_uncached_model_is_always_read(layer: DataLayer, statements: Statements) -> None:
    for _ in range(2):
        assert layer.repository(zoo.Uncached).get_one(1).name == "u"
    assert statements.taken() == 2
    assert "enabled=False" in layer.explain(zoo.Uncached)


def test_scopes_are_separate_caches_of_one_row(layer: DataLayer, statements: Statements) -> None:
    rows = layer.repository(zoo.Tenanted)
    for scope, expected in (("a", 1), ("a", 0), ("b", 1), (None, 1), ("b", 0)):
        zoo.tenant[0] = scope
        assert rows.get_one(1).name == "t"
        assert statements.taken() == expected
    zoo.tenant[0] = "a"
    rows.update(1, name="changed")
    zoo.tenant[0] = "b"
    assert rows.get_one(1).name == "changed"
    zoo.tenant[0] = None


def test_a_table_with_row_level_security_is_not_cached_without_a_scope(
    layer: DataLayer, statements: Statements
) -> None:
    if layer.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no row-level security")
    tags, tenanted = layer.repository(zoo.Tag), layer.repository(zoo.Tenanted)
    assert tags.get_one(1).name == "new"
    assert layer.explain(zoo.Tag) == "Tag is cached"
    with layer.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE zoo_tags ENABLE ROW LEVEL SECURITY"))
        connection.execute(sa.text("ALTER TABLE zoo_tenanted ENABLE ROW LEVEL SECURITY"))
    statements.taken()
    for _ in range(2):
        assert tags.get_one(1).name == "new"
        with layer.session() as session:
            assert session.get_one(zoo.Tag, 1).name == "new"
    assert statements.taken() == 4
    assert "row-level security" in layer.explain(zoo.Tag)
    tenanted.get(1), tenanted.get(1)
    assert statements.taken() == 1

"""Ciphertext that is bound to its row: worth nothing in any other."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from safe import Seat, Token
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, defer, mapped_column
from sqlalchemy.orm import Session as PlainSession

from datalayer import ConfigError, ConflictError, DataLayer, DecodeError, EncodeError, QueryError, column
from datalayer.models.columns import check_columns
from datalayer.models.schema import schema_of

Raw = Callable[..., list[Any]]
ID = uuid.UUID(int=7)
T = Token.__table__


def _create(layer: DataLayer) -> uuid.UUID:
    return layer.repository(Token).create(Token(secret="s")).id


def _upsert(layer: DataLayer) -> uuid.UUID:
    layer.repository(Token).set(Token(id=ID, secret="before"))
    return layer.repository(Token).set(Token(id=ID, secret="s")).id


def _update(layer: DataLayer) -> uuid.UUID:
    layer.repository(Token).create(Token(id=ID, secret="before"))
    layer.repository(Token).update(ID, secret="s")
    return ID


def _many(layer: DataLayer) -> uuid.UUID:
    with PlainSession(layer.engine) as session:
        tokens = [Token(secret="s", label=str(i)) for i in range(5)]
        session.add_all(tokens)
        session.commit()
        return tokens[3].id


def _bulk_load(layer: DataLayer) -> uuid.UUID:
    layer.repository(Token).bulk_load([Token(id=uuid.UUID(int=1), secret="a"), Token(id=ID, secret="s")])
    return ID


def _bulk_update(layer: DataLayer) -> uuid.UUID:
    layer.repository(Token).create(Token(id=ID, secret="before"))
    layer.repository(Token).bulk_load([{"id": ID, "secret": "s"}], on_conflict="update")
    return ID


def _core(layer: DataLayer) -> uuid.UUID:
    with layer.engine.begin() as connection:
        connection.execute(sa.insert(T), [{"id": uuid.UUID(int=1), "secret": "a"}, {"id": ID, "secret": "b"}])
        connection.execute(sa.update(T).where(T.c.id == ID).values(secret="s"))
    return ID


def _core_default(layer: DataLayer) -> uuid.UUID:
    with layer.engine.begin() as connection:
        return connection.execute(sa.insert(T).values(secret="s")).inserted_primary_key[0]  # type: ignore[no-any-return,index]


def _orm_statements(layer: DataLayer) -> uuid.UUID:
    with layer.begin() as session:
        session.execute(sa.insert(Token), [{"id": ID, "secret": "a"}])
        session.execute(sa.update(Token), [{"id": ID, "secret": "b"}])
        session.execute(sa.update(Token).where(Token.id == ID).values(secret="s"))
    return ID


def _returning(layer: DataLayer) -> uuid.UUID:
    with layer.begin() as session:
        rows = [{"id": uuid.UUID(int=i), "secret": "s", "label": "x"} for i in range(5, 9)]
        made = session.scalars(sa.insert(Token).returning(Token), rows).all()
        assert {token.secret for token in made} == {"s"}
    return ID


WAYS = [_create, _upsert, _update, _many, _bulk_load, _bulk_update, _core, _core_default, _orm_statements, _returning]


@pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_whoever_writes_every_way_of_loading_the_row_opens_it(layer: DataLayer, raw: Raw, write: Any):
    key = write(layer)
    assert all(text.startswith("dl1.k2.") for (text,) in raw(layer, "SELECT secret FROM tokens"))
    tokens = layer.repository(Token)
    assert tokens.get_one(key, consistency="database").secret == "s"
    assert tokens.get_one(key).secret == "s"
    assert tokens.get_one(key).secret == "s"
    assert tokens.get_many([key])[key].secret == "s"
    assert tokens.search(sa.select(Token).where(Token.id == key))[0].secret == "s"
    for session in (layer.session(), PlainSession(layer.engine)):
        with session:
            found = session.scalars(sa.select(Token).where(Token.id == key)).one()
            assert found.secret == "s"
            session.expire(found)
            assert found.secret == "s"
            session.refresh(found)
            assert found.secret == "s"
            assert session.get_one(Token, key, populate_existing=True).secret == "s"
            assert found not in session.dirty
            session.expunge_all()
            later = session.scalars(sa.select(Token).where(Token.id == key).options(defer(Token.secret))).one()
            assert later.secret == "s"


def test_ciphertext_of_another_row_does_not_open(layer: DataLayer, loaded: Callable[..., Any]):
    tokens = layer.repository(Token)
    tokens.create_many([Token(id=ID, secret="mine"), Token(id=uuid.UUID(int=8), secret="theirs")])
    with layer.engine.begin() as connection:
        secret = connection.scalar(sa.select(sa.type_coerce(T.c.secret, sa.Text)).where(T.c.id == uuid.UUID(int=8)))
        connection.execute(sa.text("UPDATE tokens SET secret = :s WHERE label IS NULL"), {"s": secret})
    assert tokens.get_one(uuid.UUID(int=8), consistency="database").secret == "theirs"
    for read in (
        lambda: tokens.get(ID, consistency="database"),
        lambda: tokens.get(ID),
        lambda: tokens.search(),
        lambda: loaded(layer, Token, ID),
    ):
        with pytest.raises(DecodeError, match=r"tokens\.secret: .*'k2' does not decrypt.* moved here from another row"):
            read()


def test_composite_keys_bind_too(layer: DataLayer):
    seats = layer.repository(Seat)
    seats.create_many([Seat(hall="a", number=1, guest="ann"), Seat(hall="a", number=2, guest="bob")])
    seats.update(("a", 1), guest="eve")
    assert [s.guest for s in seats.get_many([("a", 1), ("a", 2)]).values()] == ["eve", "bob"]
    assert seats.get_one(("a", 2)).guest == "bob"


def test_a_fast_read_stays_fast():
    assert schema_of(sa.inspect(Token)).flat


def test_a_value_selected_without_its_row_says_so(layer: DataLayer):
    layer.repository(Token).create(Token(id=ID, secret="hidden"))
    with layer.session() as session:
        (value,) = session.execute(sa.select(Token.secret)).one()
        with pytest.raises(DecodeError, match="select the whole entity"):
            str(value)
        assert repr(value) == "<sealed tokens.secret>"


def test_a_write_that_does_not_know_the_row_is_refused(layer: DataLayer):
    layer.repository(Token).create(Token(id=ID, secret="s", label="l"))
    insert: Any = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[layer.engine.dialect.name]
    statement = insert(T).values(id=ID, secret="x", label="l")
    for write, message in (
        (sa.update(Token).where(Token.label == "l").values(secret="x"), "an UPDATE must name its primary key"),
        (sa.insert(T).values([{"id": ID, "secret": "x"}, {"id": ID, "secret": "y"}]), "as a list of parameters"),
        (
            statement.on_conflict_do_update(index_elements=[T.c.label], set_={"secret": statement.excluded.secret}),
            "ON CONFLICT must be about the primary key",
        ),
        (sa.update(T).where(T.c.id == ID).values(id=uuid.UUID(int=9)), "changes the primary key must set them, too"),
    ):
        with layer.engine.connect() as connection, pytest.raises(QueryError, match=message):
            connection.execute(write)
    assert layer.repository(Token).get_one(ID).secret == "s"


def test_a_changed_key_takes_the_value_along(layer: DataLayer):
    with layer.begin() as session:
        session.execute(sa.insert(Token), [{"id": ID, "secret": "s"}])
        session.execute(sa.update(T).where(T.c.id == ID).values(id=uuid.UUID(int=9), secret="s"))
    assert layer.repository(Token).get_one(uuid.UUID(int=9)).secret == "s"


def test_compare_and_set_knows_the_row(layer: DataLayer):
    tokens = layer.repository(Token)
    tokens.create(Token(id=ID, secret="s"))
    assert tokens.compare_and_set(Token(id=ID, secret="t"), expected={"secret": "s"}).secret == "t"
    with pytest.raises(ConflictError):
        tokens.compare_and_set(Token(id=ID, secret="u"), expected={"secret": "s"})


def test_a_key_that_the_database_makes_is_too_late(layer: DataLayer):
    class Base(DeclarativeBase):
        pass

    class Numbered(Base):
        __tablename__ = "numbered"
        id: Mapped[int] = mapped_column(primary_key=True)
        secret: Mapped[str] = column(encrypted=True, bind="row")

    Base.metadata.create_all(layer.engine)
    with PlainSession(layer.engine) as session:
        session.add(Numbered(id=1, secret="s"))
        session.commit()
        assert session.get_one(Numbered, 1).secret == "s"
        session.add(Numbered(secret="s"))
        with pytest.raises(QueryError, match="an INSERT needs its primary key from Python"):
            session.flush()
        session.rollback()
        session.add(Numbered(id="2", secret="s"))
        with pytest.raises(EncodeError, match="given as 'str', expected 'int' exactly"):
            session.flush()
    Base.metadata.drop_all(layer.engine)


@pytest.mark.parametrize("kind", [sa.CHAR(3), sa.Float(), sa.DateTime(), sa.Numeric()])
def test_a_key_that_may_be_read_differently_cannot_bind(kind: Any):
    class Base(DeclarativeBase):
        pass

    class Odd(Base):
        __tablename__ = "odd"
        id: Mapped[Any] = mapped_column(kind, primary_key=True)
        secret: Mapped[str] = column(encrypted=True, bind="row")

    with pytest.raises(ConfigError, match="bind='row' needs a primary key"):
        check_columns(sa.inspect(Odd), has_keys=True)

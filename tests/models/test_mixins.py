from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import ForeignKey, create_engine, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, declared_attr
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.schema import CreateIndex

from datalayer.errors import ConfigError
from datalayer.models.base import Model
from datalayer.models.columns import column, column_flags
from datalayer.models.mixins import SoftDelete, Timestamps, Versioned


class PlainBase(DeclarativeBase):
    pass


class DataclassBase(MappedAsDataclass, DeclarativeBase):
    pass


ORDERS = [
    (number, bases)
    for base in (Model, PlainBase, DataclassBase)
    for number, bases in enumerate(itertools.permutations((Timestamps, SoftDelete, Versioned, base)))
]


@pytest.fixture
def engine():
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


def make(name: str, bases: tuple[type[Any], ...]) -> Any:
    annotations = {"id": Mapped[int], "name": Mapped[str]}
    body = {"__tablename__": name, "__annotations__": annotations, "__module__": __name__}
    return type(name.title(), bases, {**body, "id": column(primary_key=True)})


@pytest.mark.parametrize(
    ("number", "bases"),
    ORDERS,
    ids=lambda value: "-".join(b.__name__ for b in value) if isinstance(value, tuple) else "",
)
def test_mixins_work_together_in_every_order_on_every_kind_of_base(number: int, bases: Any, engine: Any):
    cls = make(f"mixed_{number}", bases)
    cls.__table__.create(engine)
    assert {index.name for index in cls.__table__.indexes} == {f"ix_mixed_{number}_live"}
    with Session(engine) as session:
        found = cls(id=1, name="a")
        session.add(found)
        session.commit()
        assert (found.version, found.created_at.tzinfo, found.is_deleted) == (1, UTC, False)
        created, updated = found.created_at, found.updated_at
        found.name = "b"
        session.commit()
        assert (found.version, found.created_at) == (2, created)
        assert found.updated_at > updated
        found.deleted_at = datetime.now(UTC)
        session.commit()
        assert found.is_deleted
        assert session.scalars(select(cls).where(cls.live())).all() == []


def test_the_shared_columns_come_after_the_models_own_and_carry_flags():
    cls = make("mixin_order", (Timestamps, SoftDelete, Versioned, Model))
    assert cls.__table__.columns.keys()[:2] == ["id", "name"]
    assert column_flags(cls.__table__.c.created_at).auto_now_add
    assert column_flags(cls.__table__.c.updated_at).auto_now
    assert not cls.__table__.c.version.nullable


def test_columns_can_be_filled_by_the_database_when_added_to_a_table_with_rows(engine: Any):
    cls = make("mixin_defaults", (Timestamps, Versioned, Model))
    cls.__table__.create(engine)
    with Session(engine) as session:
        session.execute(text("INSERT INTO mixin_defaults (id, name) VALUES (1, 'a')"))
        found = session.get_one(cls, 1)
        assert (found.version, found.created_at.tzinfo) == (1, UTC)


def test_live_rows_have_a_partial_index_on_the_key():
    cls = make("mixin_live", (SoftDelete, Model))
    (index,) = cls.__table__.indexes
    for dialect in (postgresql.dialect(), sqlite.dialect()):
        ddl = str(CreateIndex(index).compile(dialect=dialect))
        assert ddl == "CREATE INDEX ix_mixin_live_live ON mixin_live (id) WHERE deleted_at IS NULL"
    assert cls.__datalayer_soft_delete__ == "deleted_at"


def test_a_models_own_table_args_do_not_lose_the_live_index():
    class Kept(SoftDelete, PlainBase):
        __tablename__ = "kept"
        __table_args__ = ({"comment": "mine"},)
        id: Mapped[int] = column(primary_key=True)

    assert {index.name for index in Kept.__table__.indexes} == {"ix_kept_live"}


def test_a_stale_write_is_refused(engine: Any):
    cls = make("mixin_stale", (Versioned, Model))
    cls.__table__.create(engine)
    with Session(engine) as session:
        session.add(cls(id=1, name="a"))
        session.commit()
    with Session(engine) as one, Session(engine) as two:
        mine, theirs = one.get_one(cls, 1), two.get_one(cls, 1)
        theirs.name = "theirs"
        two.commit()
        mine.name = "mine"
        with pytest.raises(StaleDataError):
            one.commit()


def test_subclasses_share_the_lock_and_the_index_of_their_parent():
    class Parent(Versioned, SoftDelete, PlainBase):
        __tablename__ = "parents"
        id: Mapped[int] = column(primary_key=True)
        kind: Mapped[str]

        @declared_attr.directive
        def __mapper_args__(cls) -> dict[str, Any]:
            return {
                "version_id_col": cls.__table__.c.version,
                "polymorphic_on": "kind",
                "polymorphic_identity": "parent",
            }

    class SameTable(Parent):
        __mapper_args__ = {"polymorphic_identity": "same"}  # noqa: RUF012
        extra: Mapped[str | None]

    class OwnTable(Parent):
        __tablename__ = "children"
        __mapper_args__ = {"polymorphic_identity": "own"}  # noqa: RUF012
        id: Mapped[int] = column(ForeignKey("parents.id"), primary_key=True)

    for cls in (Parent, SameTable, OwnTable):
        assert inspect(cls).version_id_col is Parent.__table__.c.version
    assert {index.name for index in Parent.__table__.indexes} == {"ix_parents_live"}
    assert not OwnTable.__table__.indexes


def test_mapper_args_that_would_switch_the_lock_off_are_refused_at_once():
    class Base(DeclarativeBase):
        pass

    with pytest.raises(ConfigError, match="Unlocked: its own __mapper_args__ switches the lock of Versioned off"):

        class Unlocked(Versioned, Base):
            __tablename__ = "unlocked"
            __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012
            id: Mapped[int] = column(primary_key=True)

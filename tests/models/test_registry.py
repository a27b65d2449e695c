from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text, create_engine
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, registry, relationship

from datalayer.errors import ConfigError, InvalidModelError, SchemaDuplicateError, SchemaNotFoundError
from datalayer.models.columns import column
from datalayer.models.policy import CachePolicy, Index
from datalayer.models.registry import Registry


def family() -> tuple[Any, Any, Any]:
    """A base and two models of its own."""

    class Base(DeclarativeBase):
        pass

    class A(Base):
        __tablename__ = "a"
        id: Mapped[int] = column(primary_key=True)
        region: Mapped[str]
        score: Mapped[int]

    class B(Base):
        __tablename__ = "b"
        id: Mapped[int] = column(primary_key=True)

    return Base, A, B


def with_policy(policy: CachePolicy, **columns: Any) -> Any:
    class Base(DeclarativeBase):
        pass

    body = {"__tablename__": "things", "__cache__": policy, "id": column(Integer, primary_key=True), **columns}
    return type("Thing", (Base,), body)


def test_a_base_stands_for_its_present_and_future_models():
    Base, A, B = family()
    models = Registry(Base)
    assert models.resolve(A) is sa_inspect(A)

    class Late(Base):
        __tablename__ = "late"
        id: Mapped[int] = column(primary_key=True)

    assert models.resolve(Late) is sa_inspect(Late)
    assert set(models.classes()) == {A, B, Late}
    assert models.metadata == (Base.metadata,)


def test_a_list_stands_for_exactly_its_classes():
    _, A, B = family()
    models = Registry([A])
    assert models.classes() == (A,)
    assert A in models
    assert B not in models
    with pytest.raises(SchemaNotFoundError, match=r"B is not registered with this layer; add it to models=, next to A"):
        models.resolve(B)
    models.add(B)
    assert models.resolve(B) is sa_inspect(B)


def test_a_single_class_and_a_mix_of_bases_and_classes_are_accepted():
    first, A, B = family()
    other, C, D = family()
    assert Registry(A).classes() == (A,)
    mixed = Registry([first, C])
    assert set(mixed.classes()) == {A, B, C}
    assert set(mixed.metadata) == {first.metadata, other.metadata}
    with pytest.raises(SchemaNotFoundError):
        mixed.resolve(D)


def test_a_listed_class_brings_its_subclasses():
    Base, A, _ = family()

    class Child(A):
        extra: Mapped[str | None]

    class Abstract(Base):
        __abstract__ = True

    class Leaf(Abstract):
        __tablename__ = "leaf"
        id: Mapped[int] = column(primary_key=True)

    assert Registry([A]).resolve(Child) is sa_inspect(Child)
    assert Registry(Abstract).classes() == (Leaf,)


def test_imperatively_mapped_classes_belong_to_their_registry():
    class Old:
        pass

    mappings = registry()
    mappings.map_imperatively(Old, Table("old", mappings.metadata, Column("id", Integer, primary_key=True)))
    assert Registry(mappings).classes() == (Old,)
    assert Registry([Old]).resolve(Old) is sa_inspect(Old)
    assert Registry(mappings).metadata == (mappings.metadata,)


def test_without_models_any_mapped_class_is_accepted_when_first_used():
    _, A, B = family()
    models = Registry()
    assert B in models
    assert models.classes() == ()
    models.resolve(A)
    assert models.classes() == (A,)


def test_a_column_may_be_called_registry():
    class Base(DeclarativeBase):
        pass

    table = Table("odd", Base.metadata, Column("id", Integer, primary_key=True), Column("reg", Integer))
    odd = type("Odd", (Base,), {"__table__": table, "__mapper_args__": {"properties": {"registry": table.c.reg}}})
    assert Registry([odd]).resolve(odd) is sa_inspect(odd)


def test_adding_twice_is_refused():
    Base, A, _ = family()
    models = Registry([A, Base])
    for source in (A, Base):
        with pytest.raises(SchemaDuplicateError, match="is registered with this layer already"):
            models.add(source)
    with pytest.raises(SchemaDuplicateError):
        Registry([A, A])


def test_what_is_no_mapped_class_is_refused_with_what_to_do():
    Base, A, _ = family()

    class Plain:
        pass

    cases: list[tuple[Any, str]] = [
        (Plain, "Plain is not mapped to a table; derive it from datalayer.Model"),
        (Base, "Base is abstract"),
        (DeclarativeBase, "DeclarativeBase is abstract"),
        (A(), "an instance of A was given where the class is expected; pass A"),
        (None, "found a NoneType, expected a mapped class"),
        ([A], "found a list, expected a mapped class"),
        (aliased(A), "found a AliasedClass, expected a mapped class"),
        ("A", "found a str, expected a mapped class"),
    ]
    for given, message in cases:
        with pytest.raises(InvalidModelError, match=message):
            Registry().resolve(given)
    with pytest.raises(InvalidModelError, match="Plain is not mapped"):
        Registry([Plain])
    assert Plain not in Registry()


@pytest.mark.parametrize("models", [7, "Base", b"x", MetaData()])
def test_models_of_another_kind_are_refused(models: Any):
    with pytest.raises(ConfigError, match=r"models: found a \w+, expected a declarative base"):
        Registry(models)


def test_a_model_may_be_registered_before_the_class_its_relationship_names():
    class Base(DeclarativeBase):
        pass

    class Early(Base):
        __tablename__ = "early"
        id: Mapped[int] = column(primary_key=True)
        late_id: Mapped[int] = column(ForeignKey("late.id"))
        late: Mapped[Any] = relationship("Late")

    models = Registry([Early])

    class Late(Base):
        __tablename__ = "late"
        id: Mapped[int] = column(primary_key=True)

    assert models.resolve(Early).relationships["late"].mapper.class_ is Late


def test_columns_are_checked_when_the_class_is_registered():
    thing = with_policy(CachePolicy(), secret=column(Text, encrypted=True))
    with pytest.raises(ConfigError, match=r"things\.secret: encryption is not available"):
        Registry([thing])
    assert Registry([thing], allow_plaintext=True).classes() == (thing,)


def test_a_wrong_policy_is_found_when_the_class_is_registered():
    thing = with_policy("off")  # type: ignore[arg-type]
    models = Registry()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"Thing\.__cache__"):
            models.resolve(thing)


def test_a_partition_column_must_be_a_column_of_the_key():
    keyed = with_policy(CachePolicy(partition_by="region"), region=column(Text, primary_key=True))
    assert Registry([keyed]).classes() == (keyed,)
    loose = with_policy(CachePolicy(partition_by="region"), region=column(Text))
    with pytest.raises(ConfigError, match="partition_by='region' is not in the primary key"):
        Registry([loose])
    wrong = with_policy(CachePolicy(partition_by="regoin"), region=column(Text))
    with pytest.raises(ConfigError, match=r"partition_by names 'regoin'.*did you mean 'region'"):
        Registry([wrong])


def test_extra_indexes_are_made_once_and_by_attribute_name():
    policy = CachePolicy(
        indexes=(Index("region", "points"), Index("region", unique=True), Index("points", name="mine"))
    )
    thing = with_policy(policy, region=column(Text), points=column("score", Integer))
    Registry([thing])
    Registry([thing])
    found = {index.name: ([c.name for c in index.columns], index.unique) for index in thing.__table__.indexes}
    assert found == {
        "ix_things_region_score": (["region", "score"], False),
        "ux_things_region": (["region"], True),
        "mine": (["score"], False),
    }
    engine = create_engine("sqlite://")
    thing.metadata.create_all(engine)
    assert {index["name"] for index in sa_inspect(engine).get_indexes("things")} == set(found)
    engine.dispose()
    with pytest.raises(ConfigError, match=r"indexes names 'nope'"):
        Registry([with_policy(CachePolicy(indexes=(Index("nope"),)))])


def test_a_subclass_with_a_table_of_its_own_inherits_the_policy_without_more_indexes():
    class Base(DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "parents"
        __cache__ = CachePolicy(indexes=(Index("region"),))
        id: Mapped[int] = column(primary_key=True)
        region: Mapped[str]

    class Child(Parent):
        __tablename__ = "children"
        id: Mapped[int] = column(ForeignKey("parents.id"), primary_key=True)

    assert set(Registry(Base).classes()) == {Parent, Child}
    assert [index.name for index in Parent.__table__.indexes] == ["ix_parents_region"]
    assert not Child.__table__.indexes


def test_threads_that_resolve_at_the_same_time_agree():
    policy = CachePolicy(indexes=(Index("region"),))
    thing = with_policy(policy, region=column(Text))
    models = Registry()
    barrier, found = threading.Barrier(8), []

    def work() -> None:
        barrier.wait()
        found.append(models.resolve(thing))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sa_inspect(thing)] * 8
    assert len(thing.__table__.indexes) == 1

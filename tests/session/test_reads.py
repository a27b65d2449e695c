"""What a session serves from a cache, what it costs, and that it is what the database would have given."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import zoo
from sqlalchemy import inspect
from sqlalchemy.orm import Session as PlainSession
from sqlalchemy.orm import sessionmaker

import datalayer
from datalayer import DataLayer
from datalayer.testing.counting import Statements


def warm(layer: DataLayer, *rows: tuple[type, object]) -> None:
    with layer.session() as session:
        for model, key in rows:
            session.get(model, key)


def test_the_second_session_reads_a_row_without_a_statement(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Member, 1))
    assert statements.taken() == 1
    with layer.session() as session:
        player = session.get(zoo.Member, 1)
        assert player is not None
        assert player.name == "ann"
        assert session.get_one(zoo.Member, 1) is player
        assert inspect(player).persistent
        assert session.in_transaction()
    assert statements.taken() == 0


def test_a_row_known_to_be_absent_costs_no_second_statement(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Member, 99))
    assert statements.taken() == 1
    with layer.session() as session:
        assert session.get(zoo.Member, 99) is None
        with pytest.raises(sa.exc.NoResultFound):
            session.get_one(zoo.Member, 99)
    assert statements.taken() == 0


def test_a_many_to_one_lazy_load_comes_from_the_cache(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Member, 1), (zoo.Club, 1))
    statements.taken()
    with layer.session() as session:
        player = session.get_one(zoo.Member, 1)
        assert player.team is session.get(zoo.Club, 1)
        assert player.team.name == "red"
    assert statements.taken() == 0


@pytest.mark.parametrize("ask", ["scalars", "execute", "filter_by"])
def test_a_lookup_by_a_unique_column_comes_from_the_cache(layer: DataLayer, statements: Statements, ask: str) -> None:
    statement = sa.select(zoo.Member).where(zoo.Member.email == "ann@x")
    if ask == "filter_by":
        statement = sa.select(zoo.Member).filter_by(email="ann@x")
    for expected in (1, 0):
        with layer.session() as session:
            found = session.execute(statement).scalar_one() if ask == "execute" else session.scalars(statement).one()
            assert found.id == 1
            assert session.get(zoo.Member, 1) is found
        assert statements.taken() == expected


def test_a_unique_value_that_moved_to_another_row_is_found_there(layer: DataLayer) -> None:
    statement = sa.select(zoo.Member).where(zoo.Member.email == "ann@x")
    with layer.session() as session:
        assert session.scalars(statement).one().id == 1
    with layer.begin() as session:
        session.get_one(zoo.Member, 1).email = "other@x"
    with layer.begin() as session:
        session.get_one(zoo.Member, 2).email = "ann@x"
    with layer.session() as session:
        assert session.scalars(statement).one().id == 2
        assert session.scalars(sa.select(zoo.Member).where(zoo.Member.email == "other@x")).one().id == 1
        assert session.scalars(sa.select(zoo.Member).where(zoo.Member.email == "bob@x")).one_or_none() is None


def test_select_of_one_column_is_not_taken_for_the_entity(layer: DataLayer) -> None:
    statement = sa.select(zoo.Member.id).where(zoo.Member.email == "ann@x")
    for _ in range(2):
        with layer.session() as session:
            assert session.execute(statement).all() == [(1,)]


def test_composite_keys_are_tuples_or_dicts(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Place, ("pt", 1)))
    statements.taken()
    with layer.session() as session:
        place = session.get_one(zoo.Place, ("pt", 1))
        assert place.name == "porto"
        assert session.get(zoo.Place, {"number": 1, "country": "pt"}) is place
    assert statements.taken() == 0


def test_joined_inheritance_answers_as_the_database_does(layer: DataLayer) -> None:
    for _ in range(2):
        with layer.session() as session:
            rex = session.get_one(zoo.Animal, 2)
            assert type(rex) is zoo.Dog
            assert rex.tricks == 3
        with layer.session() as session:
            assert session.get_one(zoo.Dog, 2).tricks == 3
            assert session.get(zoo.Dog, 1) is None
            assert type(session.get_one(zoo.Animal, 1)) is zoo.Animal


def test_a_write_of_a_subclass_column_reaches_every_shape_of_the_row(layer: DataLayer) -> None:
    warm(layer, (zoo.Animal, 2))
    warm(layer, (zoo.Dog, 2))
    with layer.begin() as session:
        session.get_one(zoo.Dog, 2).name = "max"
    with layer.session() as session:
        assert session.get_one(zoo.Animal, 2).name == "max"
    with layer.session() as session:
        assert session.get_one(zoo.Dog, 2).name == "max"


def test_single_table_inheritance_answers_as_the_database_does(layer: DataLayer) -> None:
    for _ in range(2):
        with layer.session() as session:
            assert type(session.get_one(zoo.Vehicle, 2)) is zoo.Truck
        with layer.session() as session:
            assert session.get_one(zoo.Truck, 2).load == 7
            assert session.get(zoo.Truck, 1) is None
        trucks = layer.repository(zoo.Truck)
        assert trucks.get_one(2).load == 7
        assert trucks.get(1) is None
        assert list(trucks.get_many([1, 2])) == [2]


def test_mutable_composite_reconstructor_and_deferred_behave_as_loaded(
    layer: DataLayer, statements: Statements
) -> None:
    warm(layer, (zoo.Fancy, 1))
    statements.taken()
    with layer.session() as session:
        fancy = session.get_one(zoo.Fancy, 1)
        assert statements.taken() == 0
        assert fancy.rebuilt
        assert fancy.point == zoo.Point(3, 4)
        assert "essay" in inspect(fancy).unloaded
        assert fancy.essay == "long"
        fancy.data["a"] = 2
        assert fancy in session.dirty
        session.commit()
    with layer.session() as session:
        assert session.get_one(zoo.Fancy, 1).data == {"a": 2}


def test_load_events_fire_for_a_cached_row(layer: DataLayer) -> None:
    warm(layer, (zoo.Loud, 1))
    zoo.loads.clear()
    warm(layer, (zoo.Loud, 1))
    assert zoo.loads == [1]


def test_a_changed_json_value_never_reaches_the_cache(layer: DataLayer) -> None:
    warm(layer, (zoo.Member, 1))
    with layer.session() as session:
        session.get_one(zoo.Member, 1).profile["k"].append(2)  # type: ignore[index]
    with layer.session() as session:
        assert session.get_one(zoo.Member, 1).profile == {"k": [1]}


def test_an_omitted_column_is_unloaded_and_never_written_back_as_null(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Member, 1))
    with layer.session() as session:
        player = session.get_one(zoo.Member, 1)
        assert "secret" in inspect(player).unloaded
        player.name = "anna"
        session.commit()
    with PlainSession(layer.engine) as session:
        assert session.get_one(zoo.Member, 1).secret == "s1"
    with layer.session() as session:
        assert session.get_one(zoo.Member, 1).secret == "s1"


def test_flags_work_on_a_plain_mapped_column(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Plain, 1))
    statements.taken()
    with layer.session() as session:
        plain = session.get_one(zoo.Plain, 1)
        assert "hidden" in inspect(plain).unloaded
        assert statements.taken() == 0
        assert plain.hidden == "H"
        assert statements.taken() == 1


def test_a_column_omitted_from_l1_loads_when_it_is_read(layer: DataLayer) -> None:
    warm(layer, (zoo.Half, 1))
    with layer.session() as session:
        half = session.get_one(zoo.Half, 1)
        assert half.name == "h"
        assert half.big == "B" * 50


def test_a_stale_version_is_refused_and_the_retry_reads_afresh(layer: DataLayer) -> None:
    warm(layer, (zoo.Account, 1))
    with layer.session() as session:
        account = session.get_one(zoo.Account, 1)
        with layer.engine.connect() as other:  # a writer that this layer's listeners do not see
            raw = other.connection.cursor()
            raw.execute("UPDATE zoo_accounts SET version = version + 1, balance = 50")
            other.connection.commit()
        account.balance = 1
        with pytest.raises(sa.orm.exc.StaleDataError):
            session.commit()
    with layer.session() as session:
        assert session.get_one(zoo.Account, 1).balance == 50


def test_a_sessionmaker_of_an_existing_application_reads_through_the_layer(
    layer: DataLayer, statements: Statements
) -> None:
    make = sessionmaker(bind=layer.engine, class_=datalayer.Session, layer=layer)
    for expected in (1, 0):
        with make() as session:
            assert session.get_one(zoo.Member, 1).name == "ann"
        assert statements.taken() == expected


def test_a_session_without_a_layer_is_the_plain_session(layer: DataLayer, statements: Statements) -> None:
    for _ in range(2):
        with datalayer.Session(layer.engine) as session:
            assert session.get_one(zoo.Member, 1).name == "ann"
    assert statements.taken() == 2


def test_a_hit_flushes_what_is_pending_first(layer: DataLayer) -> None:
    warm(layer, (zoo.Member, 7))
    with layer.session() as session:
        player = zoo.Member(id=7, name="new")
        session.add(player)
        assert session.get(zoo.Member, 7) is player


def test_rollback_expires_what_a_hit_loaded(layer: DataLayer, statements: Statements) -> None:
    warm(layer, (zoo.Member, 1))
    with layer.session() as session:
        player = session.get_one(zoo.Member, 1)
        session.rollback()
        statements.taken()
        assert player.name == "ann"
        assert statements.taken() == 1

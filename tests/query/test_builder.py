"""``Q`` says which rows, as a value; what it cannot mean is refused where it is written."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from games import Boat, Club, Player, Sample, Truck, Vehicle
from sqlalchemy import inspect
from sqlalchemy.orm import joinedload, raiseload, selectinload

from datalayer import DataLayer, Q, QueryError, Repository
from datalayer.testing.counting import Statements


def ids(layer: DataLayer, query: Any) -> list[int]:
    return [player.id for player in layer.repository(Player).search(query)]


def test_keywords_and_expressions_narrow_a_query(filled: DataLayer) -> None:
    query = Q(Player).where(Player.level > 10, region="eu").order_by(Player.level.desc()).limit(3)
    assert ids(filled, query) == [149, 147, 145]
    assert ids(filled, query.where(Player.level < 148).offset(1)) == [145, 143, 141]
    assert ids(filled, Q(Player).where(sa.or_(Player.id == 4, Player.level == 9)).order_by("-id")) == [9, 4]
    assert ids(filled, Q(Player).where(score=None, level=1)) == [1]
    assert ids(filled, Q(Player).where(Player.club.has(Club.name == "blue")).order_by("id").limit(2)) == [1, 3]
    assert ids(filled, Q(Player).where(Player.strong).order_by("id").limit(1)) == [101]
    assert ids(filled, Q(Player).where(strong=True).order_by("strong", "-id").limit(1)) == [150]
    with filled.session() as session:
        club = session.get(Club, 2)
        assert ids(filled, Q(Player).where(club=club).order_by("id").limit(2)) == [1, 3]


def test_a_query_without_a_limit_has_a_hundred_rows_and_none_means_all(filled: DataLayer) -> None:
    assert len(ids(filled, Q(Player))) == len(ids(filled, None)) == 100
    assert len(ids(filled, Q(Player).limit(None))) == len(ids(filled, sa.select(Player))) == 150
    assert len(ids(filled, Q(Player).limit(120))) == 120
    assert ids(filled, Q(Player).limit(0)) == []


def test_every_call_makes_a_new_query(filled: DataLayer) -> None:
    base = Q(Player).order_by("id")
    first = ids(filled, base)
    base.where(level=1).order_by("-level").limit(1).offset(1).fields("id").from_database().where_sql("id = :n", n=1)
    assert ids(filled, base) == first
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.maximum = 3  # type: ignore[misc]


def test_queries_that_are_the_same_sql_with_the_same_values_are_equal() -> None:
    def made(level: int = 3) -> Q[Player]:
        return Q(Player).where(Player.level > level, Player.id.in_([1, 2])).where_sql("id > :n", n=level).order_by("id")

    assert made() == made()
    assert hash(made()) == hash(made())
    others = [
        made(4),
        made().limit(3),
        made().from_database(),
        made().fields("id"),
        made().options(selectinload(Player.club)),
    ]
    for other in [*others, Q(Player), Q(Club), "text"]:
        assert made() != other
    assert len({made(), made(), made(4)}) == 2
    assert Q(Player).where(Player.score > 1) != Q(Player).where(Player.score > 1.0)


def test_a_query_shows_no_value() -> None:
    shown = repr(Q(Player).where(name="secret-1").where_sql("name <> :n", n="secret-2"))
    assert "q_players" in shown
    assert "secret" not in shown


def test_threads_share_a_query(filled: DataLayer) -> None:
    query, found = Q(Player).where(Player.level > 140).order_by("id"), []
    threads = [threading.Thread(target=lambda: found.append(ids(filled, query))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(141, 151))] * 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Q(Player).where("level > 1"), "where_sql"),
        (lambda: Q(Player).where(True), "condition such as"),
        (lambda: Q(Player).where(Player), "condition such as"),
        (lambda: Q(Player).where(Club.name == "red"), r"q_clubs.*has\(\)"),
        (lambda: Q(Player).where(lvel=1), "did you mean 'level'"),
        (lambda: Q(Player).where(id=[1, 2]), "in_"),
        (lambda: Q(Player).where(id=sa.text("1 OR 1=1")), "SQL expression"),
        (lambda: Q(Player).where(id=Player.level), "SQL expression"),
        (lambda: Q(Club).where(players=3), "cannot be compared|contains"),
        (lambda: Q(Player).order_by("lvel"), "did you mean"),
        (lambda: Q(Player).order_by("id; DROP TABLE q_players"), "no attribute"),
        (lambda: Q(Player).order_by(3), "order_by"),
        (lambda: Q(Player).limit(-1), "limit is -1"),
        (lambda: Q(Player).limit("1; DROP TABLE q_players"), "whole number"),
        (lambda: Q(Player).offset(True), "whole number"),
        (lambda: Q(Player).fields(), "fields"),
        (lambda: Q(Player).fields("club"), "no column"),
        (lambda: Q(Player).fields("id", "id"), "twice"),
        (lambda: Q(Player).fields(Club.name), "attributes of Player"),
        (lambda: Q(Player).fields(dict), "attributes of Player"),
        (lambda: Q(Player).options("club"), "loader options"),
        (lambda: Q(Player).options(selectinload(Player.club)).fields("id"), "whole rows"),
        (lambda: Q(Player).fields("id").options(selectinload(Player.club)), "whole rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(build: Any, message: str) -> None:
    with pytest.raises((QueryError, sa.exc.ArgumentError), match=message):
        build()


# -- rows ------------------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    name: str
    score: int | None


@dataclasses.dataclass(frozen=True)
class Standing:
    id: int
    level: int
    note: str = dataclasses.field(default="", init=False)


@dataclasses.dataclass(kw_only=True)
class Named:
    name: str
    strong: bool


def test_fields_read_those_columns_as_typed_rows(filled: DataLayer, statements: Statements) -> None:
    players = filled.repository(Player)
    rows = players.search(Q(Player).where(id=5).fields("id", "score"))
    assert rows == [(5, 5)]
    assert (rows[0].id, rows[0].score, type(rows[0]).__annotations__) == (5, 5, {"id": int, "score": int | None})
    assert "q_players.name" not in statements.texts[-1]
    assert type(rows[0]) is type(players.search(Q(Player).where(id=6).fields(Player.id, "score"))[0])
    assert players.search(Q(Player).where(id=5).fields(Score)) == [Score("p005", 5)]
    assert players.search(Q(Player).where(id=5).fields(Standing)) == [Standing(5, 5)]
    assert players.search(Q(Player).where(id=5).fields(Named)) == [Named(name="p005", strong=False)]


def test_a_class_of_rows_with_a_field_that_is_no_attribute_is_refused() -> None:
    with pytest.raises(QueryError, match="wheels"):
        Q(Player).fields(NamedTuple("Odd", [("wheels", int)]))


def test_relationships_are_loaded_as_the_options_say(filled: DataLayer, statements: Statements) -> None:
    players, clubs = filled.repository(Player), filled.repository(Club)
    for option in (selectinload, joinedload):
        found = players.search(Q(Player).where(Player.id < 4).order_by("id").options(option(Player.club)))
        statements.taken()
        assert [player.club.name for player in found] == ["blue", "red", "blue"]  # type: ignore[union-attr]
        assert statements.taken() == 0
    found = clubs.search(Q(Club).order_by("id").options(joinedload(Club.players)))
    assert [len(club.players) for club in found] == [75, 75]
    with filled.session() as session:
        player = session.scalars(Q(Player).where(id=1).options(raiseload(Player.club)).to_select()).one()
        with pytest.raises(sa.exc.InvalidRequestError):
            _ = player.club


def test_a_query_may_stand_where_sqlalchemy_takes_a_select(filled: DataLayer) -> None:
    strong = Q(Player).where(Player.level > 148).fields("id")
    with filled.session() as session:
        found = session.scalars(sa.select(Player).where(Player.id.in_(strong)).order_by(Player.id))
        assert [player.id for player in found] == [149, 150]
        assert len(session.scalars(Q(Player).to_select()).all()) == 100


def test_from_database_passes_a_cached_lookup_by(filled: DataLayer, statements: Statements) -> None:
    players = filled.repository(Player)
    players.update(7, email="p7@x")
    query = Q(Player).where(email="p7@x").limit(None)
    players.search(query)
    statements.taken()
    assert players.search(query)[0].id == 7
    assert statements.taken() == 0
    assert players.search(query.from_database())[0].id == 7
    assert statements.taken() == 1


def test_a_cached_search_asks_the_database_for_rows_of_fields_and_when_it_is_told_to(
    filled: DataLayer, statements: Statements
) -> None:
    players, query = filled.repository(Player), Q(Player).where(id=7)
    players.search_cached(query)
    statements.taken()
    assert players.search_cached(query)[0].id == 7
    assert statements.taken() == 0
    assert players.search_cached(query.from_database())[0].id == 7
    assert players.search_cached(query.fields("id")) == [(7,)]
    assert statements.taken() == 2
    with filled.session() as session:
        assert Repository[Player](session).search_cached(query.fields("id").from_database()) == [(7,)]


# -- aggregates ------------------------------------------------------------------------------------------------------


def test_count_exists_and_sums_load_no_row(filled: DataLayer, statements: Statements) -> None:
    players = filled.repository(Player)
    loaded: list[object] = []
    sa.event.listen(Player, "load", loaded_listener := lambda target, _: loaded.append(target))
    try:
        statements.taken()
        eu = Q(Player).where(region="eu").order_by("-level").options(selectinload(Player.club))
        assert players.count() == 150
        assert players.count(eu) == 75
        assert players.count(eu.limit(10)) == 10
        assert players.count(Q(Player).fields("id").limit(10)) == 10
        assert players.count(sa.select(Player).where(Player.level < 11)) == 10
        assert players.exists(eu.where(level=149))
        assert not players.exists(eu.where(level=150))
        assert not players.exists(eu.limit(0))
        assert players.exists(sa.select(Player).where(Player.score.is_(None)).options(joinedload(Player.club)))
        assert players.sum(Player.level, Q(Player).where(Player.level <= 10)) == 55
        assert players.sum("score", Q(Player).where(Player.level < 5)) == 0
        assert (players.min("level", eu), players.max("level", eu)) == (1, 149)
        assert players.max("score", Q(Player).where(Player.level < 5)) is None
        assert players.sum("level", eu.limit(2)) == 149 + 147
        assert len(statements) == 15
        for text in statements.texts:
            assert "name" not in text
        assert loaded == []
    finally:
        sa.event.remove(Player, "load", loaded_listener)
    with pytest.raises(QueryError, match="did you mean"):
        players.sum("lvel")
    with pytest.raises(QueryError, match="no column"):
        players.max("club")


def test_a_join_counts_an_instance_once(filled: DataLayer) -> None:
    clubs = filled.repository(Club)
    joined = sa.select(Club).join(Club.players).where(Player.level > 100)
    assert clubs.count(joined) == len(clubs.search(joined)) == 2
    assert clubs.exists(joined)


def test_subclasses_are_counted_by_themselves(layer: DataLayer) -> None:
    with layer.session() as session:
        session.add_all([Vehicle(id=1), Truck(id=2, load=3), Truck(id=3, load=4), Boat(id=4, sails=2, wheels=0)])
        session.commit()
    assert layer.repository(Vehicle).count() == 4
    assert layer.repository(Truck).count() == 2
    assert layer.repository(Truck).sum("wheels") == 8
    assert layer.repository(Truck).exists(Q(Truck).where(load=3))
    assert not layer.repository(Truck).exists(Q(Truck).where(id=1))
    assert layer.repository(Boat).count(Q(Boat).where(Boat.wheels < 1, sails=2)) == 1
    assert layer.repository(Boat).sum(Boat.sails) == 2
    assert layer.repository(Vehicle).count(sa.select(Boat)) == 1


def test_a_plain_select_is_accepted_everywhere(filled: DataLayer) -> None:
    players = filled.repository(Player)
    query = sa.select(Player).join(Player.club).where(Club.name == "blue").order_by(Player.id)
    assert [p.id for p in players.search(query)][:2] == [1, 3]
    assert [p.id for p in players.page(query, size=2).items] == [1, 3]
    assert (players.count(query), players.exists(query), players.sum("level", query)) == (75, True, 75 * 75)
    assert players.warm(query=query) == 75
    with pytest.raises(QueryError, match="alone"):
        players.search(sa.select(Player.id))
    with pytest.raises(QueryError, match="alone"):
        players.search(sa.select(Player, Club))
    with pytest.raises(QueryError, match="expected Q"):
        players.search("SELECT 1")  # type: ignore[call-overload]


def test_results_belong_to_their_caller(filled: DataLayer) -> None:
    (player,) = filled.repository(Player).search(Q(Player).where(id=1))
    player.name = "changed"
    assert inspect(player).detached
    assert filled.repository(Player).get(1).name == "p001"  # type: ignore[union-attr]


def test_columns_of_subclasses_that_are_read_anyway_may_be_asked_for() -> None:
    with pytest.raises(QueryError, match="q_boats"):
        Q(Vehicle).where(Boat.sails > 1)
    assert Q(Boat).where(Boat.sails > 1, Vehicle.wheels == 0, Boat.wheels == 0)


def test_composite_keys_are_counted(layer: DataLayer) -> None:
    assert layer.repository(Sample).count() == 0
    assert not layer.repository(Sample).exists(Q(Sample).where(part="a"))

"""Pages joined together are the whole ordered list, whatever the order, and whatever is written meanwhile."""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis
import pytest
import sqlalchemy as sa
from games import Base, Boat, Club, Gone, Player, Sample, Truck, Vehicle, sample
from hypothesis import strategies as st
from sqlalchemy.orm import aliased, joinedload, selectinload

from datalayer import DataLayer, Page, Q, QueryError, Repository, Session
from datalayer.query.page import Keyset, keyset
from datalayer.testing.counting import Statements

MANY = 400 if os.environ.get("DATALAYER_TEST_LONG") else 40

COLUMNS = [
    "part", "number", "text", "whole", "ratio", "small", "price", "at", "day", "token", "flag", "rank", "raw",
]  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataLayer]:
    if request.param == "postgres":
        url = request.getfixturevalue("pg_module_url")
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('pages') / 'p.db'}"
    with DataLayer(url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        rng = random.Random(5)
        layer.repository(Sample).create_many(sample(number, rng) for number in range(60))
        yield layer


def walk(repository: Repository[Any], query: Any, sizes: Any) -> list[Any]:
    """All pages joined."""
    found: list[Any] = []
    cursor = None
    for _ in range(200):
        page = repository.page(query, after=cursor, size=sizes())
        found += page.items
        cursor = page.next
        if cursor is None:
            return found
        assert page.items
    raise AssertionError("the pages do not end")


class Order(NamedTuple):
    column: str
    descending: bool
    nulls: str | None

    def clause(self) -> Any:
        found = getattr(Sample, self.column)
        found = found.desc() if self.descending else found.asc()
        return {"first": found.nulls_first, "last": found.nulls_last, None: lambda: found}[self.nulls]()


ORDERS = st.lists(
    st.builds(Order, st.sampled_from(COLUMNS), st.booleans(), st.sampled_from([None, "first", "last"])),
    max_size=4,
    unique_by=lambda order: order.column,
)


@hypothesis.settings(max_examples=MANY, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(orders=ORDERS, size=st.integers(1, 25), part=st.sampled_from([None, "a"]))
def test_pages_join_to_the_whole_list(samples: DataLayer, orders: list[Order], size: int, part: str | None) -> None:
    query = Q(Sample).order_by(*(order.clause() for order in orders)).limit(None)
    query = query if part is None else query.where(part=part)
    last = orders[-1].descending if orders else False
    whole = query.order_by(*("-part" if last else "part", "-number" if last else "number"))
    repository = samples.repository(Sample)
    expected = [(row.part, row.number) for row in repository.search(whole)]
    paged = query.limit(5)
    paged = Q(Sample, paged.criteria, paged.order)
    assert [(row.part, row.number) for row in walk(repository, paged, lambda: size)] == expected


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("descending", [False, True])
def test_every_type_of_column_can_be_an_order(samples: DataLayer, column: str, descending: bool) -> None:
    query = Q(Sample).order_by(f"-{column}" if descending else column)
    found = walk(samples.repository(Sample), query.fields("part", "number"), lambda: 7)
    assert len(found) == len(set(found)) == 60


def test_rows_that_stay_are_shown_once_whatever_is_written(layer: DataLayer, rng: random.Random) -> None:
    players = layer.repository(Player)
    for trial in range(6):
        players.delete_many([p.id for p in players.search(Q(Player).limit(None))])
        players.create_many(
            Player(id=i, name=rng.choice("abc"), score=rng.choice([None, 1, 2, 3])) for i in range(0, 400, 10)
        )
        order = rng.choice([["score"], ["-score"], ["name", "-score"], ["-name"], []])
        stay = {i for i in range(0, 400, 10) if rng.random() < 0.6}
        seen: list[int] = []
        cursor, born = None, 1
        while True:
            page = players.page(Q(Player).order_by(*order), after=cursor, size=rng.randrange(1, 6))
            seen += [p.id for p in page.items]
            cursor = page.next
            if cursor is None:
                break
            for _ in range(2):
                players.delete(rng.choice([i for i in range(0, 400, 10) if i not in stay] or [-1]))
                players.create(
                    Player(id=born * 10 + born % 9 + 1, name=rng.choice("abc"), score=rng.choice([None, 1, 2]))
                )
                born += 1
            if born > 300:
                break
        assert len(seen) == len(set(seen)), (trial, order)
        if cursor is None:
            assert stay <= set(seen), (trial, order)


def test_the_last_row_shown_may_be_deleted(filled: DataLayer) -> None:
    players = filled.repository(Player)
    query = Q(Player).order_by("-score")
    page = players.page(query, size=10)
    players.delete_many([p.id for p in page.items])
    following = players.page(query, after=page.next, size=1000)
    assert len(following.items) == 140
    assert following.next is None


def test_a_page_reads_what_the_rows_are_and_not_what_the_session_has_seen(filled: DataLayer) -> None:
    with filled.session() as session:
        players = Repository[Player](session)
        held = players.search(Q(Player).where(id=3))[0]
        with filled.session() as other:
            other.execute(sa.update(Player).where(Player.id == 3).values(level=1000))
            other.commit()
        page = players.page(Q(Player).order_by("-level"), size=1)
        assert page.items == [held]
        assert held.level == 3
        assert [p.id for p in players.page(Q(Player).order_by("-level"), after=page.next, size=2).items] == [150, 149]


def test_orders_by_expressions_and_by_other_tables_go_on(filled: DataLayer) -> None:
    players = filled.repository(Player)
    club = aliased(Club)
    for query in (
        sa.select(Player).order_by(sa.func.abs(Player.level - 75), Player.name),
        sa.select(Player).outerjoin(Player.club).order_by(Club.name.desc(), Player.level),
        sa.select(Player).outerjoin(club, sa.and_(club.id == Player.club_id, club.id == 1)).order_by(club.name),
        Q(Player).order_by("strong", "-level"),
    ):
        found = [p.id for p in walk(players, query, lambda: 20)]
        assert sorted(found) == list(range(1, 151))
    with pytest.raises(QueryError, match="cannot continue"):
        players.page(sa.select(Player).order_by(sa.text("level")))


def test_a_joined_row_is_shown_once_a_page_and_the_pages_end(filled: DataLayer) -> None:
    clubs = filled.repository(Club)
    query = sa.select(Club).join(Club.players).where(Player.level > 130).order_by(Club.name)
    assert [c.id for c in walk(clubs, query, lambda: 3)] == [2, 1]
    with pytest.raises(QueryError, match="selectinload"):
        clubs.page(query.options(joinedload(Club.players)))
    loaded = clubs.page(query.options(selectinload(Club.players)), size=40)
    assert {c.id: len(c.players) for c in loaded.items} == {1: 75, 2: 75}
    eager = clubs.page(Q(Club).options(joinedload(Club.players)), size=1)
    assert ([len(c.players) for c in eager.items], eager.next is None) == ([75], False)


def test_pages_of_fields_of_subclasses_and_of_soft_deletes(layer: DataLayer) -> None:
    with layer.session() as session:
        session.add_all([Vehicle(id=1), Truck(id=2, load=3), Truck(id=3), Boat(id=4, sails=2), Boat(id=5, sails=1)])
        session.add_all([Gone(id=i, name=f"g{i}") for i in range(6)])
        session.commit()
    layer.repository(Gone).delete_many([1, 4])
    gone = walk(layer.repository(Gone), Q(Gone).order_by("-name").fields("name"), lambda: 2)
    assert gone == [("g5",), ("g3",), ("g2",), ("g0",)]
    assert gone[0].name == "g5"
    assert [v.id for v in walk(layer.repository(Vehicle), Q(Vehicle).order_by("-kind"), lambda: 2)] == [1, 3, 2, 5, 4]
    assert [v.id for v in walk(layer.repository(Truck), Q(Truck).order_by(Truck.load.nulls_first()), lambda: 1)] == [
        3,
        2,
    ]
    assert [v.id for v in walk(layer.repository(Boat), Q(Boat).order_by("sails"), lambda: 1)] == [5, 4]


def test_a_page_costs_one_statement_and_at_a_turn_of_directions_two(filled: DataLayer, statements: Statements) -> None:
    players = filled.repository(Player)
    for order in (["-level"], ["score", "id"], ["name", "-level"], []):
        query = Q(Player).order_by(*order)
        cursor = players.page(query, size=10).next
        statements.taken()
        players.page(query, after=cursor, size=10)
        assert statements.taken() == (2 if order == ["name", "-level"] else 1)


@pytest.mark.parametrize("order", [["level"], ["-level"], ["score"], ["-score"], ["region", "-id"], []])
def test_an_index_answers_what_comes_after_a_row_from_where_it_lies(filled: DataLayer, order: list[str]) -> None:
    engine = filled.engine
    with engine.begin() as connection:
        for column in ("level", "score", "region"):
            connection.execute(sa.text(f"CREATE INDEX q_{column} ON q_players ({column}, id)"))
    filled.repository(Player).create_many(Player(id=i, name="n", level=i, score=i) for i in range(1000, 3000))

    def planned(after: str | None) -> Keyset:
        statement = Q(Player).order_by(*order).to_select(default_limit=False)
        return keyset(statement, Player, size=5, after=after, secret=b"s", dialect=engine.dialect.name)

    first = planned(None)
    cursor = first.seal(["eu" if "region" in order else 2000, 2000] if order else [2000])
    for statement in planned(cursor).statements:
        assert_index_is_used(engine, statement.limit(5).compile(engine))


def assert_index_is_used(engine: sa.Engine, compiled: Any) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
        explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
        values = tuple(compiled.params[name] for name in compiled.positiontup or ()) or compiled.params
        plan = "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + str(compiled), values))
    assert "Index Cond" in plan if engine.dialect.name == "postgresql" else "SEARCH" in plan, plan


def test_a_session_without_a_layer_has_pages_too(filled: DataLayer) -> None:
    with Session(filled.engine) as session:
        players = Repository[Player](session)
        cursor = players.page(size=3).next
        assert [p.id for p in players.page(after=cursor, size=2).items] == [4, 5]
    with pytest.raises(QueryError, match="layer"):
        filled.repository(Player).page(after=cursor)


# -- cursors ---------------------------------------------------------------------------------------------------------


def cursor_of(layer: DataLayer, query: Any = None) -> str:
    cursor = layer.repository(Player).page(query, size=1).next
    assert cursor is not None
    return cursor


def test_a_cursor_shows_nothing(filled: DataLayer) -> None:
    cursor = cursor_of(filled, Q(Player).order_by("name"))
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    assert b"p001" not in raw
    assert b"q_players" not in raw


def test_a_cursor_that_was_changed_anywhere_is_refused(filled: DataLayer) -> None:
    cursor = cursor_of(filled)
    for i in range(len(cursor)):
        changed = cursor[:i] + ("A" if cursor[i] != "A" else "B") + cursor[i + 1 :]
        with pytest.raises(QueryError, match="cursor"):
            filled.repository(Player).page(after=changed, size=1)
    spare = [c for c in (cursor_of(filled, Q(Player).order_by(o)) for o in ("id", "name", "region")) if len(c) % 4]
    assert spare
    for cursor in spare:  # their last letter has bits that mean nothing
        for letter in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {cursor[-1]}:
            with pytest.raises(QueryError, match="cursor"):
                filled.repository(Player).page(after=cursor[:-1] + letter, size=1)
    for bad in ("", "x", "é", "\0", cursor[:-1], cursor + "A", cursor * 2, cursor[::-1], 3, b"", {}):
        with pytest.raises(QueryError, match="cursor"):
            filled.repository(Player).page(after=bad, size=1)  # type: ignore[call-overload]


def test_a_cursor_of_another_query_is_refused(filled: DataLayer) -> None:
    players = filled.repository(Player)
    for other in (
        Q(Player).where(level=1),
        Q(Player).where(level=2),
        Q(Player).order_by("-id"),
        Q(Player).order_by("name"),
        Q(Player).where_sql("level > :n", n=1),
        Q(Player).where_sql("level > :n", n=2),
        Q(Player).fields("id"),
        sa.select(Player).join(Player.club),
    ):
        with pytest.raises(QueryError, match="another query"):
            players.page(other, after=cursor_of(filled, Q(Player).where(region="eu")), size=1)
        cursor = players.page(other, size=1).next
        if cursor is not None:
            with pytest.raises(QueryError, match="another query"):
                players.page(Q(Player).where(region="us"), after=cursor)


def test_the_size_of_pages_may_change_on_the_way(filled: DataLayer, rng: random.Random) -> None:
    found = walk(filled.repository(Player), Q(Player).order_by("region", "-score"), lambda: rng.randrange(1, 50))
    assert sorted(p.id for p in found) == list(range(1, 151))


def test_another_layer_of_the_same_configuration_takes_the_cursor_and_one_with_another_secret_does_not(
    sqlite_url: str,
) -> None:
    with DataLayer(sqlite_url, models=Base) as one, DataLayer(sqlite_url, models=Base) as two:
        Base.metadata.create_all(one.engine)
        one.repository(Player).create_many(Player(id=i, name="n") for i in range(3))
        cursor = cursor_of(one)
        assert [p.id for p in two.repository(Player).page(after=cursor).items] == [1, 2]
    with DataLayer(sqlite_url, models=Base, l2_mac_key=b"k" * 32) as three, pytest.raises(QueryError, match="layer"):
        three.repository(Player).page(after=cursor)


def test_what_cannot_be_paged_is_refused(layer: DataLayer) -> None:
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (Q(Player).limit(3), {}, "has a limit"),
        (Q(Player).offset(3), {}, "has a limit"),
        (sa.select(Player).limit(3), {}, "has a limit"),
        (Q(Player), {"size": 0}, "size is 0"),
        (Q(Player), {"size": "3"}, "size is '3'"),
        (Q(Club), {}, "of Club"),
    ]
    for query, options, message in refused:
        with pytest.raises(QueryError, match=message):
            layer.repository(Player).page(query, **options)


def test_an_empty_table_has_one_empty_page(layer: DataLayer) -> None:
    assert layer.repository(Player).page() == Page([], None)

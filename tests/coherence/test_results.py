"""``search_cached``: never served after a commit that could change it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, relationship

from datalayer import CachePolicy, ConfigError, DataLayer, Model, Q, Repository, column
from datalayer.models.schema import schema_of
from datalayer.query.depends import Plan, Reason, plan
from datalayer.testing.counting import Statements

Twins = Callable[..., tuple[DataLayer, DataLayer]]


class ListedClub(Model):
    __tablename__ = "result_clubs"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class ListedMember(Model):
    __tablename__ = "result_members"
    __cache__ = CachePolicy(query_tags=("region", "colour"))
    id: Mapped[int] = column(primary_key=True)
    region: Mapped[str | None]
    score: Mapped[int] = column(default=0)
    colour: Mapped[Colour | None]
    club_id: Mapped[int | None] = column(sa.ForeignKey("result_clubs.id", ondelete="CASCADE"))
    club: Mapped[ListedClub | None] = relationship()


@pytest.fixture
def layer(any_url: str, request: pytest.FixtureRequest) -> Iterator[DataLayer]:
    with DataLayer(any_url, models=[ListedClub, ListedMember]) as layer:
        prepare(layer)
        yield layer


@pytest.fixture
def two(twins: Twins) -> tuple[DataLayer, DataLayer]:
    one, other = twins(ListedClub, ListedMember)
    fill(one)
    return one, other


def prepare(layer: DataLayer) -> None:
    Model.metadata.create_all(layer.engine, tables=[ListedClub.__table__, ListedMember.__table__])  # type: ignore[list-item]
    fill(layer)


def fill(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.add_all([ListedClub(id=1, name="one"), ListedClub(id=2, name="two")])
        session.flush()
        regions = ("eu", "eu", "us", None)
        session.add_all([ListedMember(id=i, region=regions[i % 4], score=i, club_id=1 + i % 2) for i in range(1, 9)])


EU = Q(ListedMember).where(region="eu").order_by("id")


def ids(layer: DataLayer, query: object = EU, **options: object) -> list[int]:
    return [m.id for m in layer.repository(ListedMember).search_cached(query, **options)]  # type: ignore[arg-type]


def counts(layer: DataLayer) -> dict[str, int]:
    return dict(layer.caches.results.counts)


def _orm_add(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.add(ListedMember(id=100, region="eu"))


def _orm_move_in(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.get_one(ListedMember, 2).region = "eu"


def _orm_move_out(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.get_one(ListedMember, 1).region = "us"


def _orm_move_unseen(layer: DataLayer) -> None:
    """The old value was never loaded."""
    with layer.begin() as session:
        member = session.get_one(ListedMember, 1)
        session.expire(member)
        member.region = "us"


def _orm_expression(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.get_one(ListedMember, 2).region = sa.literal("e") + "u"  # type: ignore[assignment]


def _orm_delete(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.delete(session.get_one(ListedMember, 1))


def _orm_delete_expired(layer: DataLayer) -> None:
    with layer.begin() as session:
        member = session.get_one(ListedMember, 1)
        session.expire(member)
        session.delete(member)


def _bulk_update(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.execute(sa.update(ListedMember).where(ListedMember.score > 5).values(region="eu"))


def _pinned_update(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.execute(sa.update(ListedMember).where(ListedMember.id == 2).values(region="eu"))


def _core_insert(layer: DataLayer) -> None:
    with layer.engine.begin() as connection:
        connection.execute(sa.insert(ListedMember.__table__), [{"id": 200, "region": "eu", "score": 0}])  # type: ignore[arg-type]


def _raw_text(layer: DataLayer) -> None:
    with layer.engine.begin() as connection:
        connection.execute(sa.text("UPDATE result_members SET region = 'eu' WHERE id = 2"))


def _upsert(layer: DataLayer) -> None:
    layer.repository(ListedMember).set(ListedMember(id=2, region="eu"))


def _cascade(layer: DataLayer) -> None:
    with layer.begin() as session:
        if layer.engine.dialect.name == "sqlite":
            session.execute(sa.delete(ListedMember).where(ListedMember.club_id == 2))
        session.execute(sa.delete(ListedClub).where(ListedClub.id == 2))


def _savepoint(layer: DataLayer) -> None:
    with layer.begin() as session:
        with session.begin_nested() as inner:
            session.get_one(ListedMember, 1).region = "us"
            session.flush()
            inner.rollback()
        session.get_one(ListedMember, 2).region = "eu"


WRITES = [
    *(_orm_add, _orm_move_in, _orm_move_out, _orm_move_unseen, _orm_expression, _orm_delete, _orm_delete_expired),
    *(_bulk_update, _pinned_update, _core_insert, _raw_text, _upsert, _cascade, _savepoint),
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("query", [EU, Q(ListedMember).where(ListedMember.score >= 0, region="eu").order_by("id")])
def test_no_result_outlives_a_write_that_changes_it(layer: DataLayer, write: object, query: object) -> None:
    before = ids(layer, query)
    assert ids(layer, query) == before
    assert counts(layer) == {"misses": 1, "l1_hits": 1}
    write(layer)  # type: ignore[operator]
    with layer.session() as session:
        after = [m.id for m in Repository[ListedMember](session).search(query)]  # type: ignore[arg-type]
    assert after != before
    assert ids(layer, query) == after


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("level", ["cached", "shared"])
def test_no_process_serves_a_result_from_before_a_commit(
    two: tuple[DataLayer, DataLayer], write: object, level: str
) -> None:
    one, other = two
    before = ids(other, consistency=level)
    write(one)  # type: ignore[operator]
    with one.session() as session:
        after = [m.id for m in Repository[ListedMember](session).search(EU)]
    assert after != before
    assert ids(other, consistency="shared") == after
    assert ids(one, consistency="cached") == after


def test_a_result_is_shared_between_processes(two: tuple[DataLayer, DataLayer]) -> None:
    one, other = two
    expected = ids(one)
    while counts(one).get("l2_hits", 0) == 0:  # the store is not waited for
        assert ids(one, consistency="shared") == expected
    with Statements(other.engine) as asked:
        assert ids(other) == expected
    assert counts(other) == {"l2_hits": 1}
    assert not [text for text in asked.texts if "region" in text and "WHERE" in text and "IN" not in text]


def test_a_write_of_other_values_spares_a_result(layer: DataLayer) -> None:
    ids(layer)
    with layer.begin() as session:
        session.get_one(ListedMember, 2).score = 99  # region "us", before and after
        session.add(ListedMember(id=300, region="asia"))
    ids(layer)
    assert counts(layer) == {"misses": 1, "l1_hits": 1}


def test_a_query_without_declared_values_goes_with_every_write_of_its_tables(layer: DataLayer) -> None:
    query = Q(ListedMember).where(ListedMember.score > 3).order_by("id")
    ids(layer, query)
    with layer.begin() as session:
        session.get_one(ListedMember, 2).score = 1
    ids(layer, query)
    assert counts(layer)["misses"] == 2
    with layer.begin() as session:
        session.get_one(ListedClub, 1).name = "uno"
    ids(layer, query)
    assert counts(layer) == {"misses": 2, "l1_hits": 1}


def test_a_join_depends_on_both_tables(layer: DataLayer) -> None:
    query = sa.select(ListedMember).join(ListedMember.club).where(ListedClub.name == "one").order_by(ListedMember.id)
    assert ids(layer, query) == [2, 4, 6, 8]
    with layer.begin() as session:
        session.get_one(ListedClub, 1).name = "uno"
    assert ids(layer, query) == []


def test_an_enum_is_a_value_to_ask_by(layer: DataLayer) -> None:
    query = Q(ListedMember).where(colour=Colour.RED)
    assert ids(layer, query) == []
    with layer.begin() as session:
        session.get_one(ListedMember, 1).colour = Colour.RED
    assert ids(layer, query) == [1]
    with layer.begin() as session:
        session.get_one(ListedMember, 2).colour = Colour.BLUE
    assert ids(layer, query) == [1]
    assert counts(layer)["l1_hits"] == 1


def test_the_writing_session_sees_its_own_writes(layer: DataLayer) -> None:
    ids(layer)
    with layer.session() as session:
        members = Repository[ListedMember](session)
        session.get_one(ListedMember, 2).region = "eu"
        assert 2 in [m.id for m in members.search_cached(EU)]
        session.rollback()
        assert 2 not in [m.id for m in members.search_cached(EU)]


def test_a_change_that_is_committed_while_the_query_runs_is_not_hidden_by_its_result(
    layer: DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys were read before the commit, and are kept after it: they must not be."""
    results = layer.caches.results
    keep = results._keep

    def late(*arguments: object) -> None:
        monkeypatch.undo()
        _orm_move_out(layer)
        keep(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(results, "_keep", late)
    ids(layer)
    assert 1 not in ids(layer)


def test_instances_are_the_callers_own_and_in_order(layer: DataLayer) -> None:
    members = layer.repository(ListedMember)
    query = Q(ListedMember).where(region="eu").order_by("-id").limit(2)
    first = members.search_cached(query)
    first[0].score = -1
    again = members.search_cached(query)
    assert [m.id for m in again] == [m.id for m in first] == sorted([m.id for m in again], reverse=True)
    assert again[0].score != -1


def test_invalidation_clears_results(layer: DataLayer) -> None:
    members = layer.repository(ListedMember)
    for forget in (members.invalidate_all, lambda: layer.touch(ListedMember), lambda: members.invalidate(1)):
        ids(layer)
        before = counts(layer)["misses"]
        forget()
        ids(layer)
        assert counts(layer)["misses"] == before + 1


def test_a_time_to_live_bounds_a_result(any_url: str) -> None:
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

        def time(self) -> float:
            return self.now

    clock = Clock()
    with DataLayer(any_url, models=[ListedClub, ListedMember], clock=clock) as layer:
        prepare(layer)
        ids(layer, ttl="5s")
        clock.now += 4
        ids(layer, ttl="5s")
        clock.now += 2
        ids(layer, ttl="5s")
        assert counts(layer) == {"misses": 2, "l1_hits": 1}


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(ListedMember).where(sa.func.random() > 2),
        sa.select(ListedMember).where(sa.text("score > 3")),
        sa.select(ListedMember).with_for_update(),
        sa.select(ListedMember).distinct(),
        sa.select(ListedMember).options(sa.orm.selectinload(ListedMember.club)),
        sa.select(ListedMember).where(ListedMember.id.in_(sa.select(sa.table("elsewhere", sa.column("id")).c.id))),
        sa.select(sa.orm.aliased(ListedMember)),
    ],
)
def test_what_is_no_function_of_tables_and_values_is_not_cached(statement: sa.Select) -> None:  # type: ignore[type-arg]
    with DataLayer("sqlite://", models=[ListedClub, ListedMember]) as layer:
        schema = schema_of(sa.inspect(ListedMember))
        assert isinstance(plan(statement, schema, layer.engine.dialect, [Model.metadata]), Reason)


def test_queries_that_are_not_cached_are_run(layer: DataLayer) -> None:
    query = Q(ListedMember).where_sql("score > :n", n=3).order_by("id")
    assert ids(layer, query) == [4, 5, 6, 7, 8]
    _raw_text(layer)
    assert ids(layer, query) == [4, 5, 6, 7, 8]
    assert counts(layer) == {"unplanned": 2}


def test_tables_in_every_corner_of_a_statement_are_found() -> None:
    schema = schema_of(sa.inspect(ListedMember))
    clubs = sa.select(ListedClub.id).where(ListedClub.name == "x")
    statements = [
        sa.select(ListedMember).where(ListedMember.club.has(ListedClub.name == "x")),
        sa.select(ListedMember).where(sa.exists().where(ListedClub.id == ListedMember.club_id)),
        sa.select(ListedMember).where(ListedMember.club_id.in_(clubs)),
        sa.select(ListedMember).join(clubs.subquery(), sa.true()),
        sa.select(ListedMember).join(clubs.cte(), sa.true()),
        sa.select(ListedMember).where(ListedMember.club_id == clubs.scalar_subquery()),
        sa.select(ListedMember).order_by(clubs.limit(1).scalar_subquery()),
        sa.select(ListedMember).where(ListedClub.id == ListedMember.club_id),
        sa.select(ListedMember).join(sa.orm.aliased(ListedClub), sa.true()),
    ]
    with DataLayer("sqlite://", models=[ListedClub, ListedMember]) as layer:
        for statement in statements:
            made = plan(statement, schema, layer.engine.dialect, [Model.metadata])
            assert isinstance(made, Plan), made
            assert set(made.tables) == {"result_clubs", "result_members"}, statement


def test_different_parameters_are_different_results(layer: DataLayer) -> None:
    schema = schema_of(sa.inspect(ListedMember))
    texts = set()
    for value in (1, 1.0, True, "1", None, b"1", [1], [1, 1], (), "1, 2", ["1", "2"]):
        statement = sa.select(ListedMember).where(sa.literal(1) == sa.bindparam("x", value, type_=sa.types.NullType()))
        made = plan(statement, schema, layer.engine.dialect, [Model.metadata])
        assert isinstance(made, Plan), made
        texts.add(made.text)
    assert len(texts) == 11


@pytest.mark.parametrize("name", ["score_x", "club", "when", "ratio"])
def test_only_exact_values_can_be_tags(name: str) -> None:
    class Odd(sa.orm.DeclarativeBase):
        pass

    class Row(Odd):
        __tablename__ = "odd"
        __cache__ = CachePolicy(query_tags=(name,))
        id: Mapped[int] = column(primary_key=True)
        ratio: Mapped[float]
        when: Mapped[str] = column(sa.String(collation="NOCASE"))

    with pytest.raises(ConfigError, match=f"query_tags names '{name}'"):
        DataLayer("sqlite://", models=[Row])


def test_one_query_at_a_time_in_one_round_trip(two: tuple[DataLayer, DataLayer]) -> None:
    one, _ = two
    tier = one._parts.l2
    ids(one)
    while counts(one).get("l2_hits", 0) == 0:
        ids(one, consistency="shared")
    wire = one.caches.results._shared._wire  # type: ignore[union-attr]
    query = one.caches.results.query(
        EU.to_select(), schema_of(sa.inspect(ListedMember)), one.caches.ladder(schema_of(sa.inspect(ListedMember)))
    )  # type: ignore[arg-type]
    before = wire.round_trips
    one._parts.authority.close()  # type: ignore[union-attr]  # no heartbeat in between
    before = wire.round_trips
    assert one.caches.results._shared.recall(query.digest, query.tags).entry is not None  # type: ignore[union-attr]
    assert wire.round_trips - before == 1
    assert tier.enabled

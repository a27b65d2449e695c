"""``Repository[T]``, in a session and one-shot, against every kind of database."""

from __future__ import annotations

import datetime as dt
import random

import pytest
import sqlalchemy as sa
import zoo
from sqlalchemy import inspect
from sqlalchemy.orm import Session as PlainSession
from sqlalchemy.sql import operators

from datalayer import (
    AlreadyExistsError,
    ConfigError,
    ConflictError,
    DataLayer,
    InvalidModelError,
    MissingPrimaryKeyError,
    NotFoundError,
    Q,
    QueryError,
    Repository,
    SchemaNotFoundError,
    UnavailableError,
)
from datalayer.testing.counting import Statements


class Members(Repository[zoo.Member]):
    model = zoo.Member


def test_an_owned_instance_never_changes_what_the_cache_holds(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    first = players.get_one(1)
    first.name = "scribbled"
    first.profile["k"].append(2)  # type: ignore[index]
    second = players.get_one(1)
    assert second is not first
    assert (second.name, second.profile) == ("ann", {"k": [1]})


def test_an_owned_instance_is_detached_and_can_be_added(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    player = players.get_one(1)
    state = inspect(player)
    assert state.detached
    assert state.identity == (1,)
    assert not state.modified
    assert "secret" in state.unloaded
    statements.taken()
    with layer.session() as session:
        session.add(player)
        assert session.get(zoo.Member, 1) is player
        assert statements.taken() == 0
        assert player.team.name == "red"  # type: ignore[union-attr]
        assert player.secret == "s1"
        player.name = "anna"
        statements.taken()
        session.commit()
        update = next(text for text in statements.texts if text.startswith("UPDATE"))
        assert "email" not in update
    assert players.get_one(1).name == "anna"


def test_a_detached_relationship_raises_as_in_sqlalchemy(layer: DataLayer) -> None:
    with pytest.raises(sa.orm.exc.DetachedInstanceError):
        _ = layer.repository(zoo.Member).get_one(1).team


@pytest.mark.parametrize(
    ("model", "key", "attribute", "value"),
    [
        (zoo.Fancy, 1, "rebuilt", True),
        (zoo.Fancy, 1, "point", zoo.Point(3, 4)),
        (zoo.Dog, 2, "tricks", 3),
        (zoo.Truck, 2, "load", 7),
        (zoo.Place, ("pt", 1), "name", "porto"),
        (zoo.Account, 1, "version", 1),
        (zoo.Half, 1, "name", "h"),
        (zoo.Uncached, 1, "name", "u"),
    ],
)
def test_every_kind_of_model_is_served(
    layer: DataLayer, statements: Statements, model: type, key: object, attribute: str, value: object
) -> None:
    rows = layer.repository(model)
    for _ in range(3):
        assert getattr(rows.get_one(key), attribute) == value
    assert statements.taken() == (3 if model is zoo.Uncached else 1)


def test_a_polymorphic_get_answers_with_the_subclass(layer: DataLayer, statements: Statements) -> None:
    animals = layer.repository(zoo.Animal)
    for _ in range(2):
        assert type(animals.get_one(2)) is zoo.Dog
        assert type(animals.get_one(1)) is zoo.Animal
    assert layer.repository(zoo.Dog).get(1) is None
    assert statements.taken() <= 3


def test_get_one_names_what_is_missing(layer: DataLayer) -> None:
    with pytest.raises(NotFoundError, match="Member 99 does not exist"):
        layer.repository(zoo.Member).get_one(99)
    with layer.session() as session, pytest.raises(NotFoundError):
        Members(session).get_one(99)


def test_get_many_costs_one_statement_and_then_none(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(zoo.Member)
    for expected in (1, 0):
        found = players.get_many([2, 1, 99, 2])
        assert list(found) == [2, 1]
        assert found[1].name == "ann"
        assert statements.taken() == expected
    with layer.session() as session:
        mine = Members(session).get_many([1, 2, 99])
        assert mine[1] is session.get(zoo.Member, 1)
    assert statements.taken() == 0


def test_get_many_of_composite_keys(layer: DataLayer, statements: Statements) -> None:
    places = layer.repository(zoo.Place)
    for expected in (1, 0):
        assert places.get_many([("pt", 1), ("es", 1)]).keys() == {("pt", 1)}
        assert statements.taken() == expected


def test_get_many_takes_a_thousand_keys_in_one_statement(layer: DataLayer, statements: Statements) -> None:
    assert layer.repository(zoo.Member).get_many(range(1, 1001)).keys() == {1, 2}
    assert statements.taken() == 1


def test_get_by_a_unique_column_or_constraint(layer: DataLayer, statements: Statements) -> None:
    players, places = layer.repository(zoo.Member), layer.repository(zoo.Place)
    for expected in (2, 0):
        assert players.get_by(email="bob@x").id == 2  # type: ignore[union-attr]
        assert places.get_by(name="porto", kind="city").number == 1  # type: ignore[union-attr]
        assert statements.taken() == expected
    assert players.get_by(email="nobody@x") is None


def test_get_by_anything_else_says_what_is_unique(layer: DataLayer) -> None:
    with pytest.raises(QueryError, match="name is not unique in Member"):
        layer.repository(zoo.Member).get_by(name="ann")
    with pytest.raises(QueryError, match="did you mean 'email'"):
        layer.repository(zoo.Member).get_by(emial="ann")


def test_exists_and_count(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    statements.taken()
    assert players.exists(1)
    assert statements.taken() == 0
    assert not players.exists(99)
    assert players.count() == 2
    assert players.count(Q(zoo.Member).where(name="ann")) == 1
    assert players.count(sa.select(zoo.Member).where(zoo.Member.level > 5)) == 0


def test_create_update_and_delete_are_seen_at_once(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    assert players.get(50) is None
    made = players.create(zoo.Member(id=50, name="new", email="new@x"))
    assert (made.level, inspect(made).detached) == (1, True)
    assert players.get_one(50).name == "new"
    assert players.update(50, name="newer").name == "newer"
    assert players.get_one(50).name == "newer"
    assert players.delete(50) is True
    assert players.delete(50) is False
    assert players.get(50) is None


def test_create_of_what_exists_is_refused_by_name(layer: DataLayer) -> None:
    with pytest.raises(AlreadyExistsError, match="Member"):
        layer.repository(zoo.Member).create(zoo.Member(name="x", email="ann@x"))
    with pytest.raises(AlreadyExistsError):
        layer.repository(zoo.Place).create(zoo.Place(country="pt", number=1, name="other"))


def test_another_integrity_error_is_the_databases_own(layer: DataLayer) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        layer.repository(zoo.Badge).create(zoo.Badge(player_id=1, label=None))


def test_update_of_nothing_and_of_unknown_attributes_is_refused(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    with pytest.raises(NotFoundError):
        players.update(99, name="x")
    with pytest.raises(QueryError, match="did you mean 'name'"):
        players.update(1, nmae="x")


def test_set_inserts_and_then_updates_only_what_is_loaded(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    players.set(zoo.Member(id=60, name="six", email="six@x", level=9))
    assert players.get_one(60).level == 9
    players.set(zoo.Member(id=60, name="sixty"))
    found = players.get_one(60)
    assert (found.name, found.email, found.level) == ("sixty", "six@x", 9)


def test_writing_a_cached_row_back_keeps_its_omitted_column(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    cached = players.get_one(1)
    cached.name = "anna"
    players.set(cached)
    with PlainSession(layer.engine) as session:
        row = session.get_one(zoo.Member, 1)
        assert (row.name, row.secret, row.email) == ("anna", "s1", "ann@x")


def test_set_keeps_the_time_of_creation_and_moves_the_time_of_update(layer: DataLayer) -> None:
    accounts = layer.repository(zoo.Account)
    before = accounts.get_one(1)
    long_ago = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    accounts.set(zoo.Account(id=1, balance=5, version=before.version, created_at=long_ago))
    after = accounts.get_one(1)
    assert after.balance == 5
    assert after.created_at == before.created_at
    assert after.updated_at > before.updated_at


def test_set_without_a_key_is_refused(layer: DataLayer) -> None:
    with pytest.raises(MissingPrimaryKeyError, match="id"):
        layer.repository(zoo.Member).set(zoo.Member(name="x"))


def test_set_of_another_class_is_refused(layer: DataLayer) -> None:
    with pytest.raises(InvalidModelError, match="Club"):
        layer.repository(zoo.Member).set(zoo.Club(id=5, name="x"))  # type: ignore[arg-type]


def test_set_and_create_and_delete_many(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    assert len(players.create_many(zoo.Member(id=i, name=str(i)) for i in range(70, 75))) == 5
    players.set_many([zoo.Member(id=70, name="first"), zoo.Member(id=80, name="eighty")])
    assert players.get_one(70).name == "first"
    assert players.delete_many([70, 71, 999]) == 2
    assert players.get_many(range(70, 90)).keys() == {72, 73, 74, 80}


@pytest.mark.parametrize("form", ["object", "mapping"])
def test_compare_and_set_lets_one_of_two_win(layer: DataLayer, form: str) -> None:
    players = layer.repository(zoo.Member)
    mine, theirs = players.get_one(2), players.get_one(2)
    theirs.level = 5
    players.compare_and_set(theirs, expected=players.get_one(2) if form == "object" else {"level": 1})
    mine.level = 7
    with pytest.raises(ConflictError, match="Member 2"):
        players.compare_and_set(mine, expected={zoo.Member.level: 1})
    assert players.get_one(2).level == 5


def test_compare_and_set_by_version(layer: DataLayer) -> None:
    accounts = layer.repository(zoo.Account)
    account = accounts.get_one(1)
    account.balance = 1
    assert accounts.compare_and_set(account, expected=account.version).version == 2
    with pytest.raises(ConflictError):
        accounts.compare_and_set(account, expected=1)
    with pytest.raises(QueryError, match="no version column"):
        layer.repository(zoo.Member).compare_and_set(layer.repository(zoo.Member).get_one(1), expected=3)


def test_soft_deleted_rows_are_gone_until_restored(layer: DataLayer) -> None:
    notes = layer.repository(zoo.Note)
    notes.get(1)
    assert notes.delete(1)
    assert not notes.delete(1)
    assert notes.get(1) is None
    assert notes.get_snapshot(1) is None
    assert not notes.exists(1)
    assert notes.get_many([1]) == {}
    assert notes.search() == []
    assert notes.count() == 0
    notes.restore(1)
    assert notes.get_one(1).text == "keep"
    assert notes.delete(1, hard=True)
    with PlainSession(layer.engine) as session:
        assert session.get(zoo.Note, 1) is None
    with pytest.raises(InvalidModelError, match="SoftDelete"):
        layer.repository(zoo.Member).restore(1)


def test_hooks_run_and_may_refuse(layer: DataLayer) -> None:
    rows = layer.repository(zoo.Hooked)
    zoo.heard.clear()
    rows.get(1)
    rows.create(zoo.Hooked(id=2, name="fine"))
    with pytest.raises(ValueError, match="refused"):
        rows.create(zoo.Hooked(id=3, name="refused"))
    assert zoo.heard == [("before_get", 1), ("after_set", 2)]
    with layer.session() as session:
        Repository[zoo.Hooked](session).create(zoo.Hooked(id=4, name="rolled back"))
        session.rollback()
    assert ("after_set", 4) not in zoo.heard


def test_snapshots_are_shared_immutable_and_fresh(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    players.get_snapshot(1)
    snapshot = players.get_snapshot(1)
    assert snapshot is players.get_snapshot(1)
    assert (snapshot.name, snapshot.profile["k"]) == ("ann", (1,))  # type: ignore[union-attr]
    with pytest.raises(AttributeError, match="snapshot"):
        snapshot.name = "x"  # type: ignore[union-attr]
    with pytest.raises(AttributeError):
        _ = snapshot.secret  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        snapshot.profile["k"] = 1  # type: ignore[union-attr,index]
    players.update(1, name="anna")
    assert players.get_snapshot(1).name == "anna"  # type: ignore[union-attr]
    assert players.get_snapshot(99) is None
    with layer.session() as session:
        assert Members(session).get_snapshot(1).name == "anna"  # type: ignore[union-attr]


def test_search_has_a_default_limit(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    players.create_many(zoo.Member(id=1000 + i, name="n", level=i) for i in range(150))
    assert len(players.search()) == 100
    assert len(players.search(Q(zoo.Member).limit(None))) == 152
    query = Q(zoo.Member).where(zoo.Member.level > 10, name="n").order_by("-level").limit(3).offset(1)
    assert [p.level for p in players.search(query)] == [148, 147, 146]
    text = Q(zoo.Member).where_sql("level > :n AND name <> '50%'", n=147)
    assert {p.level for p in players.search(text)} == {148, 149}
    assert len(players.search(sa.select(zoo.Member))) == 152


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Q(zoo.Member).where(nmae=1), "did you mean 'name'"),
        (lambda: Q(zoo.Member).limit(-1), "limit is -1"),
        (lambda: Q(zoo.Member).where_sql("level > :n"), r"without a value: n;"),
        (lambda: Q(zoo.Member).where("level > 1"), "condition such as"),
        (lambda: Q(int), "mapped class"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(build: object, message: str) -> None:
    with pytest.raises((QueryError, InvalidModelError), match=message):
        build()  # type: ignore[operator]


def test_a_query_of_another_model_is_refused(layer: DataLayer) -> None:
    with pytest.raises(QueryError, match="Club"):
        layer.repository(zoo.Member).search(Q(zoo.Club))  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="select"):
        layer.repository(zoo.Member).search(sa.select(zoo.Club))


@pytest.mark.parametrize("trial", range(4))
def test_pages_join_to_the_whole_list_with_ties_nulls_and_mixed_directions(
    layer: DataLayer, rng: random.Random, trial: int
) -> None:
    players = layer.repository(zoo.Member)
    players.create_many(
        zoo.Member(id=100 + i, name=rng.choice("abc"), level=rng.randrange(3), email=rng.choice([None, f"m{i}"]))
        for i in range(40)
    )
    directions = [rng.choice([sa.asc, sa.desc]) for _ in range(3)]
    order = [d(c) for d, c in zip(directions, (zoo.Member.email, zoo.Member.name, zoo.Member.level), strict=True)]
    rng.shuffle(order)
    query = sa.select(zoo.Member).order_by(*order)
    last = sa.desc if order[-1].modifier is operators.desc_op else sa.asc
    expected = [p.id for p in players.search(query.order_by(last(zoo.Member.id)))]
    size, seen, cursor = rng.randrange(1, 9), [], None
    while True:
        page = players.page(query, after=cursor, size=size)
        seen += [p.id for p in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == expected


def test_a_forged_or_foreign_cursor_is_refused(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    cursor = players.page(size=1).next
    assert cursor is not None
    with pytest.raises(QueryError, match="another query"):
        players.page(Q(zoo.Member).where(level=1), after=cursor, size=1)
    for bad in ("", "x", cursor[:-2] + "AA", "é", cursor + "A"):
        with pytest.raises(QueryError, match="cursor"):
            players.page(after=bad, size=1)
    with pytest.raises(QueryError, match="limit"):
        players.page(Q(zoo.Member).limit(3))
    with pytest.raises(QueryError, match="size is 0"):
        players.page(size=0)


def test_invalidate_one_all_and_by_pattern(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(zoo.Member)

    def cost() -> tuple[int, int]:
        statements.taken()
        players.get(1)
        first = statements.taken()
        players.get(2)
        return first, statements.taken()

    assert cost() == (1, 1)
    players.invalidate(1)
    assert cost() == (1, 0)
    players.invalidate_all()
    assert cost() == (1, 1)
    assert players.invalidate_pattern("zoo_players:2") == 1
    assert cost() == (0, 1)


def test_warm_fills_the_cache(layer: DataLayer, statements: Statements) -> None:
    players = layer.repository(zoo.Member)
    seen: list[int] = []
    assert players.warm(progress=seen.append) == 2
    assert seen == [2]
    statements.taken()
    assert players.get(1) is not None
    assert players.get(2) is not None
    assert statements.taken() == 0
    assert players.warm(limit=1) == 1


def test_an_unhashable_or_odd_key_is_the_databases_business(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    assert players.get([1]).id == 1  # type: ignore[union-attr]
    with pytest.raises(sa.exc.InvalidRequestError, match="primary key"):
        players.get((1, 2))


def test_repositories_refuse_what_they_cannot_serve(layer: DataLayer) -> None:
    with pytest.raises(InvalidModelError, match="int"):
        layer.repository(int)
    with pytest.raises(ConfigError, match=r"datalayer\.Session"), PlainSession(layer.engine) as session:
        Members(session)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="names no model"), layer.session() as session:
        Repository(session)


def test_a_class_of_another_layer_is_not_found(any_url: str) -> None:
    with DataLayer(any_url, models=[zoo.Club]) as other, pytest.raises(SchemaNotFoundError, match="Member"):
        other.repository(zoo.Member)


def test_a_closed_layer_says_so(layer: DataLayer) -> None:
    players = layer.repository(zoo.Member)
    players.get(1)
    layer.close()
    layer.close()
    for call in (lambda: players.get(1), lambda: players.count(), layer.session, layer.stats, layer.health):
        with pytest.raises(UnavailableError, match="closed"):
            call()


def test_a_consistency_that_is_none_is_refused(layer: DataLayer) -> None:
    with pytest.raises(ConfigError, match="'fresh'"):
        layer.repository(zoo.Member).get(1, consistency="fresh")  # type: ignore[arg-type]

"""``set_many``, ``create_many``, ``delete_many`` and ``compare_and_set``: few statements, exact keys, nothing reset."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import pytest
import sqlalchemy as sa
import zoo
from writing import Account, Cart, Child, Guarded, Line, Memo, Parent, Secret

from datalayer import AlreadyExistsError, ConflictError, DataLayer, NotFoundError, Repository
from datalayer.testing.counting import Statements

OLD = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)


def writes(statements: Statements) -> list[str]:
    """The first words of the statements that write, since the last call."""
    texts, statements.texts = statements.texts, []
    return [word for text in texts if (word := text.split()[0].upper()) in ("INSERT", "UPDATE", "DELETE")]


def accounts(ids: Iterable[int], **values: Any) -> list[Account]:
    return [Account(id=id, owner=f"o{id}", **values) for id in ids]


def test_set_many_is_one_statement_for_a_thousand(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    with Statements(layer.engine) as statements:
        assert len(rows.set_many(accounts(range(1000)))) == 1000
        assert writes(statements) == ["INSERT"]
        rows.set_many(accounts(range(1500), balance=7))
        assert writes(statements) == ["INSERT"] * 2
    assert rows.count() == 1500
    assert rows.get_one(1499).balance == 7


def test_set_many_returns_what_is_stored_in_the_order_given(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    rows.create(Account(id=2, owner="old", balance=5, note="kept"))
    given = [Account(id=3, owner="c"), Account(id=2, owner="b"), Account(id=1, owner="a", note="new")]
    stored = rows.set_many(given)
    assert [(a.id, a.owner, a.balance, a.note) for a in stored] == [
        (3, "c", 0, None),
        (2, "b", 5, "kept"),
        (1, "a", 0, "new"),
    ]
    assert all(a.created_at is not None for a in stored)
    assert all(a not in given for a in stored)


def test_of_two_rows_with_one_key_the_later_wins(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    stored = rows.set_many([Account(id=1, owner="a", note="n"), Account(id=1, owner="b"), Account(id=2, owner="c")])
    assert [a.owner for a in stored] == ["b", "b", "c"]
    assert rows.get_one(1).note == "n"


def test_an_upsert_never_resets_what_is_set_once_and_always_sets_the_last_moment(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    rows.bulk_load([{"id": 1, "owner": "a", "created_at": OLD}])
    before = rows.get_one(1)
    after = rows.set(Account(id=1, owner="b", created_at=dt.datetime.now(dt.UTC), updated_at=OLD))
    assert after.created_at == OLD
    assert after.updated_at > before.updated_at


def test_only_the_keys_that_were_written_leave_the_caches(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    rows.set_many(accounts(range(10)))
    rows.get_many(range(10))
    misses = layer.stats().tiers["l1"].misses
    rows.set_many(accounts([2, 3], balance=9))
    rows.delete_many([4, 99])
    rows.compare_and_set(Account(id=5, balance=8), expected={"balance": 0})
    found = rows.get_many(range(10))
    assert [found[i].balance for i in (2, 3, 5, 6)] == [9, 9, 8, 0]
    assert 4 not in found
    assert layer.stats().tiers["l1"].misses <= misses + 4


def test_composite_keys_are_exact_as_well(layer: DataLayer) -> None:
    rows = layer.repository(Line)
    rows.set_many([Line(cart=1, number=i, what="x") for i in range(5)])
    rows.get_many([(1, i) for i in range(5)])
    misses = layer.stats().tiers["l1"].misses
    with Statements(layer.engine) as statements:
        assert rows.delete_many([(1, 0), (1, 1), (2, 2)]) == 2
        rows.compare_and_set(Line(cart=1, number=2, what="y"), expected={"what": "x"})
        assert writes(statements) == ["DELETE", "UPDATE"]
    assert {key: line.what for key, line in rows.get_many([(1, i) for i in range(5)]).items()} == {
        (1, 2): "y",
        (1, 3): "x",
        (1, 4): "x",
    }
    assert layer.stats().tiers["l1"].misses <= misses + 3


def test_delete_many_is_one_statement_and_counts_what_was_there(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    rows.set_many(accounts(range(20)))
    layer.repository(Cart).set(Cart(id=1, account_id=3))
    assert layer.repository(Cart).get(1) is not None
    with Statements(layer.engine) as statements:
        assert rows.delete_many([*range(10), 5, 77]) == 10
        assert writes(statements) == ["DELETE"]
    assert rows.count() == 10
    assert rows.delete_many([1]) == 0
    assert layer.repository(Cart).get(1) is None  # by the database's own cascade


def test_a_session_forgets_what_it_deleted(layer: DataLayer) -> None:
    layer.repository(Account).set_many(accounts(range(3)))
    with layer.begin() as session:
        held = session.get_one(Account, 1)
        assert Repository[Account](session).delete_many([1, 2]) == 2
        assert held not in session
        assert session.get(Account, 1) is None


def test_what_python_cascades_is_still_cascaded(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.add(Parent(id=1, name="p", children=[Child(id=1), Child(id=2)]))
    parents, children = layer.repository(Parent), layer.repository(Child)
    assert children.get(2) is not None
    assert parents.delete_many([1, 9]) == 1
    assert children.get(2) is None
    assert children.count() == 0


def test_soft_deletes_of_many_rows_are_one_statement(layer: DataLayer) -> None:
    memos = layer.repository(Memo)
    memos.set_many([Memo(id=i, text="t") for i in range(5)])
    memos.get_many(range(5))
    with Statements(layer.engine) as statements:
        assert memos.delete_many([1, 2, 3]) == 3
        assert writes(statements) == ["UPDATE"]
    assert memos.delete_many([1, 2]) == 0
    assert sorted(memos.get_many(range(5))) == [0, 4]
    assert memos.restore(1).text == "t"
    assert sorted(memos.get_many(range(5))) == [0, 1, 4]
    assert memos.delete_many([0, 1, 2], hard=True) == 3


def test_create_many_inserts_in_few_statements_and_learns_the_keys(pg: DataLayer) -> None:
    rows = pg.repository(Account)
    with Statements(pg.engine) as statements:
        made = rows.create_many([Account(owner=f"o{i}") for i in range(500)])
        assert writes(statements) == ["INSERT"]
    assert len({a.id for a in made}) == 500
    assert rows.get_one(made[7].id).owner == "o7"
    with pytest.raises(AlreadyExistsError):
        rows.create_many(accounts([made[0].id]))


def test_a_version_counts_up_whoever_writes(layer: DataLayer) -> None:
    rows = layer.repository(Guarded)
    first = rows.set(Guarded(id=1, name="a"))
    second = rows.set(Guarded(id=1, name="b"))
    third = rows.compare_and_set(Guarded(id=1, name="c"), expected=second.version)
    assert [first.version, second.version, third.version] == [1, 2, 3]
    with pytest.raises(ConflictError):
        rows.compare_and_set(Guarded(id=1, name="d"), expected=second.version)
    with layer.session() as session:
        stale = session.get_one(Guarded, 1)
        rows.set(Guarded(id=1, name="e"))
        stale.name = "f"
        with pytest.raises(sa.orm.exc.StaleDataError):
            session.commit()
    assert rows.get_one(1).name == "e"


def test_comparing_sets_the_last_moment_and_leaves_the_first(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    rows.bulk_load([{"id": 1, "owner": "a", "created_at": OLD}])
    before = rows.get_one(1)
    before.owner = "b"
    after = rows.compare_and_set(before, expected={"owner": "a"})
    assert (after.owner, after.created_at) == ("b", OLD)
    assert after.updated_at > rows.get_one(1).created_at


def test_encrypted_columns_of_many_rows_are_encrypted(layer: DataLayer) -> None:
    rows = layer.repository(Secret)
    stored = rows.set_many([Secret(id=i, email=f"e{i}@x", token=f"t{i}") for i in range(30)])
    assert [(s.email, s.token) for s in stored[:2]] == [("e0@x", "t0"), ("e1@x", "t1")]
    rows.set_many([Secret(id=i, email=f"n{i}@x") for i in range(30)])
    found = rows.get_one(7, consistency="database")
    assert (found.email, found.token) == ("n7@x", "t7")
    assert rows.get_by(email="n7@x").id == 7  # type: ignore[union-attr]
    assert rows.get_by(email="e7@x") is None
    with layer.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT email, token FROM w_secrets")).all()
    assert not any("@" in row[0] or row[1].startswith("t") for row in stored)
    with pytest.raises(AlreadyExistsError):
        rows.set_many([Secret(id=99, email="n1@x")])


def test_no_rows_are_no_statement(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    with Statements(layer.engine) as statements:
        assert (rows.set_many([]), rows.create_many([]), rows.delete_many([]), rows.bulk_load([])) == ([], [], 0, 0)
        assert len(statements) == 0


def test_an_object_that_cannot_be_inserted_as_it_is_updates_its_row(layer: DataLayer) -> None:
    rows = layer.repository(Account)
    rows.set_many(accounts([1, 2], note="kept", balance=5))
    rows.get_many([1, 2])
    stored = rows.set_many([Account(id=1, balance=7), Account(id=2, balance=8)])  # the owner is not null, and not given
    assert [(a.owner, a.balance, a.note) for a in stored] == [("o1", 7, "kept"), ("o2", 8, "kept")]
    assert rows.get_one(2).balance == 8
    with pytest.raises(NotFoundError, match="cannot be inserted without owner"):
        rows.set(Account(id=9, balance=1))


def test_a_row_from_the_cache_is_written_back_without_what_the_cache_may_not_hold(any_url: str) -> None:
    with DataLayer(any_url, models=[zoo.Plain]) as layer:
        zoo.Plain.__table__.create(layer.engine)  # type: ignore[attr-defined]
        rows = layer.repository(zoo.Plain)
        rows.create(zoo.Plain(id=1, name="p", hidden="H"))
        rows.get(1)
        cached = rows.get_one(1)
        assert "hidden" not in sa.inspect(cached).dict
        cached.name = "q"
        rows.set(cached)
        found = rows.get_one(1, consistency="database")
        assert (found.name, found.hidden) == ("q", "H")

"""``layer.transaction()``: writes that are collected, and committed together or not at all."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
import zoo
from writing import Account, Cart, Guarded, Heard, Memo, Watched

from datalayer import (
    AlreadyExistsError,
    DataLayer,
    InvalidModelError,
    MissingPrimaryKeyError,
    NotFoundError,
    SchemaNotFoundError,
    TransactionFailed,
)
from datalayer.testing.counting import Statements


def test_all_of_it_is_committed_together_and_seen_by_everybody(layer: DataLayer) -> None:
    accounts, carts = layer.repository(Account), layer.repository(Cart)
    accounts.set(Account(id=1, owner="ann", balance=5))
    carts.set(Cart(id=7, account_id=1))
    assert (accounts.get_one(1).balance, carts.get(7) is not None, accounts.get(2)) == (5, True, None)
    results = (
        layer.transaction()
        .set(Account(id=1, balance=6, owner="ann"))
        .create(Account(id=2, owner="bob"))
        .update(Account, 2, note="new")
        .delete(Cart, 7)
        .delete(Cart, 8)
        .commit()
    )
    assert [getattr(r, "id", r) for r in results] == [1, 2, 2, True, False]
    assert results[2].note == "new"
    assert (accounts.get_one(1).balance, accounts.get_one(2).note, carts.get(7)) == (6, "new", None)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda t: t.create(Account(id=3, owner="again")), AlreadyExistsError),
        (lambda t: t.update(Account, 99, note="x"), NotFoundError),
        (lambda t: t.set(Account(owner="nobody")), MissingPrimaryKeyError),
        (lambda t: t.set(Cart(id=1, account_id=99)), sa.exc.IntegrityError),
        (lambda t: t.set(zoo.Tag(id=1, name="t")), SchemaNotFoundError),
    ],
)
def test_one_write_that_fails_takes_all_others_back(layer: DataLayer, spoil: Any, error: type[Exception]) -> None:
    accounts = layer.repository(Account)
    accounts.set_many([Account(id=1, owner="ann", balance=5), Account(id=3, owner="cyd")])
    accounts.get(1), accounts.get(2)
    staged = layer.transaction().set(Account(id=1, owner="ann", balance=6)).set(Account(id=2, owner="bob"))
    with pytest.raises(error):
        spoil(staged).commit()
    for level in ("cached", "database"):
        assert accounts.get_one(1, consistency=level).balance == 5  # type: ignore[arg-type]
        assert accounts.get(2, consistency=level) is None  # type: ignore[arg-type]


def test_nothing_is_sent_before_the_commit_and_neighbours_share_a_statement(layer: DataLayer) -> None:
    with Statements(layer.engine) as statements:
        staged = layer.transaction()
        for id in range(50):
            staged.set(Account(id=id, owner="o"))
        assert (len(staged), len(statements)) == (50, 0)
        staged.commit()
        assert len(statements) == 1
    assert layer.repository(Account).count() == 50


def test_it_commits_once(layer: DataLayer) -> None:
    staged = layer.transaction().set(Account(id=1, owner="ann"))
    staged.commit()
    with pytest.raises(TransactionFailed, match="was committed"):
        staged.commit()
    with pytest.raises(TransactionFailed, match="was committed"):
        staged.set(Account(id=2, owner="bob"))


def test_after_a_failure_it_may_be_tried_again(layer: DataLayer) -> None:
    accounts = layer.repository(Account)
    accounts.set(Account(id=1, owner="in the way"))
    staged = layer.transaction().create(Account(id=1, owner="ann")).set(Account(id=2, owner="bob"))
    with pytest.raises(AlreadyExistsError):
        staged.commit()
    accounts.delete(1)
    staged.commit()
    assert (accounts.get_one(1).owner, accounts.get_one(2).owner) == ("ann", "bob")


def test_a_block_commits_and_one_that_raises_forgets(layer: DataLayer) -> None:
    with layer.transaction() as staged:
        staged.set(Account(id=1, owner="ann"))
    with pytest.raises(RuntimeError), layer.transaction() as staged:  # noqa: PT012  # the block fails as a whole
        staged.set(Account(id=2, owner="bob"))
        raise RuntimeError
    assert layer.repository(Account).get(1) is not None
    assert layer.repository(Account).get(2) is None


def test_only_instances_of_mapped_classes_are_taken(layer: DataLayer) -> None:
    with pytest.raises(InvalidModelError, match="'dict'"):
        layer.transaction().set({"id": 1})


def test_soft_deletes_and_versions_are_kept(layer: DataLayer) -> None:
    layer.transaction().set(Memo(id=1, text="t")).set(Guarded(id=1, name="a")).commit()
    layer.transaction().delete(Memo, 1).set(Guarded(id=1, name="b")).commit()
    assert layer.repository(Memo).get(1) is None
    assert layer.repository(Memo).restore(1).text == "t"
    assert layer.repository(Guarded).get_one(1).version == 2


def test_hooks_are_asked_before_and_told_after_the_commit_of_all(layer: DataLayer, heard: Heard) -> None:
    layer.transaction().set(Watched(id=1, name="a")).create(Watched(id=2, name="b")).commit()
    assert heard.taken() == [
        ("before_set", 1, "a"),
        ("before_set", 2, "b"),
        ("after_set", 1, "a"),
        ("after_set", 2, "b"),
    ]

    def refuse(obj: Any) -> None:
        if obj.id == 4:
            raise ValueError("no")

    heard.before = refuse
    with pytest.raises(ValueError, match="no"):
        layer.transaction().set(Watched(id=3, name="c")).set(Account(id=1, owner="x")).set(
            Watched(id=4, name="d")
        ).commit()
    assert heard.taken("after_set") == []
    assert layer.repository(Watched).get(3) is None
    assert layer.repository(Account).get(1) is None


def test_two_that_deadlock_are_both_committed_in_the_end(pg: DataLayer) -> None:
    accounts = pg.repository(Account)
    accounts.set_many([Account(id=1, owner="a"), Account(id=2, owner="b")])
    failures: list[BaseException] = []

    def work(first: int, second: int) -> None:
        try:
            for n in range(10):
                pg.transaction(retries=20).update(Account, first, balance=n).update(Account, second, balance=n).commit()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [accounts.get_one(id).balance for id in (1, 2)] == [9, 9]

"""The guard of one L1: who may put what, and that each of its checks is needed."""

from __future__ import annotations

import pytest

from datalayer.coherence.guard import Guard
from datalayer.contracts.coherence import ABSENT, Change
from datalayer.contracts.keys import key_text
from datalayer.tiers.l1 import L1


@pytest.fixture
def l1() -> L1:
    return L1(max_entries=100, ttl=60.0)


@pytest.fixture
def guard(l1: L1) -> Guard:
    return Guard(l1)


WRITES = [Change(keys=frozenset([1])), Change(whole=True)]


@pytest.mark.parametrize("change", WRITES)
def test_a_value_read_before_a_write_is_refused_after_it(l1: L1, guard: Guard, change: Change) -> None:
    ticket, glance, tickets = guard.ticket(1), guard.glance(), guard.tickets()
    assert ticket is not None
    assert glance is not None
    assert tickets is not None
    guard.begin(change)
    guard.end(change)
    assert not guard.put(1, ticket, "old")
    assert not guard.put_seen(1, glance, "old")
    guard.put_many(tickets, [(1, "old", 0, None)])
    assert 1 not in l1.index
    assert guard.refused == 3


@pytest.mark.parametrize("change", WRITES)
def test_while_a_write_commits_its_keys_are_neither_served_nor_kept(l1: L1, guard: Guard, change: Change) -> None:
    before = guard.ticket(1)
    assert before is not None
    assert guard.put(1, before, "old")
    guard.begin(change)
    assert 1 not in l1.index
    assert guard.ticket(1) is None
    assert guard.glance() is None
    assert guard.free([1, 2]) == ([2] if change.keys else [1, 2])
    guard.end(change)
    after = guard.ticket(1)
    assert after is not None
    assert guard.put(1, after, "new")
    assert guard.pending() == 0


def test_two_writers_of_one_key_are_two_marks(guard: Guard) -> None:
    change = Change(keys=frozenset([1]))
    guard.begin(change)
    guard.begin(change)
    guard.end(change)
    assert guard.ticket(1) is None
    guard.end(change)
    assert guard.ticket(1) is not None


def test_a_slower_reader_does_not_overwrite_a_faster_one_and_neither_is_kept(l1: L1, guard: Guard) -> None:
    slow, fast = guard.ticket(1), guard.ticket(1)
    assert slow is not None
    assert fast is not None
    assert guard.put(1, fast, "newer")
    assert not guard.put(1, slow, "older")
    assert 1 not in l1.index  # which of the two is newer nobody knows


def test_an_insert_of_unknown_keys_ends_absences_only(l1: L1, guard: Guard) -> None:
    ticket = guard.ticket(1)
    assert ticket is not None
    guard.put(1, ticket, "row")
    other, late = guard.ticket(2), guard.ticket(3)
    assert other is not None
    assert late is not None
    guard.put(2, other, ABSENT)
    births = Change(births=True)
    guard.begin(births)
    assert list(l1.index) == [1]
    guard.end(births)
    assert not guard.put(3, late, ABSENT)
    again = guard.ticket(3)
    assert again is not None
    assert guard.put(3, again, ABSENT)


def test_keys_of_one_stripe_are_all_kept_in_a_batch(l1: L1, guard: Guard) -> None:
    tickets = guard.tickets()
    assert tickets is not None
    guard.put_many(tickets, [(key, key, 0, None) for key in range(0, 1024 * 50, 1024)])
    assert len(l1) == 50


@pytest.mark.parametrize(
    ("left", "right"),
    [((1,), (2,)), (("1", "2"), ("1,2", "")), (("a",), ("A",)), ((b"a",), (b"b",)), (("x" * 500,), ("x" * 501,))],
)
def test_different_keys_have_different_texts(left: tuple, right: tuple) -> None:
    assert key_text(left) != key_text(right)
    assert len(key_text(left)) <= 120
    assert key_text(left) == key_text(left)

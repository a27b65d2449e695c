"""The store in memory: its bounds, what it forgets, and that it gives memory back."""

from __future__ import annotations

import gc
import random
import tracemalloc
from typing import Any

import pytest

from datalayer.contracts.store import StoreEvent
from datalayer.errors import ConflictError, StoreError
from datalayer.kv import MemoryStore
from datalayer.testing.compliance import ManualClock


def test_a_full_store_refuses_and_is_as_it_was() -> None:
    store = MemoryStore(max_entries=2)
    store.put(b"a", b"1")
    store.put(b"b", b"1")
    with pytest.raises(StoreError, match="holds 2 keys"):
        store.put(b"c", b"1")
    store.put(b"a", b"2")  # no new key
    assert dict(store.scan()) == {b"a": b"2", b"b": b"1"}
    store.delete(b"b")
    store.put(b"c", b"1")  # what is deleted makes room
    assert dict(store.scan()) == {b"a": b"2", b"c": b"1"}


def test_a_full_store_forgets_old_versions_before_it_refuses() -> None:
    store = MemoryStore(max_bytes=100, keep_versions=10)
    for number in range(5):
        store.put(b"k", b"%d" % number * 19)
    store.put(b"other", b"x" * 70)
    assert store.get(b"k") == b"4" * 19
    assert len(store.versions(b"k")) == 1
    assert store.stored_bytes <= 100
    with pytest.raises(StoreError, match="may hold any number of keys and 100 bytes"):
        store.put(b"more", b"x" * 20)


def test_a_full_store_may_forget_what_was_written_least_recently() -> None:
    store = MemoryStore(max_entries=3, full="evict")
    events: list[StoreEvent] = []
    store.subscribe(events.append)
    for key in (b"a", b"b", b"c"):
        store.put(key, b"1")
    store.put(b"a", b"2")
    store.put(b"d", b"1")
    assert [key for key, _ in store.scan()] == [b"a", b"c", b"d"]
    assert [event.keys for event in events if event.kind == "evict"] == [(b"b",)]


def test_bytes_are_a_bound_of_their_own() -> None:
    store = MemoryStore(max_bytes=1000, full="evict", keep_versions=1)
    rng = random.Random(5)
    for number in range(500):
        store.put(b"%d" % rng.randrange(50), b"x" * rng.randrange(200))
        assert store.stored_bytes <= 1000, number
        assert store.stored_bytes == sum(len(key) + len(value) for key, value in store.scan())
    with pytest.raises(StoreError, match="is full"):
        store.put(b"huge", b"x" * 1001)


def test_a_commit_fits_as_a_whole_or_leaves_nothing() -> None:
    store = MemoryStore(max_entries=2)
    store.put(b"a", b"1")
    transaction = store.begin()
    transaction.put(b"b", b"1")
    transaction.put(b"c", b"1")
    with pytest.raises(StoreError, match="is full"):
        transaction.commit()
    assert dict(store.scan()) == {b"a": b"1"}


def test_an_open_snapshot_keeps_what_it_shows_in_a_bounded_store() -> None:
    store = MemoryStore(max_bytes=60, keep_versions=1)
    store.put(b"k", b"old" * 5)
    with store.snapshot() as view:
        store.put(b"k", b"new" * 5)
        with pytest.raises(StoreError, match="is full"):
            store.put(b"l", b"x" * 40)
        assert view.get(b"k") == b"old" * 5
    store.put(b"l", b"x" * 40)
    assert store.get(b"k") == b"new" * 5


def test_a_dropped_snapshot_lets_go() -> None:
    store = MemoryStore(keep_versions=1)
    store.put(b"k", b"old")
    view: Any = store.snapshot()
    store.put(b"k", b"new")
    assert len(store.versions(b"k")) == 2
    del view
    gc.collect()
    store.put(b"k", b"newer")
    assert len(store.versions(b"k")) == 1


def test_what_is_deleted_or_has_ended_is_forgotten_when_asked() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    store.put(b"gone", b"1")
    store.delete(b"gone")
    store.put(b"brief", b"1", ttl=5)
    store.put(b"kept", b"1")
    clock.advance(5)
    assert len(store) == 3
    assert store.compact() == 2
    assert (len(store), store.stored_bytes, list(store.keys())) == (1, 5, [b"kept"])


def test_a_write_of_what_was_not_read_conflicts_with_nobody() -> None:
    store = MemoryStore()
    first, second = store.begin(), store.begin()
    first.put(b"k", b"1")
    second.put(b"k", b"2")
    first.commit()
    second.commit()
    assert store.get(b"k") == b"2"


def test_two_who_look_for_a_free_name_do_not_both_take_it() -> None:
    store = MemoryStore()
    first, second = store.begin(), store.begin()
    for transaction in (first, second):
        assert list(transaction.scan(b"name:")) == []
        transaction.put(b"name:a", b"mine")
    first.commit()
    with pytest.raises(ConflictError, match="name:"):
        second.commit()


def test_a_store_that_is_written_for_long_takes_no_more_memory() -> None:
    clock = ManualClock()
    store = MemoryStore(keep_versions=2, clock=clock)

    def work() -> None:
        for number in range(1000):
            store.put(b"%d" % (number % 50), b"x" * 100, ttl=None if number % 2 else 5)
            with store.begin() as transaction:
                transaction.put(b"sum", transaction.get(b"0") or b"")
            with store.snapshot() as view:
                view.get(b"1")
            store.delete(b"%d" % ((number + 25) % 50))
        clock.advance(10)
        store.compact()

    work()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            work()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000, f"{grown} bytes more after three times the same"


def test_what_it_is_can_be_seen() -> None:
    store = MemoryStore(name="sessions")
    store.put(b"k", b"abc")
    assert repr(store) == "<MemoryStore 'sessions': 1 keys, 4 bytes>"
    assert repr(store.begin()) == "<transaction open: 0 reads, 0 writes>"
    view = store.snapshot()
    assert repr(view) == "<snapshot of write 1, open>"
    view.close()
    store.close()
    assert repr(store) == "<MemoryStore 'sessions': closed>"

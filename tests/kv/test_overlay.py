"""Transactions over a store that has none: what happens when it fails in the middle of a commit."""

from __future__ import annotations

import pytest

from datalayer.contracts.store import Buffer, Expiring, Scannable, Transactional, abilities_of
from datalayer.errors import ConfigError, StoreError, TransactionOutcomeUnknown, UnavailableError
from datalayer.kv import MemoryStore, Overlay
from datalayer.testing.compliance import ManualClock


class Bare:
    """The least that a store may be: no scan, no lives. The writes of the given numbers fail."""

    def __init__(self, *failing: int) -> None:
        self.values: dict[bytes, bytes] = {}
        self.failing = failing
        self.writes = 0
        self.closed = False

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def put(self, key: bytes, value: Buffer) -> None:
        self._count()
        self.values[key] = bytes(value)

    def delete(self, key: bytes) -> bool:
        self._count()
        return self.values.pop(key, None) is not None

    def exists(self, key: bytes) -> bool:
        return key in self.values

    def close(self) -> None:
        self.closed = True

    def _count(self) -> None:
        self.writes += 1
        if self.writes in self.failing:
            raise StoreError("the disk is full")


def commit(overlay: Overlay) -> None:
    with overlay.begin() as transaction:
        for key in (b"a", b"b", b"c"):
            transaction.put(key, b"new")


def test_a_commit_that_fails_in_the_middle_is_undone() -> None:
    store = Bare(4)
    store.put(b"a", b"old")
    overlay = Overlay(store)
    with pytest.raises(StoreError, match="the disk is full"):
        commit(overlay)
    assert store.values == {b"a": b"old"}


def test_a_commit_that_cannot_be_undone_says_that_nobody_knows() -> None:
    store = Bare(3, 4)
    with pytest.raises(TransactionOutcomeUnknown, match="look at the 3 keys") as caught:
        commit(Overlay(store))
    assert isinstance(caught.value.__cause__, StoreError)


def test_a_life_is_given_back_by_what_undoes_a_commit() -> None:
    class Failing(MemoryStore):
        failing = False

        def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
            if self.failing and key == b"b":
                raise StoreError("no")
            super().put(key, value, ttl)

    clock = ManualClock()
    store = Failing(clock=clock)
    store.put(b"a", b"old", ttl=10)
    store.failing = True
    clock.advance(4)
    with pytest.raises(StoreError, match="no"):
        commit(Overlay(store))
    assert (store.get(b"a"), store.ttl(b"a")) == (b"old", 6)


def test_it_can_do_what_the_store_can_and_transactions() -> None:
    assert abilities_of(Overlay(Bare())) == {Transactional}
    assert abilities_of(Overlay(MemoryStore())) == {Transactional, Scannable, Expiring}


def test_what_the_store_cannot_do_is_said() -> None:
    overlay = Overlay(Bare())
    with pytest.raises(ConfigError, match="Bare keeps values for good"):
        overlay.put(b"k", b"v", ttl=5)
    with pytest.raises(StoreError, match="Bare cannot be scanned"):
        overlay.begin().scan()


def test_the_store_is_closed_with_it() -> None:
    store = Bare()
    overlay = Overlay(store)
    overlay.close()
    assert store.closed
    with pytest.raises(UnavailableError):
        overlay.begin()

"""The rules of stores: several changes at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ...errors import ConflictError, EncodeError, TransactionFailed, UnavailableError
from .base import Suite, in_threads
from .clock import ManualClock


class TransactionalCompliance(Suite):
    """The rules of :class:`~datalayer.contracts.store.Transactional`."""

    def test_nobody_sees_it_before_the_commit_and_all_after(self, store: Any) -> None:
        store.put(b"b", b"old")
        transaction = store.begin()
        transaction.put(b"a", b"1")
        transaction.delete(b"b")
        assert (store.get(b"a"), store.get(b"b")) == (None, b"old")
        transaction.commit()
        assert (store.get(b"a"), store.get(b"b")) == (b"1", None)

    def test_it_sees_its_own_writes(self, store: Any) -> None:
        store.put(b"a", b"old")
        with store.begin() as transaction:
            transaction.put(b"a", b"new")
            assert (transaction.get(b"a"), transaction.exists(b"a")) == (b"new", True)
            assert transaction.delete(b"a") is True
            assert transaction.delete(b"a") is False
            assert (transaction.get(b"a"), transaction.exists(b"a")) == (None, False)
        assert store.get(b"a") is None

    def test_rollback_leaves_nothing(self, store: Any) -> None:
        store.put(b"a", b"old")
        transaction = store.begin()
        transaction.put(b"a", b"new")
        transaction.put(b"b", b"new")
        transaction.rollback()
        assert (store.get(b"a"), store.get(b"b")) == (b"old", None)

    def test_an_error_in_the_block_rolls_back(self, store: Any) -> None:
        def fail() -> None:
            with store.begin() as transaction:
                transaction.put(b"a", b"new")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert store.get(b"a") is None

    def test_a_finished_transaction_is_finished(self, store: Any) -> None:
        committed, rolled_back = store.begin(), store.begin()
        committed.put(b"a", b"1")
        committed.commit()
        committed.rollback()
        rolled_back.rollback()
        for transaction in (committed, rolled_back):
            for call in (
                transaction.commit,
                partial(transaction.put, b"a", b"2"),
                partial(transaction.get, b"a"),
            ):
                with pytest.raises(TransactionFailed):
                    call()
        assert store.get(b"a") == b"1"

    def test_a_change_of_what_it_read_is_a_conflict(self, store: Any) -> None:
        changes: list[Callable[[], Any]] = [
            lambda: store.put(b"read", b"theirs"),
            lambda: store.delete(b"read"),
            lambda: store.put(b"absent", b"theirs"),
        ]
        for change in changes:
            store.put(b"read", b"old")
            store.delete(b"absent")
            transaction = store.begin()
            assert (transaction.get(b"read"), transaction.exists(b"absent")) == (b"old", False)
            transaction.put(b"mine", b"new")
            change()
            with pytest.raises(ConflictError):
                transaction.commit()
            assert store.get(b"mine") is None

    def test_what_it_read_stays_as_read(self, store: Any) -> None:
        store.put(b"a", b"old")
        transaction = store.begin()
        assert transaction.get(b"a") == b"old"
        store.put(b"a", b"new")
        assert transaction.get(b"a") == b"old"
        transaction.rollback()

    def test_of_two_that_read_and_write_one_commits(self, store: Any) -> None:
        store.put(b"n", b"1")
        first, second = store.begin(), store.begin()
        for transaction in (first, second):
            transaction.put(b"n", transaction.get(b"n") + b"1")
        first.commit()
        with pytest.raises(ConflictError):
            second.commit()
        assert store.get(b"n") == b"11"

    def test_writes_of_keys_that_it_did_not_read_conflict_with_nobody(self, store: Any) -> None:
        transaction = store.begin()
        transaction.put(b"a", b"mine")
        store.put(b"a", b"theirs")
        transaction.commit()
        assert store.get(b"a") == b"mine"

    def test_write_skew_is_a_conflict(self, store: Any) -> None:
        store.put(b"a", b"on")
        store.put(b"b", b"on")
        first, second = store.begin(), store.begin()
        for transaction, mine, other in ((first, b"a", b"b"), (second, b"b", b"a")):
            assert transaction.get(other) == b"on"
            transaction.put(mine, b"off")
        first.commit()
        with pytest.raises(ConflictError):
            second.commit()

    def test_a_new_key_under_a_scanned_prefix_is_a_conflict(self, store: Any) -> None:
        store.put(b"x:1", b"v")
        transaction = store.begin()
        assert [key for key, _ in transaction.scan(b"x:")] == [b"x:1"]
        transaction.put(b"count", b"1")
        store.put(b"x:2", b"v")
        with pytest.raises(ConflictError):
            transaction.commit()
        assert store.get(b"count") is None

    def test_a_scan_has_its_own_writes_in_it(self, store: Any) -> None:
        store.put(b"a", b"1")
        store.put(b"b", b"1")
        with store.begin() as transaction:
            transaction.put(b"b", b"2")
            transaction.put(b"c", b"2")
            transaction.put(b"d", b"2")
            transaction.delete(b"a")
            transaction.delete(b"d")
            assert list(transaction.scan()) == [(b"b", b"2"), (b"c", b"2")]
        assert [store.get(key) for key in (b"a", b"b", b"c", b"d")] == [None, b"2", b"2", None]

    def test_counting_in_many_threads_loses_no_count(self, store: Any) -> None:
        store.put(b"n", b"0")

        def work(_: int) -> None:
            done = 0
            while done < 5:
                transaction = store.begin()
                transaction.put(b"n", b"%d" % (int(transaction.get(b"n")) + 1))
                try:
                    transaction.commit()
                except ConflictError:
                    continue
                done += 1

        in_threads(work, 4)
        assert store.get(b"n") == b"20"

    def test_a_ttl_counts_from_the_commit(self, store: Any, clock: ManualClock) -> None:
        if not hasattr(store, "ttl"):
            pytest.skip("the store keeps values for good")
        transaction = store.begin()
        transaction.put(b"k", b"v", ttl=10)
        clock.advance(8)
        transaction.commit()
        clock.advance(8)
        assert store.get(b"k") == b"v"
        clock.advance(2)
        assert store.get(b"k") is None

    def test_what_is_not_a_key_or_value_is_refused_at_once(self, store: Any) -> None:
        with store.begin() as transaction:
            for key, value in (("k", b"v"), (b"", b"v"), (b"k", "v"), (b"k", None)):
                with pytest.raises(EncodeError):
                    transaction.put(key, value)
        assert store.get(b"k") is None

    def test_buffers_of_a_transaction_are_copied(self, store: Any) -> None:
        value = bytearray(b"value")
        with store.begin() as transaction:
            transaction.put(b"k", value)
            value[:] = b"xxxxx"
        assert store.get(b"k") == b"value"

    def test_a_closed_store_begins_and_commits_nothing(self, store: Any) -> None:
        transaction = store.begin()
        transaction.put(b"k", b"v")
        store.close()
        for call in (transaction.commit, store.begin):
            with pytest.raises(UnavailableError):
                call()

"""The rules of key/value stores as tests: one class for each Protocol of ``datalayer.contracts.store``.

Every rule is a method of its own, so that an engine which breaks one fails one. Tests ask for ``store`` (new and
empty), ``place`` (a folder of the test's own) and ``clock`` (which stands still until a rule moves it).
"""

from __future__ import annotations

import io
import random
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ...contracts.store import MAX_KEY_BYTES, StoreEvent, Version
from ...errors import (
    ConfigError,
    ConflictError,
    EncodeError,
    NotFoundError,
    TransactionFailed,
    UnavailableError,
)
from .clock import ManualClock

ALL_BYTES = bytes(range(256))
THREADS = 8


class _Suite:
    """What the suites share. ``store`` is typed as Any: each suite uses what its Protocol adds."""

    @abstractmethod
    def make_store(self, place: Path, clock: ManualClock) -> Any:
        """A store that keeps what it keeps in ``place`` and takes the time from ``clock``."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def store(self, place: Path, clock: ManualClock) -> Iterator[Any]:
        store = self.make_store(place, clock)
        yield store
        store.close()


class StoreCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Store`."""

    def test_a_value_comes_back_as_bytes(self, store: Any) -> None:
        store.put(b"k", b"value")
        assert store.get(b"k") == b"value"
        assert type(store.get(b"k")) is bytes
        assert store.exists(b"k") is True

    def test_an_absent_key_is_an_answer(self, store: Any) -> None:
        assert store.get(b"k") is None
        assert store.exists(b"k") is False
        assert store.delete(b"k") is False

    def test_the_last_put_wins(self, store: Any) -> None:
        for value in (b"one", b"a longer two", b""):
            store.put(b"k", value)
            assert store.get(b"k") == value

    def test_an_empty_value_is_a_value(self, store: Any) -> None:
        store.put(b"k", b"")
        assert (store.get(b"k"), store.exists(b"k")) == (b"", True)

    def test_delete_removes_and_says_so_once(self, store: Any) -> None:
        store.put(b"k", b"v")
        assert store.delete(b"k") is True
        assert (store.get(b"k"), store.exists(b"k")) == (None, False)
        assert store.delete(b"k") is False

    def test_a_deleted_key_can_be_put_again(self, store: Any) -> None:
        store.put(b"k", b"old")
        store.delete(b"k")
        store.put(b"k", b"new")
        assert (store.get(b"k"), store.delete(b"k")) == (b"new", True)

    def test_keys_and_values_are_any_bytes(self, store: Any) -> None:
        keys = [bytes([byte]) for byte in ALL_BYTES] + [ALL_BYTES, b"../x", b"a/b", b"AB", b"ab", b"a" * MAX_KEY_BYTES]
        for number, key in enumerate(keys):
            store.put(key, ALL_BYTES + str(number).encode())
        assert [store.get(key) for key in keys] == [ALL_BYTES + str(n).encode() for n in range(len(keys))]

    def test_similar_keys_are_different_keys(self, store: Any) -> None:
        keys = [b"a", b"ab", b"a\0", b"\0a", b"A", b"a ", b"b" * MAX_KEY_BYTES, b"b" * (MAX_KEY_BYTES - 1)]
        for key in keys:
            store.put(key, key)
        store.delete(b"a")
        assert [store.get(key) for key in keys] == [None, *keys[1:]]

    def test_buffers_are_copied(self, store: Any) -> None:
        key, value = bytearray(b"key"), bytearray(b"value")
        store.put(key, value)
        key[:], value[:] = b"xxx", b"yyyyy"
        assert (store.get(b"key"), store.get(b"xxx")) == (b"value", None)
        store.put(b"view", memoryview(b"-view-")[1:-1])
        assert store.get(b"view") == b"view"

    def test_what_is_not_a_key_is_refused(self, store: Any) -> None:
        for key in ("text", 1, None, b"", b"k" * (MAX_KEY_BYTES + 1)):
            for call in (store.get, store.delete, store.exists, lambda k: store.put(k, b"v")):
                with pytest.raises(EncodeError):
                    call(key)

    def test_what_is_not_a_value_is_refused(self, store: Any) -> None:
        store.put(b"k", b"v")
        for value in ("text", 1, None, [b"v"]):
            with pytest.raises(EncodeError):
                store.put(b"k", value)
        assert store.get(b"k") == b"v"

    def test_ten_megabytes_come_back(self, store: Any) -> None:
        value = random.Random(7).randbytes(10_000_000)
        store.put(b"large", value)
        assert store.get(b"large") == value

    def test_it_does_what_a_dict_does(self, store: Any) -> None:
        rng, model = random.Random(11), dict[bytes, bytes]()
        for _ in range(300):
            key = b"k%d" % rng.randrange(20)
            if rng.random() < 0.6:
                model[key] = rng.randbytes(rng.randrange(40))
                store.put(key, model[key])
            else:
                assert store.delete(key) is (model.pop(key, None) is not None)
            assert store.get(key) == model.get(key)
        assert {key: store.get(key) for key in model} == model

    def test_writers_in_many_threads_lose_nothing(self, store: Any) -> None:
        def work(number: int) -> None:
            for i in range(20):
                store.put(b"%d:%d" % (number, i), b"%d" % i)
                store.put(b"shared", b"%d" % number * 100)
                assert store.get(b"%d:%d" % (number, i)) == b"%d" % i
                shared = store.get(b"shared")
                assert len(shared) == 100
                assert len(set(shared)) == 1

        in_threads(work)
        assert all(store.get(b"%d:%d" % (n, i)) == b"%d" % i for n in range(THREADS) for i in range(20))

    def test_one_of_many_deletes_is_the_one(self, store: Any) -> None:
        for _ in range(10):
            store.put(b"k", b"v")
            assert sum(in_threads(lambda _: store.delete(b"k"))) == 1

    def test_close_may_be_called_twice(self, store: Any) -> None:
        store.close()
        store.close()

    def test_a_closed_store_refuses_everything(self, store: Any) -> None:
        store.put(b"k", b"v")
        store.close()
        calls: list[Callable[[], Any]] = [
            lambda: store.get(b"k"),
            lambda: store.put(b"k", b"v"),
            lambda: store.delete(b"k"),
            lambda: store.exists(b"k"),
        ]
        for call in calls:
            with pytest.raises(UnavailableError):
                call()


class ScannableCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Scannable`."""

    def test_a_scan_is_in_the_order_of_bytes(self, store: Any) -> None:
        keys = [b"b", b"a", b"\xff", b"\0", b"aa", b"a\0", b"B", b"\x7f", b"\x80"]
        for key in keys:
            store.put(key, b"v" + key)
        assert list(store.scan()) == [(key, b"v" + key) for key in sorted(keys)]

    def test_a_prefix_picks_what_begins_with_it(self, store: Any) -> None:
        for key in (b"a", b"ab", b"abc", b"b", b"\xff", b"\xff\xff", b"\xff\xffa", b"%b", b"_b"):
            store.put(key, key)
        assert [key for key, _ in store.scan(b"ab")] == [b"ab", b"abc"]
        assert [key for key, _ in store.scan(b"\xff\xff")] == [b"\xff\xff", b"\xff\xffa"]
        assert [key for key, _ in store.scan(b"%")] == [b"%b"]
        assert [key for key, _ in store.scan(b"c")] == []

    def test_keys_are_those_of_the_scan(self, store: Any) -> None:
        for key in (b"b", b"a", b"ab"):
            store.put(key, b"v")
        assert list(store.keys()) == [b"a", b"ab", b"b"]
        assert list(store.keys(b"a")) == [b"a", b"ab"]

    def test_a_scan_shows_the_latest_values_only(self, store: Any) -> None:
        store.put(b"a", b"1")
        store.put(b"b", b"1")
        store.put(b"a", b"2")
        store.delete(b"b")
        assert list(store.scan()) == [(b"a", b"2")]
        store.put(b"b", b"3")
        assert list(store.scan()) == [(b"a", b"2"), (b"b", b"3")]

    def test_many_keys_come_once_each(self, store: Any) -> None:
        keys = [b"%04d" % i for i in range(1200)]
        for key in random.Random(3).sample(keys, len(keys)):
            store.put(key, key)
        assert list(store.keys()) == keys

    def test_writing_during_a_scan_disturbs_no_other_key(self, store: Any) -> None:
        for i in range(50):
            store.put(b"%02d" % i, b"old")
        seen = []
        for key, _ in store.scan():
            seen.append(key)
            store.put(key, b"new")
            store.put(b"0" + key, b"more")
            store.delete(b"49")
        stayed = [b"%02d" % i for i in range(49)]
        assert [key for key in seen if len(key) == 2 and key != b"49"] == stayed
        assert len(set(seen)) == len(seen)

    def test_what_is_not_a_prefix_is_refused(self, store: Any) -> None:
        for prefix in ("text", 1, None):
            with pytest.raises(EncodeError):
                list(store.scan(prefix))

    def test_a_closed_store_refuses_to_scan(self, store: Any) -> None:
        store.close()
        for call in (store.scan, store.keys):
            with pytest.raises(UnavailableError):
                list(call())


class ExpiringCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Expiring`."""

    def test_a_value_ends_at_its_deadline(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"v", ttl=10)
        clock.advance(9.5)
        assert (store.get(b"k"), store.exists(b"k")) == (b"v", True)
        clock.advance(0.5)
        assert (store.get(b"k"), store.exists(b"k")) == (None, False)

    def test_ttl_says_what_is_left(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"v", ttl=10)
        store.put(b"ever", b"v")
        clock.advance(4)
        assert store.ttl(b"k") == pytest.approx(6, abs=0.01)
        assert store.ttl(b"ever") == float("inf")
        assert store.ttl(b"absent") is None
        clock.advance(6)
        assert store.ttl(b"k") is None

    def test_deleting_an_expired_key_says_false(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"v", ttl=1)
        clock.advance(1)
        assert store.delete(b"k") is False

    def test_a_put_replaces_the_deadline(self, store: Any, clock: ManualClock) -> None:
        store.put(b"a", b"v", ttl=1)
        store.put(b"b", b"v")
        store.put(b"a", b"v")
        store.put(b"b", b"v", ttl=2)
        clock.advance(2)
        assert (store.get(b"a"), store.get(b"b")) == (b"v", None)

    def test_an_expired_key_can_be_put_again(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"old", ttl=1)
        clock.advance(1)
        store.put(b"k", b"new")
        assert store.get(b"k") == b"new"

    def test_an_expired_key_does_not_show_an_older_value(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"old")
        store.put(b"k", b"new", ttl=1)
        clock.advance(1)
        assert store.get(b"k") is None

    def test_an_expired_key_is_not_listed(self, store: Any, clock: ManualClock) -> None:
        store.put(b"a", b"v", ttl=1)
        store.put(b"b", b"v")
        clock.advance(1)
        if hasattr(store, "scan"):
            assert list(store.scan()) == [(b"b", b"v")]
            assert list(store.keys()) == [b"b"]
        assert [key for key in (b"a", b"b") if store.exists(key)] == [b"b"]

    def test_what_is_not_a_life_is_refused(self, store: Any) -> None:
        for ttl in (0, -1, float("nan"), float("inf"), "soon", True):
            with pytest.raises(ConfigError):
                store.put(b"k", b"v", ttl=ttl)
        assert store.get(b"k") is None


class VersionedCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Versioned`. Give the store a retention of 3 versions or more."""

    def test_every_write_is_a_version(self, store: Any) -> None:
        store.put(b"k", b"one")
        store.delete(b"k")
        store.put(b"k", b"three")
        one, two, three = store.versions(b"k")
        assert [(v.size, v.deleted) for v in (one, two, three)] == [(3, False), (0, True), (5, False)]
        assert one.number < two.number < three.number

    def test_a_version_can_be_read(self, store: Any) -> None:
        store.put(b"k", b"one")
        store.delete(b"k")
        store.put(b"k", b"three")
        assert [store.get(b"k", version=v) for v in store.versions(b"k")] == [b"one", None, b"three"]
        assert store.get(b"k", version=store.versions(b"k")[0].number) == b"one"
        assert store.get(b"k") == b"three"

    def test_an_unknown_key_has_no_versions(self, store: Any) -> None:
        store.put(b"k", b"v")
        assert store.versions(b"other") == []

    def test_a_version_that_is_not_kept_is_an_error(self, store: Any) -> None:
        store.put(b"k", b"v")
        store.put(b"other", b"v")
        other = store.versions(b"other")[0]
        for version in (other, 10**6, 0):
            with pytest.raises(NotFoundError):
                store.get(b"k", version=version)
            with pytest.raises(NotFoundError):
                store.restore(b"k", version)

    def test_restore_writes_a_new_version(self, store: Any) -> None:
        store.put(b"k", b"one")
        store.put(b"k", b"two")
        first = store.versions(b"k")[0]
        number = store.restore(b"k", first)
        assert store.get(b"k") == b"one"
        assert store.versions(b"k")[-1].number == number
        assert [store.get(b"k", version=v) for v in store.versions(b"k")][-2:] == [b"two", b"one"]

    def test_restoring_a_deletion_deletes(self, store: Any) -> None:
        store.put(b"k", b"one")
        store.delete(b"k")
        store.put(b"k", b"two")
        store.restore(b"k", store.versions(b"k")[1])
        assert store.get(b"k") is None

    def test_a_restored_value_has_no_deadline(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"one", ttl=5)
        store.put(b"k", b"two")
        store.restore(b"k", store.versions(b"k")[0])
        clock.advance(6)
        assert store.get(b"k") == b"one"

    def test_versions_say_when(self, store: Any, clock: ManualClock) -> None:
        store.put(b"k", b"one")
        clock.advance(60)
        store.put(b"k", b"two")
        first, second = store.versions(b"k")
        assert (second.written_at - first.written_at).total_seconds() == pytest.approx(60, abs=0.01)
        assert first.written_at.utcoffset() is not None

    def test_retention_never_touches_the_newest(self, store: Any) -> None:
        for i in range(50):
            store.put(b"k", b"%d" % i)
        versions: list[Version] = store.versions(b"k")
        assert [store.get(b"k", version=v) for v in versions] == [b"%d" % i for i in range(50 - len(versions), 50)]
        assert store.get(b"k") == b"49"

    def test_a_closed_store_has_no_versions_to_show(self, store: Any) -> None:
        store.put(b"k", b"v")
        version = store.versions(b"k")[0]
        store.close()
        for call in (partial(store.versions, b"k"), partial(store.restore, b"k", version)):
            with pytest.raises(UnavailableError):
                call()


class TransactionalCompliance(_Suite):
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


class SnapshotsCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Snapshots`."""

    def test_a_snapshot_does_not_change(self, store: Any) -> None:
        store.put(b"a", b"old")
        store.put(b"b", b"old")
        with store.snapshot() as view:
            for i in range(30):
                store.put(b"a", b"%d" % i)
            store.delete(b"b")
            store.put(b"c", b"new")
            assert [view.get(key) for key in (b"a", b"b", b"c")] == [b"old", b"old", None]
            assert (view.exists(b"b"), view.exists(b"c")) == (True, False)
            assert list(view.scan()) == [(b"a", b"old"), (b"b", b"old")]
        assert store.get(b"a") == b"29"

    def test_snapshots_of_different_moments_differ(self, store: Any) -> None:
        views = []
        for i in range(20):
            store.put(b"k", b"%d" % i)
            views.append(store.snapshot())
        assert [view.get(b"k") for view in views] == [b"%d" % i for i in range(20)]
        for view in views:
            view.close()

    def test_a_snapshot_shows_whole_transactions(self, store: Any) -> None:
        if not hasattr(store, "begin"):
            pytest.skip("the store has no transactions")
        stop = threading.Event()

        def write(number: int) -> None:
            for i in range(100):
                if number == 0:
                    with store.begin() as transaction:
                        transaction.put(b"a", b"%d" % i)
                        transaction.put(b"b", b"%d" % i)
                elif not stop.is_set():
                    with store.snapshot() as view:
                        assert view.get(b"a") == view.get(b"b")
            stop.set()

        in_threads(write, 2)

    def test_an_expired_value_is_absent_in_a_snapshot_too(self, store: Any, clock: ManualClock) -> None:
        if not hasattr(store, "ttl"):
            pytest.skip("the store keeps values for good")
        store.put(b"k", b"v", ttl=1)
        with store.snapshot() as view:
            assert view.get(b"k") == b"v"
            clock.advance(1)
            assert view.get(b"k") is None

    def test_a_closed_snapshot_shows_nothing(self, store: Any) -> None:
        store.put(b"k", b"v")
        view = store.snapshot()
        view.close()
        view.close()
        with pytest.raises(UnavailableError):
            view.get(b"k")


class StreamingCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Streaming`."""

    def test_a_stream_goes_in_and_comes_out(self, store: Any) -> None:
        value = random.Random(5).randbytes(3_000_001)
        assert store.put_stream(b"k", io.BytesIO(value)) == len(value)
        assert store.get(b"k") == value
        with store.get_stream(b"k") as stream:
            pieces = list(iter(lambda: stream.read(70_000), b""))
        assert b"".join(pieces) == value

    def test_what_was_put_can_be_streamed(self, store: Any) -> None:
        for value in (b"", b"v", b"v" * 1_500_000):
            store.put(b"k", value)
            with store.get_stream(b"k") as stream:
                assert stream.read() == value

    def test_an_absent_key_has_no_stream(self, store: Any) -> None:
        assert store.get_stream(b"k") is None

    def test_only_what_the_source_has_left_is_taken(self, store: Any) -> None:
        source = io.BytesIO(b"head and tail")
        source.seek(9)
        assert store.put_stream(b"k", source) == 4
        assert store.get(b"k") == b"tail"
        assert not source.closed

    def test_an_open_stream_keeps_reading_its_value(self, store: Any) -> None:
        value = b"old" * 1_000_000
        store.put(b"k", value)
        with store.get_stream(b"k") as stream:
            head = stream.read(10)
            for i in range(20):
                store.put(b"k", b"%d" % i)
            assert head + stream.read() == value

    def test_a_source_that_fails_leaves_the_value_before(self, store: Any) -> None:
        class Broken(io.RawIOBase):
            def __init__(self) -> None:
                self.left = 3

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                self.left -= 1
                if not self.left:
                    raise ZeroDivisionError
                return len(buffer)

        store.put(b"k", b"old")
        with pytest.raises(ZeroDivisionError):
            store.put_stream(b"k", Broken())
        assert store.get(b"k") == b"old"

    def test_a_stream_can_end(self, store: Any, clock: ManualClock) -> None:
        store.put_stream(b"k", io.BytesIO(b"v"), ttl=5)
        clock.advance(5)
        assert store.get_stream(b"k") is None


class ObservableCompliance(_Suite):
    """The rules of :class:`~datalayer.contracts.store.Observable`."""

    def test_writes_are_told(self, store: Any) -> None:
        events: list[StoreEvent] = []
        store.subscribe(events.append)
        store.put(b"a", b"v")
        store.delete(b"a")
        store.delete(b"a")
        assert [(event.kind, event.keys) for event in events] == [("put", (b"a",)), ("delete", (b"a",))]

    def test_a_commit_is_one_event(self, store: Any) -> None:
        events: list[StoreEvent] = []
        store.subscribe(events.append)
        with store.begin() as transaction:
            transaction.put(b"a", b"v")
            transaction.put(b"b", b"v")
        assert [(event.kind, set(event.keys)) for event in events] == [("commit", {b"a", b"b"})]

    def test_a_write_that_fails_is_not_told(self, store: Any) -> None:
        events: list[StoreEvent] = []
        store.subscribe(events.append)
        with pytest.raises(EncodeError):
            store.put(b"a", "text")
        assert events == []

    def test_a_listener_that_raises_harms_nobody(self, store: Any) -> None:
        events: list[StoreEvent] = []

        def fail(_: StoreEvent) -> None:
            raise ZeroDivisionError

        store.subscribe(fail)
        store.subscribe(events.append)
        store.put(b"a", b"v")
        assert store.get(b"a") == b"v"
        assert len(events) == 1

    def test_a_listener_may_use_the_store(self, store: Any) -> None:
        seen: list[bytes | None] = []
        store.subscribe(lambda event: seen.extend(store.get(key) for key in event.keys))
        store.put(b"a", b"v")
        assert seen == [b"v"]

    def test_a_listener_can_leave(self, store: Any) -> None:
        events: list[StoreEvent] = []
        leave = store.subscribe(events.append)
        leave()
        store.put(b"a", b"v")
        assert events == []


class DurableCompliance(_Suite):
    """The rules of a store that is still there after it was closed: ``make_store`` is called again for the place."""

    def test_what_was_written_is_there_after_a_restart(self, store: Any, place: Path, clock: ManualClock) -> None:
        store.put(b"a", b"1")
        store.put(b"b", b"2")
        store.put(b"b", b"3")
        store.put(b"c", b"4")
        store.delete(b"c")
        store.close()
        again = self.make_store(place, clock)
        try:
            assert [again.get(key) for key in (b"a", b"b", b"c")] == [b"1", b"3", None]
        finally:
            again.close()

    def test_deadlines_go_on_over_a_restart(self, store: Any, place: Path, clock: ManualClock) -> None:
        if not hasattr(store, "ttl"):
            pytest.skip("the store keeps values for good")
        store.put(b"k", b"v", ttl=10)
        store.close()
        clock.advance(9)
        again = self.make_store(place, clock)
        try:
            assert again.get(b"k") == b"v"
            clock.advance(1)
            assert again.get(b"k") is None
        finally:
            again.close()

    def test_versions_are_there_after_a_restart(self, store: Any, place: Path, clock: ManualClock) -> None:
        if not hasattr(store, "versions"):
            pytest.skip("the store keeps no versions")
        store.put(b"k", b"one")
        store.delete(b"k")
        store.put(b"k", b"three")
        before = store.versions(b"k")
        store.close()
        again = self.make_store(place, clock)
        try:
            assert again.versions(b"k") == before
            assert [again.get(b"k", version=v) for v in before] == [b"one", None, b"three"]
            again.put(b"k", b"four")
            assert again.versions(b"k")[-1].number > before[-1].number
        finally:
            again.close()


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """The answers of ``work(0)``, ``work(1)`` ... run at once; the first error of any of them is raised here."""
    answers: list[Any] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            answers.append(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(number,), name=f"datalayer-compliance-{number}") for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers

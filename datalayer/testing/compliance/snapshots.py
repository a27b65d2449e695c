"""The rules of stores: a look at one moment."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ...errors import UnavailableError
from .base import Suite, in_threads
from .clock import ManualClock


class SnapshotsCompliance(Suite):
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

        def write() -> None:
            for i in range(50):
                with store.begin() as transaction:
                    transaction.put(b"a", b"%d" % i)
                    transaction.put(b"b", b"%d" % i)
            stop.set()

        def read() -> None:
            while not stop.is_set():
                with store.snapshot() as view:
                    assert view.get(b"a") == view.get(b"b")

        in_threads(lambda number: read() if number else write(), 2)

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

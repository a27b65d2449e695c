"""The rules of stores: values that end."""

from __future__ import annotations

from typing import Any

import pytest

from ...errors import ConfigError
from .base import Suite
from .clock import ManualClock


class ExpiringCompliance(Suite):
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

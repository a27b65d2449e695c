"""The rules of stores: what is still there after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .base import Suite
from .clock import ManualClock


class DurableCompliance(Suite):
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

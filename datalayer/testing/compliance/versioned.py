"""The rules of stores: earlier states of a key."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ...contracts.store import Version
from ...errors import NotFoundError, UnavailableError
from .base import Suite
from .clock import ManualClock


class VersionedCompliance(Suite):
    """The rules of :class:`~datalayer.contracts.store.Versioned`. Give the store a retention of 3 versions or more."""

    def test_every_write_is_a_version(self, store: Any) -> None:
        store.put(b"k", b"one")
        store.delete(b"k")
        store.put(b"k", b"three")
        assert len(store.versions(b"k")) == 3
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

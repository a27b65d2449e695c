"""The rules of stores: who is told what."""

from __future__ import annotations

from typing import Any

import pytest

from ...contracts.store import StoreEvent
from ...errors import EncodeError
from .base import Suite


class ObservableCompliance(Suite):
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

"""Random programs against simple models: versions over restarts, and transactions that interleave."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from power_cut import PowerCutDisk

from datalayer.errors import ConflictError, NotFoundError
from datalayer.kv import FileStore, MemoryStore, Overlay, fsck
from datalayer.testing.compliance import ManualClock

KEYS = st.sampled_from([b"a", b"b", b"ab", b"A", b"long" * 50])
VALUES = st.binary(max_size=20)
KEEP = 3


class VersionMachine(RuleBasedStateMachine):
    """Every state that a key was in, with what retention leaves of it, as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store: Any = self.open()
        self.written: dict[bytes, list[tuple[bytes | None, float]]] = {}
        self.views: list[tuple[Any, dict[bytes, tuple[bytes, float]]]] = []

    def open(self) -> Any:
        return MemoryStore(keep_versions=KEEP, clock=self.clock)

    def now(self) -> float:
        return self.clock.monotonic()

    def live(self) -> dict[bytes, tuple[bytes, float]]:
        last = {key: states[-1] for key, states in self.written.items()}
        return {key: (value, ends) for key, (value, ends) in last.items() if value is not None and ends > self.now()}

    def append(self, key: bytes, value: bytes | None, ends: float = float("inf")) -> None:
        self.written.setdefault(key, []).append((value, ends))

    @rule(key=KEYS, value=VALUES, ttl=st.none() | st.integers(1, 5))
    def put(self, key: bytes, value: bytes, ttl: int | None) -> None:
        self.store.put(key, value, ttl)
        self.append(key, value, self.now() + ttl if ttl else float("inf"))

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        there = key in self.live()
        assert self.store.delete(key) is there
        if there:
            self.append(key, None)

    @rule(key=KEYS, back=st.integers(1, KEEP))
    def restore(self, key: bytes, back: int) -> None:
        versions = self.store.versions(key)
        if back <= len(versions):
            value = self.written[key][-back][0]
            self.store.restore(key, versions[-back])
            self.append(key, value)

    @rule(writes=st.dictionaries(KEYS, st.none() | VALUES, max_size=3))
    def commit(self, writes: dict[bytes, bytes | None]) -> None:
        live = self.live()
        with self.store.begin() as transaction:
            for key, value in writes.items():
                if value is not None:
                    transaction.put(key, value)
                else:
                    assert transaction.delete(key) is (key in live)
        for key, value in writes.items():
            if value is not None or key in live:
                self.append(key, value)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    @precondition(lambda self: len(self.views) < 3)
    def look(self) -> None:
        self.views.append((self.store.snapshot(), self.live()))

    @rule()
    @precondition(lambda self: self.views)
    def look_away(self) -> None:
        self.views.pop(0)[0].close()

    @invariant()
    def shows_what_was_written(self) -> None:
        live = {key: value for key, (value, _) in self.live().items()}
        assert dict(self.store.scan()) == live
        assert list(self.store.keys()) == sorted(live)
        for key, states in self.written.items():
            assert self.store.exists(key) is (key in live)
            versions = self.store.versions(key)
            assert len(versions) >= min(KEEP, len(states))
            for version, (value, ends) in zip(versions[-KEEP:], states[-KEEP:], strict=False):
                assert version.deleted is (value is None)
                expected = value if ends > self.now() else None
                assert self.store.get(key, version=version) == expected

    @invariant()
    def snapshots_stay(self) -> None:
        for view, then in self.views:
            assert dict(view.scan()) == {key: value for key, (value, ends) in then.items() if ends > self.now()}

    def teardown(self) -> None:
        for view, _ in self.views:
            view.close()
        self.store.close()


class FileMachine(VersionMachine):
    """The same over restarts, each of which finds nothing to complain about."""

    def __init__(self) -> None:
        self.disk = PowerCutDisk()
        super().__init__()

    def open(self) -> FileStore:
        return FileStore("/kv", keep_versions=KEEP, clock=self.clock, disk=self.disk)

    @rule()
    def restart(self) -> None:
        for view, _ in self.views:
            view.close()
        self.views.clear()
        self.store.close()
        assert not self.disk.handles
        assert fsck("/kv", disk=self.disk).ok
        self.store = self.open()

    @rule()
    def die_and_restart(self) -> None:
        """Without closing anything."""
        self.views.clear()
        self.disk.locked = False
        self.store = self.open()
        assert self.store.report.ok


class TransactionMachine(RuleBasedStateMachine):
    """Three transactions at once. One may commit if and only if all that it read is still so."""

    store: Any

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open()
        self.model: dict[bytes, bytes] = {}
        self.serial = 0
        self.stamps: dict[bytes, int] = {}
        self.open_ones: list[dict[str, Any] | None] = [None, None, None]

    def open(self) -> Any:
        return MemoryStore()

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None and key not in self.model:
            return
        self.serial += 1
        self.stamps[key] = self.serial
        self.model.pop(key, None)
        if value is not None:
            self.model[key] = value

    def stamp(self, key: bytes) -> Any:
        return self.stamps[key] if key in self.model else None

    def begun(self, slot: int) -> dict[str, Any]:
        one = self.open_ones[slot]
        if one is None:
            one = {"transaction": self.store.begin(), "read": {}, "values": {}, "scans": [], "writes": {}}
            self.open_ones[slot] = one
        return one

    @rule(slot=st.integers(0, 2), key=KEYS)
    def get(self, slot: int, key: bytes) -> None:
        one = self.begun(slot)
        if key in one["writes"]:
            expected = one["writes"][key]
        else:
            one["read"].setdefault(key, self.stamp(key))
            expected = one["values"].setdefault(key, self.model.get(key))
        assert one["transaction"].get(key) == expected

    @rule(slot=st.integers(0, 2), key=KEYS, value=VALUES)
    def put_inside(self, slot: int, key: bytes, value: bytes) -> None:
        one = self.begun(slot)
        one["transaction"].put(key, value)
        one["writes"][key] = value

    @rule(slot=st.integers(0, 2), prefix=st.sampled_from([b"", b"a", b"z"]))
    def scan(self, slot: int, prefix: bytes) -> None:
        one = self.begun(slot)
        list(one["transaction"].scan(prefix))
        stamps = {key: self.stamp(key) for key in self.model if key.startswith(prefix)}
        if prefix not in [old for old, _ in one["scans"]]:
            one["scans"].append((prefix, stamps))

    @rule(key=KEYS, value=st.none() | VALUES)
    def write_outside(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.store.delete(key)
        else:
            self.store.put(key, value)
        self.write(key, value)

    @rule(slot=st.integers(0, 2))
    def commit(self, slot: int) -> None:
        one, self.open_ones[slot] = self.begun(slot), None
        holds = all(self.stamp(key) == stamp for key, stamp in one["read"].items()) and all(
            stamps == {key: self.stamp(key) for key in self.model if key.startswith(prefix)}
            for prefix, stamps in one["scans"]
        )
        if not holds:
            with pytest.raises(ConflictError):
                one["transaction"].commit()
            return
        one["transaction"].commit()
        for key, value in one["writes"].items():
            self.write(key, value)

    @rule(slot=st.integers(0, 2))
    def roll_back(self, slot: int) -> None:
        self.begun(slot)["transaction"].rollback()
        self.open_ones[slot] = None

    @invariant()
    def the_store_has_what_was_committed(self) -> None:
        assert dict(self.store.scan()) == self.model

    def teardown(self) -> None:
        self.store.close()


class FileTransactionMachine(TransactionMachine):
    def open(self) -> FileStore:
        return FileStore("/kv", disk=PowerCutDisk())


class OverlayMachine(TransactionMachine):
    """Values are the stamps here: what was changed and changed back has not changed."""

    def open(self) -> Overlay:
        return Overlay(MemoryStore())

    def stamp(self, key: bytes) -> Any:
        return self.model.get(key)


SHORT = settings(
    max_examples=2000 if os.environ.get("DATALAYER_TEST_LONG") else 60, stateful_step_count=30, deadline=None
)

TestVersionsInMemory = VersionMachine.TestCase
TestVersionsInMemory.settings = SHORT
TestVersionsInFiles = FileMachine.TestCase
TestVersionsInFiles.settings = SHORT
TestTransactionsInMemory = TransactionMachine.TestCase
TestTransactionsInMemory.settings = SHORT
TestTransactionsInFiles = FileTransactionMachine.TestCase
TestTransactionsInFiles.settings = SHORT
TestTransactionsOfAnOverlay = OverlayMachine.TestCase
TestTransactionsOfAnOverlay.settings = SHORT


def test_a_version_that_retention_took_is_not_found() -> None:
    store = MemoryStore(keep_versions=2)
    store.put(b"k", b"1")
    first = store.versions(b"k")[0]
    store.put(b"k", b"2")
    store.put(b"k", b"3")
    with pytest.raises(NotFoundError, match="kept are"):
        store.get(b"k", version=first)

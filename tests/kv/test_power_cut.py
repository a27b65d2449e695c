"""Nothing that the file engine acknowledged is lost in a power cut, whenever it comes and whatever it takes.

A workload runs once on a disk in memory that logs every call. Then the power fails after each of the calls: with every
combination of unsynced changes lost, and the last write torn. Every tree that this leaves is opened with the engine.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from power_cut import Op, PowerCut, PowerCutDisk, Tree

from datalayer.errors import DataLayerError
from datalayer.kv import FileStore, fsck
from datalayer.kv.file import names
from datalayer.testing.compliance import ManualClock

PATH = "/home/kv"
LONG = bool(os.environ.get("DATALAYER_TEST_LONG"))

State = dict[bytes, bytes]
NOTHING: Tree = {"/": None}


def _two_in_one_shard() -> tuple[bytes, bytes]:
    first = b"a"
    return first, next(k for k in (b"k%d" % i for i in range(10_000)) if names.shard(k) == names.shard(first))


A, B = _two_in_one_shard()
C, LONG_KEY = b"c", b"long" * 100


class Step(NamedTuple):
    """What is done, and how the store looks afterwards."""

    act: Callable[[FileStore], Any]
    change: dict[bytes, bytes | None]


def _put(key: bytes, value: bytes) -> Step:
    return Step(lambda store: store.put(key, value), {key: value})


def _delete(key: bytes) -> Step:
    return Step(lambda store: store.delete(key), {key: None})


def _commit(writes: dict[bytes, bytes | None]) -> Step:
    def act(store: FileStore) -> None:
        with store.begin() as transaction:
            for key, value in writes.items():
                transaction.delete(key) if value is None else transaction.put(key, value)

    return Step(act, writes)


STEPS = [
    _put(A, b"a1"),
    _put(B, b"b1"),
    _put(A, b"a2"),
    _commit({A: b"a3", B: None, C: b"c3"}),
    _put(A, b"a4"),
    _put(LONG_KEY, b"l1"),
    _commit({LONG_KEY: b"l2", C: b"c4"}),
    _delete(C),
    _put(B, b"b2"),
    _delete(A),
    Step(lambda store: store.compact(), {}),
    _put(A, b"a5"),
]


class Run(NamedTuple):
    """A workload that was logged: the log, and how the store looks after each step, before the first one too."""

    log: list[Op]
    states: list[State]


def run(keep_versions: int) -> Run:
    disk = PowerCutDisk()
    clock = ManualClock()
    disk.note("begin")
    store = open_store(disk, keep_versions, clock)
    disk.note("done")
    states: list[State] = [{}, {}]
    for step in STEPS:
        clock.advance(1)
        disk.note("begin")
        step.act(store)
        disk.note("done")
        after = {**states[-1], **step.change}
        states.append({key: value for key, value in after.items() if value is not None})
    disk.note("begin")
    store.close()
    disk.note("done")
    assert not disk.handles, "files left open"
    return Run(disk.log, [*states, states[-1]])


def open_store(disk: Any, keep_versions: int = 1, clock: ManualClock | None = None) -> FileStore:
    clock = clock or ManualClock()
    clock.advance(3600)
    return FileStore(PATH, disk=disk, keep_versions=keep_versions, keep_deleted=0, clock=clock)


def problem(tree: Tree, allowed: list[State]) -> str | None:
    """What is wrong with the store in that tree, if anything."""
    disk = PowerCutDisk(tree)
    try:
        store = open_store(disk)
        found = dict(store.scan())
        if found not in allowed:
            return f"found {found}, expected one of {allowed}"
        if not store.report.ok:
            return str(store.report)
        store.put(b"new", b"value")
        store.close()
        checked = fsck(PATH, disk=disk)
        if not checked.ok:
            return str(checked)
        again = open_store(disk)
        if dict(again.scan()) != {**found, b"new": b"value"}:
            return f"a second opening finds {dict(again.scan())} after {found}"
        again.close()
    except DataLayerError as error:
        return f"{type(error).__name__}: {error}"
    return "files left open" if disk.handles else None


def allowed_after(log: list[Op], states: list[State]) -> list[State]:
    """Each acknowledged step counts; the one that was under way may count."""
    begun = sum(op.kind == "note" and op.name == "begin" for op in log)
    done = sum(op.kind == "note" and op.name == "done" for op in log)
    return states[done : begun + 1]


def problems(log: list[Op], states: list[State], *, first: int = 0, limit: int = 9, samples: int = 120) -> list[str]:
    """The first problem of a power cut after any call from the ``first`` on; empty if there is none."""
    checked: set[Any] = set()
    for end in range(first, len(log) + 1):
        allowed = allowed_after(log[:end], states)
        for tree in PowerCut(NOTHING, log[:end], limit, samples).trees():
            mark = (frozenset(tree.items()), str(allowed))
            if mark in checked:
                continue
            checked.add(mark)
            if found := problem(tree, allowed):
                return [f"after call {end} ({log[end - 1][:4]}): {found}"]
    problems.checked = len(checked)  # type: ignore[attr-defined]
    return []


@pytest.mark.parametrize("keep_versions", [1, 3])
def test_no_power_cut_loses_what_was_acknowledged(keep_versions: int) -> None:
    log, states = run(keep_versions)
    assert problems(log, states, limit=12 if LONG else 8) == []
    assert problems.checked > 300  # type: ignore[attr-defined]


class Opening(NamedTuple):
    """A store that was opened, and written once, after its process was killed.

    ``start`` is where that begins in the log, ``opened`` where the store was open and showed ``shown``.
    """

    log: list[Op]
    start: int
    opened: int
    shown: State
    allowed: list[State]

    def problem(self, limit: int, samples: int, seen: set[Any], without: int | None = None) -> str | None:
        """The first problem of a power cut from ``start`` on, if one of the syncs is left out."""
        log = self.log if without is None else [*self.log[:without], Op("note"), *self.log[without + 1 :]]
        for cut in range(self.start, len(log) + 1):
            expected = self.expected(cut)
            for tree in PowerCut(NOTHING, log[:cut], limit, samples).trees():
                mark = (frozenset(tree.items()), str(expected))
                if mark not in seen:
                    seen.add(mark)
                    if found := problem(tree, expected):
                        return f"killed after call {self.start}, power cut {cut - self.start} calls later: {found}"
        return None

    def expected(self, cut: int) -> list[State]:
        later = {**self.shown, A: b"later"}
        if cut == len(self.log):
            return [later]
        return [self.shown, later] if cut >= self.opened else self.allowed


def openings() -> Iterator[Opening]:
    log, states = run(1)
    for end in range(len(log) + 1):
        disk = PowerCutDisk.after(NOTHING, log[:end])
        allowed = allowed_after(log[:end], states)
        store = open_store(disk)
        opened = len(disk.log)
        shown = dict(store.scan())
        assert shown in allowed
        store.put(A, b"later")
        yield Opening(disk.log, end, opened, shown, allowed)


def test_no_power_cut_during_a_recovery_loses_what_was_acknowledged() -> None:
    """The process dies, then, while the next one opens the store, the power fails. What that one showed stays, too."""
    seen: set[Any] = set()
    for opening in openings():
        assert opening.problem(8 if LONG else 3, 50 if LONG else 3, seen) is None
    assert len(seen) > 300


def test_every_sync_of_a_recovery_is_needed() -> None:
    there: set[str] = set()
    needed: set[str] = set()
    for opening in openings():
        count: Counter[str] = Counter()
        for i, op in enumerate(opening.log):
            if i >= opening.start and op.kind in ("sync", "sync_dir"):
                folder = re.sub("/data/..$", "/data/xx", op.folder)
                count[op.folder] += 1
                kind = f"{op.kind} {folder} {count[op.folder]}"
                there.add(kind)
                if kind not in needed and opening.problem(3, 3, set(), without=i):
                    needed.add(kind)
    assert sorted(there - needed) == []


def test_every_sync_is_needed() -> None:
    log, states = run(1)
    syncs = [i for i, op in enumerate(log) if op.kind in ("sync", "sync_dir")]
    harmless = [describe(log, i) for i in syncs if not problems(log[:i] + log[i + 1 :], states, first=i, limit=6)]
    assert harmless == []


def describe(log: list[Op], i: int) -> str:
    before = [f"{op.kind} {op.name or op.file}" for op in log[max(0, i - 3) : i]]
    return f"{i}: {log[i].kind} {log[i].folder or log[i].file} after {before}"

"""The bytes of a store in files are frozen: what an earlier release wrote is read by this one, which writes the same.

``tests/formats/store_v1.json`` holds a folder, file by file in hexadecimal, as format 1 left it in the middle of a
commit, and what must be read from it. It is never written again; a new format gets a file of its own beside it.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from power_cut import PowerCutDisk, Tree

from datalayer.errors import TransactionOutcomeUnknown
from datalayer.kv import FileStore, fsck
from datalayer.testing.compliance import ManualClock

FROZEN = Path(__file__).parents[1] / "formats" / "store_v1.json"


def written(failing_disk: Any) -> Tree:
    """A store with every kind of file, whose process died when one of the three files of a commit was in its place."""
    memory, clock = PowerCutDisk(), ManualClock()
    disk = failing_disk(memory, kinds=("rename",))
    store = FileStore("/kv", disk=disk, clock=clock)
    store.put(b"plain-key_1", b"first")
    clock.advance(1)
    store.put(b"plain-key_1", b"second")
    store.put(b"Any \x00 byte\xff", b"")
    store.put(b"long" * 100, b"its name is a hash")
    store.put(b"ends", b"in an hour", ttl=3600)
    store.put(b"gone", b"x")
    store.delete(b"gone")
    store.put(b"two chunks", bytes(range(256)) * 4096 + b"and one byte")
    transaction = store.begin()
    transaction.put(b"plain-key_1", b"third")
    transaction.put(b"new", b"from a commit")
    transaction.delete(b"ends")
    disk.calls, disk.fail_at, disk.forever = 0, 3, True
    with pytest.raises(TransactionOutcomeUnknown):
        transaction.commit()
    tree = {path: None if number is None else bytes(memory.files[number]) for path, number in memory.names.items()}
    tree.pop("/kv/lock", None)  # its content is for people
    return tree


def frozen() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FROZEN.read_text())
    return found


def thawed(text: str) -> bytes:
    """Hexadecimal; ``x*n`` is the part before it ``n`` times over, so that a mebibyte is a line."""
    parts = (part.partition("*") for part in text.split())
    return b"".join(bytes.fromhex(data) * int(count or 1) for data, _, count in parts)


def tree_of(texts: dict[str, str | None]) -> Tree:
    return {path: None if text is None else thawed(text) for path, text in texts.items()}


def test_what_format_1_left_is_read_and_repaired() -> None:
    disk = PowerCutDisk(tree_of(frozen()["tree"]))
    clock = ManualClock()
    clock.advance(2)
    with closing(FileStore("/kv", disk=disk, clock=clock)) as store:
        assert (store.report.ok, store.report.finished) == (True, 1)
        expected = {bytes.fromhex(key): thawed(value) for key, value in frozen()["values"].items()}
        assert dict(store.scan()) == expected
        assert [store.get(b"plain-key_1", version=v) for v in store.versions(b"plain-key_1")] == [
            b"first",
            b"second",
            b"third",
        ]
        assert [v.number for v in store.versions(b"plain-key_1")] == frozen()["numbers"]
        assert store.get(b"gone") is None
    assert fsck("/kv", disk=disk).ok


def test_this_release_writes_format_1(failing_disk: Any) -> None:
    now = written(failing_disk)
    then = tree_of(frozen()["tree"])
    assert sorted(now) == sorted(then)
    for path in now:
        assert now[path] == then[path], f"{path} is written in another way than in format 1"

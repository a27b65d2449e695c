"""Opening a store on a disk that fails, and by several who all want it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from power_cut import Op, PowerCutDisk

from datalayer.errors import DataLayerError, StoreError
from datalayer.kv import FileStore

ROOT = Path(__file__).parents[2]
CALLS = ("list_dir", "size", "open", "read", "make_dir", "create", "write", "sync", "rename", "remove", "sync_dir")
LONG = bool(os.environ.get("DATALAYER_TEST_LONG"))


def crashed(failing_disk: Any) -> tuple[list[Op], dict[bytes, bytes]]:
    """What a process left that died in the middle of a commit, as a log, and what its store must show."""
    memory = PowerCutDisk()
    disk = failing_disk(memory)
    store = FileStore("/kv", disk=disk)
    store.put(b"a", b"old")
    store.put(b"long" * 100, b"kept")  # whose key is read from its file
    transaction = store.begin()
    transaction.put(b"a", b"new")
    transaction.put(b"b", b"new")
    disk.kinds, disk.calls, disk.fail_at, disk.forever = ("rename",), 0, 2, True
    with pytest.raises(DataLayerError):
        transaction.commit()
    return memory.log, {b"a": b"new", b"b": b"new", b"long" * 100: b"kept"}


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_at_any_call_of_an_opening_loses_nothing(failing_disk: Any, code: int, forever: bool) -> None:
    log, expected = crashed(failing_disk)
    failed_kinds = set()
    for number in range(1, 500):
        memory = PowerCutDisk.after({"/": None}, log)
        disk = failing_disk(memory, kinds=CALLS, code=code)
        disk.fail_at, disk.forever = number, forever
        where = f"call {number}"
        try:
            store = FileStore("/kv", disk=disk)
        except StoreError:
            assert not memory.locked, f"{where}: the lock is still held"
        else:
            disk.fail_at, disk.forever = -1, False
            assert dict(store.scan()) == expected, where
            store.close()
        if disk.failed is None:
            break
        failed_kinds.add(disk.failed)
        where += f", {disk.failed}"
        assert not memory.handles, f"{where}: files left open"
        with closing(FileStore("/kv", disk=memory)) as again:
            assert dict(again.scan()) == expected, where
            assert again.report.ok, f"{where}: {again.report}"
    assert failed_kinds >= {"list_dir", "open", "read", "rename", "sync_dir", "remove"}


COUNTER = """
    import sys, time
    from datalayer.errors import StoreLockedError
    from datalayer.kv import FileStore

    left = int(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    refused = 0
    while left:
        try:
            store = FileStore(sys.argv[1], keep_versions=1, sync=False)
        except StoreLockedError:
            refused += 1
            time.sleep(0.001)
            continue
        store.put(b"n", b"%d" % (int(store.get(b"n") or b"0") + 1))
        store.close()
        left -= 1
    print(refused)
"""


def test_processes_that_want_one_lock_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    turns, count = (200 if LONG else 25), 3
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(COUNTER), str(tmp_path / "kv"), str(turns)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    refused = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    with closing(FileStore(tmp_path / "kv")) as store:
        assert store.get(b"n") == b"%d" % (turns * count)
        assert store.report.ok
    assert sum(refused) > 0, "nobody met anybody"

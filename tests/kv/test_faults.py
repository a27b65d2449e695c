"""A disk that fails: the file engine loses nothing that it acknowledged, and never hands out a wrong bit."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from power_cut import PowerCutDisk, Tree

from datalayer.errors import DataLayerError, StoreCorruptError, StoreError, StoreLockedError, TransactionOutcomeUnknown
from datalayer.kv import FileStore, fsck
from datalayer.testing.compliance import ManualClock

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("DATALAYER_TEST_LONG"))


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")


def content(store: FileStore) -> dict[bytes, bytes]:
    return dict(store.scan())


# -- wrong bits --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A store with every kind of file in it."""
    path = tmp_path / "small"
    clock = ManualClock()
    with closing(FileStore(path, clock=clock)) as store:
        store.put(b"a", b"first")
        store.put(b"a", b"second")
        store.put(b"long" * 100, b"value of a long key")
        store.put(b"gone", b"x")
        store.delete(b"gone")
        store.put(b"brief", b"y", ttl=3600)
        store.put(b"empty", b"")
    return path


ALLOWED = {
    b"a": {b"first", b"second"},
    b"long" * 100: {b"value of a long key"},
    b"gone": {None},
    b"brief": {b"y"},
    b"empty": {b""},
}


def test_every_flipped_bit_is_detected_or_harmless(small: Path) -> None:
    sound = tree_of(small)
    flips = 0
    for file, data in sound.items():
        for position in range(len(data or b"")):
            for bit in range(8) if LONG else (position % 8, (position + 3) % 8):
                check_flip(
                    {**sound, file: flipped(data or b"", position, bit)}, f"bit {bit} of byte {position} of {file}"
                )
                flips += 1
    assert flips > (3000 if LONG else 800)


def tree_of(path: Path) -> Tree:
    """The store as a tree in memory, under /kv."""
    tree: Tree = {"/": None, "/kv": None}
    for file in path.rglob("*"):
        tree[f"/kv/{file.relative_to(path)}"] = file.read_bytes() if file.is_file() else None
    del tree["/kv/lock"]  # its content is for people
    return tree


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def check_flip(tree: Tree, where: str) -> None:
    """Every value is right, or an error, or the one before together with a report."""
    disk = PowerCutDisk(tree)
    try:
        report = fsck("/kv", disk=disk)
        store = FileStore("/kv", clock=ManualClock(), disk=disk)
    except StoreCorruptError:
        return
    for key, allowed in ALLOWED.items():
        try:
            value = store.get(key)
        except StoreCorruptError:
            assert not store.report.ok, where
            continue
        assert value in allowed, where
        if key == b"a" and value == b"first":
            assert [damage.key for damage in store.report.damages] == [b"a"], where
    assert not report.ok, f"{where} was not found by fsck"


def test_a_damaged_value_falls_back_to_the_one_before_and_says_so(small: Path, caplog: Any) -> None:
    (newest,) = (small / "data").glob("*/a.2.v0")
    newest.write_bytes(newest.read_bytes()[:-3])
    events: list[str] = []
    with closing(FileStore(small, clock=ManualClock())) as store:
        store.subscribe(lambda event: events.append(event.kind))
        assert store.get(b"a") == b"first"
        (damage,) = store.report.damages
        assert (damage.key, damage.moved_to) == (b"a", "quarantine/a.2.v0")
        assert events == ["quarantine"]
        assert "quarantine/a.2.v0" in caplog.text
        store.put(b"a", b"third")
        assert [v.number for v in store.versions(b"a")][-1] > 2
    assert (small / "quarantine" / "a.2.v0").exists()


def test_a_damaged_value_without_one_before_stays_an_error_until_it_is_written(small: Path) -> None:
    (only,) = (small / "data").glob("*/empty.*")
    only.write_bytes(b"")
    for _ in range(2):
        with closing(FileStore(small, clock=ManualClock())) as store:
            for call in (store.get, store.exists, store.get, lambda _: list(store.scan())):
                with pytest.raises(StoreCorruptError):
                    call(b"empty")
            assert store.get(b"a") == b"second"
    with closing(FileStore(small, clock=ManualClock())) as store:
        store.put(b"empty", b"new")
        assert store.get(b"empty") == b"new"
        assert b"empty" in content(store)


def test_a_damaged_value_can_be_deleted(small: Path) -> None:
    (only,) = (small / "data").glob("*/empty.*")
    only.write_bytes(b"")
    with closing(FileStore(small, clock=ManualClock())) as store:
        with pytest.raises(StoreCorruptError):
            store.get(b"empty")
        assert store.delete(b"empty") is True
        assert store.get(b"empty") is None


def test_who_wants_no_older_value_gets_an_error(small: Path) -> None:
    (newest,) = (small / "data").glob("*/a.2.v0")
    newest.write_bytes(b"")
    for _ in range(2):
        with closing(FileStore(small, clock=ManualClock(), damaged="raise")) as store:
            for _ in range(2):
                with pytest.raises(StoreCorruptError):
                    store.get(b"a")
            assert store.get(b"a", version=store.versions(b"a")[0]) == b"first"
    with closing(FileStore(small, clock=ManualClock(), damaged="raise")) as store:
        store.restore(b"a", store.versions(b"a")[0])
        assert store.get(b"a") == b"first"


def test_a_stream_hands_out_no_byte_of_a_damaged_chunk(tmp_path: Path) -> None:
    value = random.Random(1).randbytes(3 << 20)
    with closing(FileStore(tmp_path / "kv")) as store:
        store.put(b"k", value)
        (file,) = (tmp_path / "kv" / "data").glob("*/k.*")
        data = bytearray(file.read_bytes())
        data[(2 << 20) + 500] ^= 1
        file.write_bytes(data)
        stream = store.get_stream(b"k")
        assert stream is not None
        with stream:
            read = stream.read(2 << 20)
            assert read == value[: 2 << 20]
            with pytest.raises(StoreCorruptError):
                stream.read(1)
        assert len(store.report.damages) == 1


def test_files_of_others_are_put_aside_and_reported(small: Path) -> None:
    (small / "data" / "00").mkdir(exist_ok=True)
    (small / "data" / "00" / "notes.txt").write_text("hello")
    (own,) = (small / "data").glob("*/a.2.v0")
    shutil.copy(own, small / "data" / "00" / "a.7.v0")  # a good file in a wrong place
    with closing(FileStore(small, clock=ManualClock())) as store:
        assert sorted(Path(damage.path).name for damage in store.report.damages) == ["a.7.v0", "notes.txt"]


def test_a_file_under_another_key_s_name_is_not_believed(small: Path) -> None:
    (other,) = (small / "data").glob("*/brief.*")
    (own,) = (small / "data").glob("*/empty.*")
    own.write_bytes(other.read_bytes())
    with closing(FileStore(small, clock=ManualClock())) as store, pytest.raises(StoreCorruptError):
        store.get(b"empty")


def test_a_version_that_somebody_removed_is_missed(small: Path) -> None:
    with closing(FileStore(small, clock=ManualClock())) as store:
        (own,) = (small / "data").glob("*/empty.*")
        own.unlink()
        with pytest.raises(StoreCorruptError):
            store.get(b"empty")
        assert store.report.damages[0].reason == "its file is gone"


# -- fsck --------------------------------------------------------------------------------------------------------------


def test_fsck_of_a_sound_store_finds_nothing(small: Path) -> None:
    report = fsck(small)
    assert report.ok
    assert (report.keys, report.files) == (5, 7)
    assert "sound" in str(report)


def test_fsck_changes_nothing_unless_it_repairs(small: Path) -> None:
    (newest,) = (small / "data").glob("*/a.2.v0")
    newest.write_bytes(newest.read_bytes()[:-3])
    before = {file: file.read_bytes() for file in files_of(small)}
    report = fsck(small)
    assert [damage.key for damage in report.damages] == [b"a"]
    assert {file: file.read_bytes() for file in files_of(small)} == before
    assert fsck(small, repair=True).damages[0].moved_to == "quarantine/a.2.v0"
    with closing(FileStore(small, clock=ManualClock())) as store:
        assert store.get(b"a") == b"first"
    assert "was put there earlier" in str(fsck(small))


def test_fsck_does_not_bring_deleted_keys_back(small: Path) -> None:
    (deletion,) = (small / "data").glob("*/gone.*.d*")
    deletion.write_bytes(b"")
    assert not fsck(small, repair=True).ok
    with closing(FileStore(small, clock=ManualClock())) as store:
        assert store.get(b"gone") is None


def test_fsck_needs_a_store_that_is_closed(small: Path, tmp_path: Path) -> None:
    with closing(FileStore(small, clock=ManualClock())), pytest.raises(StoreLockedError):
        fsck(small)
    with pytest.raises(DataLayerError, match="is not a store"):
        fsck(tmp_path / "nowhere")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"photo\.jpg"):
        FileStore(tmp_path)


# -- errors of the disk ------------------------------------------------------------------------------------------------


def workload(store: FileStore, model: dict[bytes, bytes], pending: list[dict[bytes, bytes]]) -> None:
    """Writes whose acknowledged results are in ``model``; what was under way when it raised is in ``pending``."""

    def step(change: dict[bytes, bytes | None], act: Callable[[], Any]) -> None:
        after = {key: value for key, value in {**model, **change}.items() if value is not None}
        pending[:] = [after]
        act()
        model.clear()
        model.update(after)
        pending.clear()

    def commit(writes: dict[bytes, bytes | None]) -> None:
        with store.begin() as transaction:
            for key, value in writes.items():
                transaction.delete(key) if value is None else transaction.put(key, value)

    step({b"a": b"1"}, lambda: store.put(b"a", b"1"))
    step({b"b": b"1"}, lambda: store.put(b"b", b"1"))
    step({b"a": b"2"}, lambda: store.put(b"a", b"2"))
    step({b"a": b"3", b"b": None, b"c": b"3"}, lambda: commit({b"a": b"3", b"b": None, b"c": b"3"}))
    step({b"c": None}, lambda: store.delete(b"c"))
    step({b"a": b"4"}, lambda: store.put(b"a", b"4"))
    step({}, lambda: store.compact())


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("forever", [False, True])
def test_an_error_at_any_call_loses_nothing(failing_disk: Any, code: int, forever: bool) -> None:
    failed_kinds = set()
    for number in range(1, 200):
        memory = PowerCutDisk()
        FileStore("/kv", disk=memory).close()
        disk = failing_disk(memory, code=code)
        store = FileStore("/kv", disk=disk, keep_versions=1, keep_deleted=0)
        model: dict[bytes, bytes] = {}
        pending: list[dict[bytes, bytes]] = []
        disk.calls, disk.fail_at, disk.forever = 0, number, forever
        error = None
        try:
            workload(store, model, pending)
        except DataLayerError as raised:
            error = raised
        if disk.failed is None:
            break
        failed_kinds.add(disk.failed)
        where = f"call {number}, {disk.failed}, {error!r}"
        assert content(store) in [model, *([] if error is None else pending)], where
        assert isinstance(error, StoreError | TransactionOutcomeUnknown) or disk.failed == "remove", where
        if disk.failed in ("sync", "sync_dir"):
            assert store.read_only, where
            with pytest.raises(StoreError, match="read-only"):
                store.put(b"z", b"1")
        disk.fail_at, disk.forever = -1, False
        store.close()
        assert not memory.handles, where
        with closing(FileStore("/kv", disk=memory, keep_versions=1)) as again:
            assert content(again) in [model, *pending], where
            assert again.report.ok, where
            again.put(b"z", b"1")
            assert again.get(b"z") == b"1"
    assert failed_kinds >= {"create", "write", "sync", "rename", "sync_dir", "remove"}


def test_a_store_whose_disk_is_full_goes_on_when_there_is_room(tmp_path: Path, failing_disk: Any) -> None:
    disk = failing_disk(code=errno.ENOSPC, kinds=("write",))
    with closing(FileStore(tmp_path / "kv", disk=disk)) as store:
        store.put(b"k", b"old")
        disk.fail_at = disk.calls + 1
        with pytest.raises(StoreError, match="ENOSPC") as caught:
            store.put(b"k", b"new" * 1000)
        assert isinstance(caught.value.__cause__, OSError)
        assert store.get(b"k") == b"old"
        assert not store.read_only
        store.put(b"k", b"new")
        assert store.get(b"k") == b"new"
    assert list((tmp_path / "kv" / "tmp").iterdir()) == []


def test_reading_goes_on_after_a_sync_has_failed(tmp_path: Path, failing_disk: Any) -> None:
    disk = failing_disk(kinds=("sync",))
    events: list[str] = []
    with closing(FileStore(tmp_path / "kv", disk=disk)) as store:
        store.subscribe(lambda event: events.append(event.kind))
        store.put(b"k", b"old")
        disk.fail_at = disk.calls + 1
        with pytest.raises(StoreError, match="EIO"):
            store.put(b"k", b"new")
        assert (store.read_only, store.get(b"k"), events) == (True, b"old", ["put", "read_only"])
        for call in (lambda: store.put(b"x", b""), lambda: store.delete(b"k"), store.compact):
            with pytest.raises(StoreError, match="read-only since an error"):
                call()
    with closing(FileStore(tmp_path / "kv")) as store:
        assert store.get(b"k") == b"old"


def test_an_error_while_reading_is_an_error_and_no_damage(tmp_path: Path, failing_disk: Any) -> None:
    disk = failing_disk(kinds=("open", "read"))
    with closing(FileStore(tmp_path / "kv", disk=disk)) as store:
        store.put(b"k", b"v")
        for ahead in (1, 2):
            disk.fail_at = disk.calls + ahead
            with pytest.raises(StoreError, match="EIO"):
                store.get(b"k")
        assert store.get(b"k") == b"v"
        assert store.report.ok


def test_an_unfinished_commit_is_finished_by_the_next_opening(tmp_path: Path, failing_disk: Any) -> None:
    disk = failing_disk()
    store = FileStore(tmp_path / "kv", disk=disk)
    store.put(b"a", b"old")
    transaction = store.begin()
    transaction.put(b"a", b"new")
    transaction.put(b"b", b"new")
    disk.kinds, disk.calls, disk.fail_at, disk.forever = ("rename",), 0, 2, True
    with pytest.raises(TransactionOutcomeUnknown):
        transaction.commit()
    assert (store.get(b"a"), store.get(b"b"), store.read_only) == (b"old", None, True)
    disk.kinds = ()
    store.close()
    with closing(FileStore(tmp_path / "kv")) as again:
        assert content(again) == {b"a": b"new", b"b": b"new"}
        assert again.report.finished == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        (place / "ballast").write_bytes(bytes(65_536))
        fill(place / "kv", place / "ballast")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(path: Path, ballast: Path) -> None:
    model: dict[bytes, bytes] = {}
    with closing(FileStore(path, keep_versions=1)) as store:
        with pytest.raises(StoreError, match="ENOSPC"):
            put_without_end(store, model)
        assert content(store) == model
        transaction = store.begin()
        transaction.put(b"0", b"x" * 10_000)
        transaction.put(b"large", b"x" * 300_000)
        with pytest.raises(StoreError, match="ENOSPC"):
            transaction.commit()
        assert content(store) == model
        assert not store.read_only
    with closing(FileStore(path, keep_versions=1)) as store:
        assert content(store) == model
        ballast.unlink()
        store.put(b"more", b"there is room again")
        assert content(store) == {**model, b"more": b"there is room again"}
    assert fsck(path).ok


def put_without_end(store: FileStore, model: dict[bytes, bytes]) -> None:
    for i in itertools.count():
        store.put(b"%d" % i, b"%d" % i * 2000)
        model[b"%d" % i] = b"%d" % i * 2000


# -- processes ---------------------------------------------------------------------------------------------------------


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


WRITER = """
    import sys
    from datalayer.kv import FileStore

    store = FileStore(sys.argv[1], keep_versions=2)
    number = int(sys.argv[2])
    while True:
        number += 1
        if number % 5:
            store.put(b"k%d" % (number % 7), b"%d" % number * 50)
        else:
            with store.begin() as transaction:
                transaction.put(b"left", b"%d" % number)
                transaction.put(b"right", b"%d" % number)
        print(number, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing(tmp_path: Path, rng: random.Random) -> None:
    """kill -9 at a random moment, again and again, in one store."""
    path, expected, last = tmp_path / "kv", dict[bytes, bytes](), 0
    for _ in range(100 if LONG else 4):
        writer = python(WRITER, str(path), str(last))
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 150 if LONG else 60)):
            last = int(writer.stdout.readline())
            expected = applied(expected, last)
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:  # what it acknowledged before the signal came
            last = int(line)
            expected = applied(expected, last)
        writer.communicate()
        with closing(FileStore(path, keep_versions=2)) as store:
            found = content(store)
            assert found in (expected, applied(expected, last + 1)), f"after {last}"
            assert store.report.ok, str(store.report)
            expected = found
        last += 1


def applied(state: dict[bytes, bytes], number: int) -> dict[bytes, bytes]:
    if number % 5:
        return {**state, b"k%d" % (number % 7): b"%d" % number * 50}
    return {**state, b"left": b"%d" % number, b"right": b"%d" % number}


HOLDER = """
    import sys
    from datalayer.kv import FileStore

    store = FileStore(sys.argv[1])
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    holder = python(HOLDER, str(path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(StoreLockedError, match=f"in process {holder.pid}"):
        FileStore(path)
    holder.kill()  # the lock dies with its process
    holder.communicate()
    FileStore(path).close()


def test_one_store_at_a_time_in_a_process_too(tmp_path: Path) -> None:
    with closing(FileStore(tmp_path / "kv")), pytest.raises(StoreLockedError, match=f"in process {os.getpid()}"):
        FileStore(tmp_path / "kv")
    FileStore(tmp_path / "kv").close()


def test_a_forked_child_writes_nothing_through_its_parent_s_store(tmp_path: Path) -> None:
    code = """
        import os, sys
        from datalayer.errors import StoreError
        from datalayer.kv import FileStore

        store = FileStore(sys.argv[1])
        store.put(b"k", b"parent")
        child = os.fork()
        if not child:
            try:
                store.put(b"k", b"child")
            except StoreError as error:
                os._exit(7 if "forked" in str(error) and store.get(b"k") == b"parent" else 1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.get(b"k").decode())
    """
    process = python(code, str(tmp_path / "kv"))
    assert process.communicate()[0] == "7 parent\n"


def test_threads_that_write_are_seen_whole_by_threads_that_read(tmp_path: Path) -> None:
    """Readers meet versions that are pruned under their hands."""
    with closing(FileStore(tmp_path / "kv", keep_versions=1, sync=False)) as store:
        store.put(b"k", b"0" * 1000)
        stop = threading.Event()
        torn: list[bytes | None] = []

        def read() -> None:
            while not stop.is_set():
                value = store.get(b"k")
                if value is None or len(value) != 1000 or len(set(value)) != 1:
                    torn.append(value)

        readers = [threading.Thread(target=read, name=f"datalayer-reader-{i}") for i in range(3)]
        for reader in readers:
            reader.start()
        for i in range(300):
            store.put(b"k", b"%d" % (i % 10) * 1000)
        stop.set()
        for reader in readers:
            reader.join()
        assert torn == []
        assert store.report.ok

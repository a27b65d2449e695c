"""A key/value store in files: versions, transactions, streams, snapshots, and what happens when a disk goes wrong.

Needs no database and no server, and leaves nothing behind: ``python examples/kv_store.py``.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import closing
from pathlib import Path

from datalayer.contracts.store import StoreEvent, Streaming, Versioned
from datalayer.errors import ConflictError, StoreLockedError
from datalayer.kv import ENGINES, FileStore, MemoryStore, MultiStore, fsck


def values_and_lives(store: FileStore) -> None:
    store.put(b"user:1", b"ann")
    store.put(b"user:2", b"bob")
    store.put(b"session:9", b"token", ttl=3600)
    print("get:", store.get(b"user:1"), store.get(b"user:9"))
    print("scan:", list(store.scan(b"user:")))
    print("lives:", store.ttl(b"user:1"), store.ttl(b"session:9") is not None)
    print("delete says whether it was there:", store.delete(b"user:2"), store.delete(b"user:2"))


def versions(store: FileStore) -> None:
    store.put(b"report", b"draft")
    store.put(b"report", b"final")
    store.put(b"report", b"oops")
    draft, final, _ = store.versions(b"report")
    print("as it was:", store.get(b"report", version=draft), store.get(b"report", version=final))
    store.restore(b"report", final)
    print("restored:", store.get(b"report"))


def transactions(store: FileStore) -> None:
    store.put(b"ann", b"100")
    store.put(b"bob", b"0")
    with store.begin() as transfer:  # both or none, over a power cut too
        transfer.put(b"ann", b"70")
        transfer.put(b"bob", b"30")
    slow = store.begin()
    balance = int(slow.get(b"ann") or b"0")
    store.put(b"ann", b"60")  # somebody else, meanwhile
    slow.put(b"ann", b"%d" % (balance - 10))
    try:
        slow.commit()
    except ConflictError:
        print("a conflict; ann still has", store.get(b"ann"))


def snapshots_and_events(store: FileStore) -> None:
    heard: list[StoreEvent] = []
    leave = store.subscribe(heard.append)
    with store.snapshot() as then:
        store.put(b"bob", b"1000")
        print("then and now:", then.get(b"bob"), store.get(b"bob"))
    leave()
    print("heard:", [(event.kind, event.keys) for event in heard])


def streams(store: FileStore) -> None:
    size = store.put_stream(b"video", io.BytesIO(b"frame " * 2_000_000))  # a chunk at a time, in both directions
    with store.get_stream(b"video") or io.BytesIO() as stream:
        print("streamed:", size, "bytes, beginning with", stream.read(5))


def damage(path: Path) -> None:
    newest = max((path / "data").glob("*/ann.*"), key=lambda file: int(file.name.split(".")[1], 16))
    newest.write_bytes(newest.read_bytes()[:-1])  # a disk that loses a byte
    print("fsck finds it:", not fsck(path).ok)
    with closing(FileStore(path)) as store:
        print("the value before it is served:", store.get(b"ann"))
        print("and the report says so:", store.report.damages[0].reason)


def one_process_at_a_time(path: Path) -> None:
    with closing(FileStore(path)):
        try:
            FileStore(path)
        except StoreLockedError:
            print("somebody else has it open")


def several_stores(path: Path) -> None:
    print(
        "engines:",
        ENGINES.names(),
        "with versions:",
        ENGINES.names(Versioned),
        "with streams:",
        ENGINES.names(Streaming),
    )
    settings = {
        "sessions": {"engine": "memory", "max_entries": 1000, "full": "evict"},
        "documents": {"engine": "file", "path": path, "keep_versions": 3},
    }
    with MultiStore.from_config(settings) as stores:
        stores.store("documents").put(b"k", b"v")
        stores.add("scratch", MemoryStore())
        print("stores:", stores.names())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accounts"
        with closing(FileStore(path)) as store:
            values_and_lives(store)
            versions(store)
            transactions(store)
            snapshots_and_events(store)
            streams(store)
        damage(path)
        one_process_at_a_time(path)
        several_stores(Path(folder) / "documents")


if __name__ == "__main__":
    main()

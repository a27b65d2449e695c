"""Values that are larger than what should be in memory."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from datalayer.errors import ConfigError, EncodeError
from datalayer.kv import FileStore

MEGABYTE = 1 << 20


class Pattern(io.RawIOBase):
    """``size`` bytes that are made when they are read, and their digest."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.digest = hashlib.sha256()
        self.block = bytes(range(256)) * 256

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.left, len(self.block))
        buffer[:size] = self.block[:size]
        self.left -= size
        self.digest.update(self.block[:size])
        return size


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python held while the work was done, beyond those before it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_large_value_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    size = 48 * MEGABYTE
    source = Pattern(size)
    found = hashlib.sha256()

    def read() -> None:
        with store.get_stream(b"k") as stream:  # type: ignore[union-attr]
            while piece := stream.read(MEGABYTE):
                found.update(piece)

    with closing(FileStore(tmp_path / "kv", sync=False)) as store:
        written = peak(lambda: store.put_stream(b"k", source))  # type: ignore[arg-type]
        streamed = peak(read)
        assert found.digest() == source.digest.digest()
        (version,) = store.versions(b"k")
        assert version.size == size
        restored = peak(lambda: store.restore(b"k", version))
    assert max(written, streamed, restored) < 6 * MEGABYTE, (written, streamed, restored)


def test_a_value_of_ten_megabytes_is_put_and_read_as_one(tmp_path: Path) -> None:
    value = bytes(range(256)) * (10 * MEGABYTE // 256)
    with closing(FileStore(tmp_path / "kv", sync=False)) as store:
        assert peak(lambda: store.put(b"k", value)) < 2 * MEGABYTE  # it is not copied
        assert store.get(b"k") == value
        transaction = store.begin()
        transaction.put(b"k", value[::-1])
        transaction.put(b"l", b"v")
        transaction.commit()
    with closing(FileStore(tmp_path / "kv")) as again:
        assert again.get(b"k") == value[::-1]


def test_a_stream_outlives_the_version_that_it_reads_but_not_the_file(tmp_path: Path) -> None:
    value = b"old" * MEGABYTE
    with closing(FileStore(tmp_path / "kv", keep_versions=1, sync=False)) as store:
        store.put(b"k", value)
        stream = store.get_stream(b"k")
        assert stream is not None
        with stream:
            store.delete(b"k")
            store.compact()
            assert stream.read() == value


def test_what_is_no_source_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with closing(FileStore(tmp_path / "kv", sync=False)) as store:
        store.put(b"k", b"before")
        with pytest.raises(EncodeError, match="open the file in binary mode"):
            store.put_stream(b"k", io.StringIO("text"))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="ttl"):
            store.put_stream(b"k", io.BytesIO(b"v"), ttl=0)
        assert store.get(b"k") == b"before"
        assert list((tmp_path / "kv" / "tmp").iterdir()) == []

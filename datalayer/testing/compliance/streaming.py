"""The rules of stores: values too large for memory."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

from .base import Suite
from .clock import ManualClock


class StreamingCompliance(Suite):
    """The rules of :class:`~datalayer.contracts.store.Streaming`."""

    def test_a_stream_goes_in_and_comes_out(self, store: Any) -> None:
        value = random.Random(5).randbytes(3_000_001)
        assert store.put_stream(b"k", io.BytesIO(value)) == len(value)
        assert store.get(b"k") == value
        with store.get_stream(b"k") as stream:
            pieces = list(iter(lambda: stream.read(70_000), b""))
        assert b"".join(pieces) == value

    def test_what_was_put_can_be_streamed(self, store: Any) -> None:
        for value in (b"", b"v", b"v" * 1_500_000):
            store.put(b"k", value)
            with store.get_stream(b"k") as stream:
                assert stream.read() == value

    def test_an_absent_key_has_no_stream(self, store: Any) -> None:
        assert store.get_stream(b"k") is None

    def test_only_what_the_source_has_left_is_taken(self, store: Any) -> None:
        source = io.BytesIO(b"head and tail")
        source.seek(9)
        assert store.put_stream(b"k", source) == 4
        assert store.get(b"k") == b"tail"
        assert not source.closed

    def test_an_open_stream_keeps_reading_its_value(self, store: Any) -> None:
        value = b"old" * 1_000_000
        store.put(b"k", value)
        with store.get_stream(b"k") as stream:
            head = stream.read(10)
            for i in range(20):
                store.put(b"k", b"%d" % i)
            assert head + stream.read() == value

    def test_a_source_that_fails_leaves_the_value_before(self, store: Any) -> None:
        class Broken(io.RawIOBase):
            def __init__(self) -> None:
                self.left = 3

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                self.left -= 1
                if not self.left:
                    raise ZeroDivisionError
                return len(buffer)

        store.put(b"k", b"old")
        with pytest.raises(ZeroDivisionError):
            store.put_stream(b"k", Broken())
        assert store.get(b"k") == b"old"

    def test_a_stream_can_end(self, store: Any, clock: ManualClock) -> None:
        store.put_stream(b"k", io.BytesIO(b"v"), ttl=5)
        clock.advance(5)
        assert store.get_stream(b"k") is None

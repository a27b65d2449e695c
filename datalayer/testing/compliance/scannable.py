"""The rules of stores: keys in order."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ...errors import EncodeError, UnavailableError
from .base import Suite


class ScannableCompliance(Suite):
    """The rules of :class:`~datalayer.contracts.store.Scannable`."""

    def test_a_scan_is_in_the_order_of_bytes(self, store: Any) -> None:
        keys = [b"b", b"a", b"\xff", b"\0", b"aa", b"a\0", b"B", b"\x7f", b"\x80"]
        for key in keys:
            store.put(key, b"v" + key)
        assert list(store.scan()) == [(key, b"v" + key) for key in sorted(keys)]

    def test_a_prefix_picks_what_begins_with_it(self, store: Any) -> None:
        for key in (b"a", b"ab", b"abc", b"b", b"\xff", b"\xff\xff", b"\xff\xffa", b"%b", b"_b"):
            store.put(key, key)
        assert [key for key, _ in store.scan(b"ab")] == [b"ab", b"abc"]
        assert [key for key, _ in store.scan(b"\xff\xff")] == [b"\xff\xff", b"\xff\xffa"]
        assert [key for key, _ in store.scan(b"%")] == [b"%b"]
        assert [key for key, _ in store.scan(b"c")] == []

    def test_keys_are_those_of_the_scan(self, store: Any) -> None:
        for key in (b"b", b"a", b"ab"):
            store.put(key, b"v")
        assert list(store.keys()) == [b"a", b"ab", b"b"]
        assert list(store.keys(b"a")) == [b"a", b"ab"]

    def test_a_scan_shows_the_latest_values_only(self, store: Any) -> None:
        store.put(b"a", b"1")
        store.put(b"b", b"1")
        store.put(b"a", b"2")
        store.delete(b"b")
        assert list(store.scan()) == [(b"a", b"2")]
        store.put(b"b", b"3")
        assert list(store.scan()) == [(b"a", b"2"), (b"b", b"3")]

    def test_many_keys_come_once_each(self, store: Any) -> None:
        keys = [b"%04d" % i for i in range(1200)]
        for key in random.Random(3).sample(keys, len(keys)):
            store.put(key, key)
        assert list(store.keys()) == keys

    def test_writing_during_a_scan_disturbs_no_other_key(self, store: Any) -> None:
        for i in range(50):
            store.put(b"%02d" % i, b"old")
        seen = []
        for key, _ in store.scan():
            seen.append(key)
            store.put(key, b"new")
            store.put(b"0" + key[-2:], b"more")
            store.delete(b"49")
        stayed = [b"%02d" % i for i in range(49)]
        assert [key for key in seen if len(key) == 2 and key != b"49"] == stayed
        assert len(set(seen)) == len(seen)

    def test_what_is_not_a_prefix_is_refused(self, store: Any) -> None:
        for prefix in ("text", 1, None):
            with pytest.raises(EncodeError):
                list(store.scan(prefix))

    def test_a_closed_store_refuses_to_scan(self, store: Any) -> None:
        store.close()
        for call in (store.scan, store.keys):
            with pytest.raises(UnavailableError):
                list(call())

"""The rules of stores: values by key."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from ...contracts.store import MAX_KEY_BYTES
from ...errors import EncodeError, UnavailableError
from .base import THREADS, Suite, in_threads

ALL_BYTES = bytes(range(256))


class StoreCompliance(Suite):
    """The rules of :class:`~datalayer.contracts.store.Store`."""

    def test_a_value_comes_back_as_bytes(self, store: Any) -> None:
        store.put(b"k", b"value")
        assert store.get(b"k") == b"value"
        assert type(store.get(b"k")) is bytes
        assert store.exists(b"k") is True

    def test_an_absent_key_is_an_answer(self, store: Any) -> None:
        assert store.get(b"k") is None
        assert store.exists(b"k") is False
        assert store.delete(b"k") is False

    def test_the_last_put_wins(self, store: Any) -> None:
        for value in (b"one", b"a longer two", b""):
            store.put(b"k", value)
            assert store.get(b"k") == value

    def test_an_empty_value_is_a_value(self, store: Any) -> None:
        store.put(b"k", b"")
        assert (store.get(b"k"), store.exists(b"k")) == (b"", True)

    def test_delete_removes_and_says_so_once(self, store: Any) -> None:
        store.put(b"k", b"v")
        assert store.delete(b"k") is True
        assert (store.get(b"k"), store.exists(b"k")) == (None, False)
        assert store.delete(b"k") is False

    def test_a_deleted_key_can_be_put_again(self, store: Any) -> None:
        store.put(b"k", b"old")
        store.delete(b"k")
        store.put(b"k", b"new")
        assert (store.get(b"k"), store.delete(b"k")) == (b"new", True)

    def test_keys_and_values_are_any_bytes(self, store: Any) -> None:
        keys = [bytes([byte]) for byte in ALL_BYTES] + [ALL_BYTES, b"../x", b"a/b", b"AB", b"ab", b"a" * MAX_KEY_BYTES]
        for number, key in enumerate(keys):
            store.put(key, ALL_BYTES + str(number).encode())
        assert [store.get(key) for key in keys] == [ALL_BYTES + str(n).encode() for n in range(len(keys))]

    def test_similar_keys_are_different_keys(self, store: Any) -> None:
        keys = [b"a", b"ab", b"a\0", b"\0a", b"A", b"a ", b"b" * MAX_KEY_BYTES, b"b" * (MAX_KEY_BYTES - 1)]
        for key in keys:
            store.put(key, key)
        store.delete(b"a")
        assert [store.get(key) for key in keys] == [None, *keys[1:]]

    def test_buffers_are_copied(self, store: Any) -> None:
        key, value = bytearray(b"key"), bytearray(b"value")
        store.put(key, value)
        key[:], value[:] = b"xxx", b"yyyyy"
        assert (store.get(b"key"), store.get(b"xxx")) == (b"value", None)
        store.put(b"view", memoryview(b"-view-")[1:-1])
        assert store.get(b"view") == b"view"

    def test_what_is_not_a_key_is_refused(self, store: Any) -> None:
        for key in ("text", 1, None, b"", b"k" * (MAX_KEY_BYTES + 1)):
            for call in (store.get, store.delete, store.exists, lambda k: store.put(k, b"v")):
                with pytest.raises(EncodeError):
                    call(key)

    def test_what_is_not_a_value_is_refused(self, store: Any) -> None:
        store.put(b"k", b"v")
        for value in ("text", 1, None, [b"v"]):
            with pytest.raises(EncodeError):
                store.put(b"k", value)
        assert store.get(b"k") == b"v"

    def test_ten_megabytes_come_back(self, store: Any) -> None:
        value = random.Random(7).randbytes(10_000_000)
        store.put(b"large", value)
        assert store.get(b"large") == value

    def test_it_does_what_a_dict_does(self, store: Any) -> None:
        rng, model = random.Random(11), dict[bytes, bytes]()
        for _ in range(300):
            key = b"k%d" % rng.randrange(20)
            if rng.random() < 0.6:
                model[key] = rng.randbytes(rng.randrange(40))
                store.put(key, model[key])
            else:
                assert store.delete(key) is (model.pop(key, None) is not None)
            assert store.get(key) == model.get(key)
        assert {key: store.get(key) for key in model} == model

    def test_writers_in_many_threads_lose_nothing(self, store: Any) -> None:
        def work(number: int) -> None:
            for i in range(20):
                store.put(b"%d:%d" % (number, i), b"%d" % i)
                store.put(b"shared", b"%d" % number * 100)
                assert store.get(b"%d:%d" % (number, i)) == b"%d" % i
                shared = store.get(b"shared")
                assert len(shared) == 100
                assert len(set(shared)) == 1

        in_threads(work)
        assert all(store.get(b"%d:%d" % (n, i)) == b"%d" % i for n in range(THREADS) for i in range(20))

    def test_one_of_many_deletes_is_the_one(self, store: Any) -> None:
        for _ in range(10):
            store.put(b"k", b"v")
            assert sum(in_threads(lambda _: store.delete(b"k"))) == 1

    def test_close_may_be_called_twice(self, store: Any) -> None:
        store.close()
        store.close()

    def test_a_closed_store_refuses_everything(self, store: Any) -> None:
        store.put(b"k", b"v")
        store.close()
        calls: list[Callable[[], Any]] = [
            lambda: store.get(b"k"),
            lambda: store.put(b"k", b"v"),
            lambda: store.delete(b"k"),
            lambda: store.exists(b"k"),
        ]
        for call in calls:
            with pytest.raises(UnavailableError):
                call()

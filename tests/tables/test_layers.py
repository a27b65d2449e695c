"""Layers: the first hit wins and fills upwards, deletes go everywhere, and no fill overtakes a write."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from kept import Kept

import datalayer
from datalayer.contracts.provider import Adding, Expiring, Native, Scannable
from datalayer.errors import ConfigError, UnavailableError
from datalayer.tables import Layer, Layers, MemoryProvider, StoreProvider, Tables


class Counted(MemoryProvider):
    """Counts its calls, and may be down."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[str] = []
        self.down = False

    def _note(self, what: str) -> None:
        self.calls.append(what)
        if self.down:
            raise UnavailableError(f"down: {what}")

    def get(self, key: str) -> bytes | None:
        self._note("get")
        return super().get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        self._note("get_many")
        return {key: value for key in keys if (value := MemoryProvider.get(self, key)) is not None}

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._note("set")
        super().set(key, value, ttl)

    def delete(self, key: str) -> bool:
        self._note("delete")
        return super().delete(key)

    def delete_many(self, keys: Iterable[str]) -> int:
        self._note("delete_many")
        return super().delete_many(keys)


@pytest.fixture
def three() -> tuple[Counted, Counted, Counted]:
    return Counted(), Counted(), Counted()


def layers_of(three: tuple[Counted, ...]) -> Layers:
    return Layers(*((f"L{number}", each) for number, each in enumerate(three, start=1)))


def test_layers_is_a_public_name() -> None:
    assert datalayer.Layers is Layers


def test_the_first_hit_wins_and_fills_the_layers_above(three: tuple[Counted, Counted, Counted]) -> None:
    first, second, third = three
    layers = layers_of(three)
    third.set("k", b"x")
    assert layers.get("k") == b"x"
    assert MemoryProvider.get(first, "k") == b"x"
    assert MemoryProvider.get(second, "k") == b"x"
    for each in three:
        each.calls.clear()
    assert layers.get("k") == b"x"
    assert (first.calls, second.calls, third.calls) == (["get"], [], [])
    layers.close()


def test_many_keys_ask_each_layer_once_for_what_is_still_missing(three: tuple[Counted, Counted, Counted]) -> None:
    first, second, third = three
    layers = layers_of(three)
    first.set("1", b"1")
    second.set("2", b"2")
    third.set("3", b"3")
    assert layers.get_many(["1", "2", "3", "4"]) == {"1": b"1", "2": b"2", "3": b"3"}
    assert [each.calls.count("get_many") for each in three] == [1, 1, 1]
    assert [MemoryProvider.get(first, key) for key in "1234"] == [b"1", b"2", b"3", None]
    assert [MemoryProvider.get(second, key) for key in "1234"] == [None, b"2", b"3", None]


def test_a_write_reaches_all_layers_and_a_delete_leaves_none(three: tuple[Counted, Counted, Counted]) -> None:
    layers = layers_of(three)
    layers.set("k", b"x")
    assert [MemoryProvider.get(each, "k") for each in three] == [b"x"] * 3
    assert layers.delete("k") is True
    assert [MemoryProvider.get(each, "k") for each in three] == [None] * 3
    assert layers.delete("k") is False


def test_a_fill_lives_no_longer_than_the_value_below_and_the_layer_allow() -> None:
    now = [0.0]
    upper, lower = (MemoryProvider(clock=lambda: now[0]) for _ in range(2))
    layers = Layers(Layer(name="L1", provider=upper, ttl=50), ("low", lower))
    lower.set_many({"long": b"x"}, 100)
    lower.set_many({"short": b"x", "shorter": b"x"}, 10)
    lower.set("endless", b"x")
    assert len(layers.get_many(["long", "short", "endless"])) == 3
    assert layers.get("shorter") == b"x"
    assert (upper.ttl("long"), upper.ttl("short"), upper.ttl("shorter"), upper.ttl("endless")) == (50, 10, 10, 50)
    layers.set("set", b"x", 20)
    assert (upper.ttl("set"), lower.ttl("set")) == (20, 20)
    assert isinstance(layers, Expiring)
    assert layers.ttl("long") == 100


def test_a_fill_takes_nothing_away_from_a_newer_value(three: tuple[Counted, Counted, Counted]) -> None:
    """Another process has written to the shared second layer while this one was reading the third."""
    first, second, _ = three

    class Interrupted(Counted):
        def get(self, key: str) -> bytes | None:
            found = super().get(key)
            second.set(key, b"new")
            return found

    low = Interrupted()
    low.set("k", b"old")
    layers = layers_of((first, second, low))
    layers.get("k")
    assert MemoryProvider.get(second, "k") == b"new"


# -- races within the process ----------------------------------------------------------------------------------------


class Held(MemoryProvider):
    """Reads, and then holds what it has read until the test lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.go = threading.Event(), threading.Event()
        self.holding = False
        self.gets = 0

    def get(self, key: str) -> bytes | None:
        found = super().get(key)
        self.gets += 1
        if self.holding:
            self.read.set()
            assert self.go.wait(10)
        return found


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda layers: layers.set("k", b"new"), b"new"),
        (lambda layers: layers.set_many({"k": b"new", "other": b"x"}), b"new"),
        (lambda layers: layers.delete("k"), None),
        (lambda layers: layers.delete_many(["k"]), None),
        (lambda layers: layers.clear(), None),
    ],
)
def test_a_fill_that_was_read_before_a_write_is_dropped(write: Callable[[Any], Any], expected: bytes | None) -> None:
    upper, lower = MemoryProvider(), Held()
    lower.set("k", b"old")
    layers = Layers(("L1", upper), ("low", lower))
    lower.holding = True
    found: list[bytes | None] = []
    reader = threading.Thread(target=lambda: found.append(layers.get("k")))
    reader.start()
    assert lower.read.wait(10)
    write(layers)
    lower.go.set()
    reader.join()
    assert found == [b"old"], "the read began before the write"
    assert upper.get("k") == expected, "the old value was filled over the write"
    lower.holding = False
    assert layers.get("k") == expected


def test_concurrent_misses_of_a_key_ask_the_layer_below_once() -> None:
    lower = Held()
    lower.set("k", b"x")
    layers = Layers(("L1", MemoryProvider()), ("low", lower))
    lower.holding = True
    found: list[bytes | None] = []
    threads = [threading.Thread(target=lambda: found.append(layers.get("k"))) for _ in range(8)]
    threads[0].start()
    assert lower.read.wait(10)
    for thread in threads[1:]:
        thread.start()
    lower.go.set()
    for thread in threads:
        thread.join()
    assert found == [b"x"] * 8
    assert lower.gets == 1


def test_a_read_after_a_write_does_not_join_a_load_from_before_it() -> None:
    lower = Held()
    lower.set("k", b"old")
    layers = Layers(("L1", MemoryProvider()), ("low", lower))
    lower.holding = True
    reader = threading.Thread(target=lambda: layers.get("k"))
    reader.start()
    assert lower.read.wait(10)
    lower.holding = False
    layers.delete("k")
    assert layers.get("k") is None
    lower.go.set()
    reader.join()


def test_a_load_that_fails_fails_for_the_one_who_made_it_only() -> None:
    class Once(Held):
        failed = False

        def get(self, key: str) -> bytes | None:
            found = super().get(key)
            if not self.failed:
                self.failed = True
                raise UnavailableError("once")
            return found

    lower = Once()
    lower.set("k", b"x")
    layers = Layers(("L1", MemoryProvider()), ("low", lower))
    lower.holding = True
    found: list[Any] = []

    def read() -> None:
        try:
            found.append(layers.get("k"))
        except UnavailableError as error:
            found.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(3)]
    threads[0].start()
    assert lower.read.wait(10)
    for thread in threads[1:]:
        thread.start()
    lower.go.set()
    for thread in threads:
        thread.join()
    assert found.count("once") == 1
    assert found.count(b"x") == 2


def test_random_reads_and_writes_leave_all_layers_in_agreement(rng: Any) -> None:
    upper, lower = MemoryProvider(max_entries=8), MemoryProvider()
    layers = Layers(("L1", upper), ("low", lower))
    keys = [f"k{number}" for number in range(16)]
    seeds = [rng.random() for _ in range(6)]

    def work(seed: float) -> None:
        import random

        own = random.Random(seed)
        for turn in range(400):
            key = own.choice(keys)
            action = own.randrange(6)
            if action == 0:
                layers.set(key, f"{seed}:{turn}".encode())
            elif action == 1:
                layers.delete(key)
            elif action == 2:
                layers.get_many(own.sample(keys, 4))
            else:
                layers.get(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key in keys:
        above = upper.get(key)
        assert above is None or above == lower.get(key), key


# -- layers that fail ------------------------------------------------------------------------------------------------


class Errors:
    """A recorder that keeps what it hears of errors and hits."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []
        self.hits: dict[str, int] = {}

    def hit(self, tier: str, model: str, count: int = 1) -> None:
        self.hits[tier] = self.hits.get(tier, 0) + count

    def miss(self, tier: str, model: str, count: int = 1) -> None: ...

    def latency(self, tier: str, operation: str, seconds: float) -> None: ...

    def age(self, tier: str, model: str, seconds: float) -> None: ...

    def error(self, tier: str, kind: str) -> None:
        self.errors.append((tier, kind))

    def evicted(self, tier: str, model: str, count: int = 1) -> None: ...


def test_an_upper_layer_that_is_down_is_passed_over_by_reads(
    three: tuple[Counted, Counted, Counted], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Errors()
    layers = Layers(("L1", three[0]), ("L2", three[1]), ("low", three[2]), recorder=recorder)
    layers.set("k", b"x")
    MemoryProvider.delete(three[0], "k")
    three[1].down = True
    with caplog.at_level(logging.WARNING):
        assert layers.get("k") == b"x"
        assert layers.get_many(["k"]) == {"k": b"x"}
        assert layers.exists("k") is True
    assert ("L2", "UnavailableError") in recorder.errors
    assert recorder.hits["low"] == 1
    assert "layer L2 cannot be reached" in caplog.text


def test_the_lowest_layer_that_is_down_is_an_error(three: tuple[Counted, Counted, Counted]) -> None:
    layers = layers_of(three)
    three[2].down = True
    with pytest.raises(UnavailableError):
        layers.get("k")


def test_a_write_that_fails_below_leaves_nothing_above(three: tuple[Counted, Counted, Counted]) -> None:
    layers = layers_of(three)
    layers.set("k", b"old")
    three[2].down = True
    with pytest.raises(UnavailableError, match="set"):
        layers.set("k", b"new")
    assert [MemoryProvider.get(each, "k") for each in three] == [None, None, b"old"]


def test_a_write_that_fails_above_is_made_in_the_other_layers(three: tuple[Counted, Counted, Counted]) -> None:
    layers = layers_of(three)
    layers.set("k", b"old")
    three[1].down = True
    with pytest.raises(UnavailableError, match="set"):
        layers.set("k", b"new")
    assert MemoryProvider.get(three[0], "k") == b"new"
    assert MemoryProvider.get(three[2], "k") == b"new"
    with pytest.raises(UnavailableError, match="delete"):
        layers.delete("k")
    assert MemoryProvider.get(three[0], "k") is None
    assert MemoryProvider.get(three[2], "k") is None


# -- what layers are made of -----------------------------------------------------------------------------------------


def test_a_store_may_be_a_layer_and_is_closed_with_the_others() -> None:
    store = Kept()
    layers = Layers(("L1", MemoryProvider()), ("persistent", store))
    with Tables(layers) as tables:
        tables.table("t", str).set("k", "x")
        assert store.get(b"t:k") == b"x"
    assert store.closed


def test_layers_can_do_what_all_that_is_needed_can_do() -> None:
    store = Kept()

    class Plain:
        put, get, delete, exists, close = store.put, store.get, store.delete, store.exists, store.close

    memory = Layers(("a", MemoryProvider()), ("b", MemoryProvider()))
    assert isinstance(memory, Scannable)
    assert isinstance(memory, Expiring)
    assert not isinstance(memory, Adding)
    plain = Layers(("a", MemoryProvider()), ("b", StoreProvider(Plain())))
    assert not isinstance(plain, Scannable | Expiring | Adding | Native)
    assert isinstance(plain, Layers)
    upper = Layers(("a", StoreProvider(Plain())), ("b", MemoryProvider()))
    assert isinstance(upper, Expiring)
    assert not isinstance(upper, Scannable)


@pytest.mark.parametrize(
    "layers",
    [
        (),
        (("a", MemoryProvider()), ("a", MemoryProvider())),
        (("a", object()),),
        (("", MemoryProvider()),),
        (Layer(name="a", provider=MemoryProvider(), ttl=0),),
    ],
)
def test_layers_that_cannot_be_are_refused(layers: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        Layers(*layers)


def test_a_layer_that_fails_to_close_does_not_keep_the_others_open() -> None:
    class Failing(MemoryProvider):
        def close(self) -> None:
            raise OSError("no")

    store = Kept()
    layers = Layers(("a", Failing()), ("b", store))
    with pytest.raises(OSError, match="no"):
        layers.close()
    assert store.closed


def test_a_mapping_of_many_is_one_call_to_each_layer(three: tuple[Counted, Counted, Counted]) -> None:
    calls: list[Mapping[str, bytes]] = []

    class Batch(MemoryProvider):
        def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
            calls.append(items)
            super().set_many(items, ttl)

    layers = Layers(("a", Batch()), ("b", Batch()))
    layers.set_many({str(number): b"x" for number in range(100)})
    assert len(calls) == 2


def test_a_layer_that_is_down_is_left_alone_for_a_while_and_then_tried_again(
    three: tuple[Counted, Counted, Counted], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("datalayer.tables.level.time", SimpleNamespace(monotonic=lambda: now[0]))
    first, second, low = three
    layers = Layers(Layer(name="L1", provider=first, pause=10), ("L2", second), ("low", low))
    low.set("k", b"x")
    first.down = True
    for _ in range(5):
        assert layers.get("k") == b"x"
    assert first.calls == ["get"], "one timeout, not five"
    assert caplog.text.count("cannot be reached") == 1
    first.down = False
    now[0] = 20
    assert layers.get("k") == b"x"
    assert layers.get("k") == b"x"
    assert MemoryProvider.get(first, "k") == b"x", "it is filled again"
    assert "answers again" in caplog.text

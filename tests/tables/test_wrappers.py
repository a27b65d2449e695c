"""What each wrapper adds: a bound, fewer bytes, secrecy, checks, figures."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from kept import Kept

from datalayer.contracts.provider import Adding, Expiring, Native, Scannable
from datalayer.errors import ConfigError, DecodeError, EncodeError
from datalayer.tables import (
    Bounded,
    Compressed,
    Encrypted,
    Measured,
    MemoryProvider,
    StoreProvider,
    Validated,
)

KEYS = {"k2": secrets.token_bytes(32), "k1": secrets.token_bytes(32)}
TEXT = b"something that repeats itself, " * 50


# -- abilities -------------------------------------------------------------------------------------------------------


def test_a_wrapper_can_do_what_the_inner_provider_can_and_no_more() -> None:
    store = Kept()

    class Plain:
        put, get, delete, exists, close = store.put, store.get, store.delete, store.exists, store.close

    full, plain = Compressed(MemoryProvider()), Compressed(StoreProvider(Plain()))
    assert isinstance(full, Compressed)
    assert all(isinstance(full, ability) for ability in (Scannable, Expiring, Adding))
    assert not isinstance(full, Native)
    assert not any(isinstance(plain, ability) for ability in (Scannable, Expiring, Adding))
    assert isinstance(plain, Native)


def test_wrappers_may_be_wrapped() -> None:
    store = Kept()
    outer = Validated(Compressed(Encrypted(StoreProvider(store), keys=KEYS)), max_value_bytes=10_000)
    outer.set("k", TEXT)
    assert outer.get("k") == TEXT
    assert isinstance(outer, Scannable)
    assert list(outer.keys()) == ["k"]
    outer.close()
    assert store.closed


# -- encrypted -------------------------------------------------------------------------------------------------------


def test_the_inner_provider_sees_ciphertext_only() -> None:
    inner = MemoryProvider()
    outer = Encrypted(inner, keys=KEYS)
    outer.set("k", TEXT)
    outer.set("same", TEXT)
    stored = inner.get("k")
    assert stored is not None
    assert TEXT[:10] not in stored
    assert stored != inner.get("same")
    assert outer.get("k") == TEXT


@pytest.mark.parametrize("position", [0, 1, 3, 10, -1])
def test_a_changed_value_is_noticed(position: int) -> None:
    inner = MemoryProvider()
    outer = Encrypted(inner, keys=KEYS)
    outer.set("k", b"secret")
    stored = bytearray(inner.get("k") or b"")
    stored[position] ^= 1
    inner.set("k", bytes(stored))
    with pytest.raises(DecodeError, match="'k'"):
        outer.get("k")
    with pytest.raises(DecodeError):
        outer.get_many(["k"])


def test_a_moved_a_foreign_and_a_plain_value_are_noticed() -> None:
    inner = MemoryProvider()
    outer = Encrypted(inner, keys=KEYS)
    outer.set("k", b"secret")
    inner.set("moved", inner.get("k") or b"")
    Encrypted(inner, keys={"k2": secrets.token_bytes(32)}).set("foreign", b"x")
    Encrypted(inner, keys={"k9": secrets.token_bytes(32)}).set("unknown", b"x")
    inner.set("plain", b"plain")
    inner.set("empty", b"")
    for key in ("moved", "foreign", "unknown", "plain", "empty"):
        with pytest.raises(DecodeError, match=f"'{key}'"):
            outer.get(key)


def test_an_older_key_still_reads_and_the_first_one_writes() -> None:
    inner = MemoryProvider()
    Encrypted(inner, keys={"k1": KEYS["k1"]}).set("old", b"x")
    both = Encrypted(inner, keys=KEYS)
    assert both.get("old") == b"x"
    both.set("new", b"y")
    assert Encrypted(inner, keys={"k2": KEYS["k2"]}).get("new") == b"y"


@pytest.mark.parametrize("keys", [{}, {"k": b"short"}, {"": bytes(32)}])
def test_keys_that_are_none_are_refused_without_showing_them(keys: dict[str, bytes]) -> None:
    with pytest.raises(ConfigError) as caught:
        Encrypted(MemoryProvider(), keys=keys)
    assert "short" not in str(caught.value)


def test_no_key_is_shown() -> None:
    assert all(str(key) not in repr(Encrypted(MemoryProvider(), keys=KEYS)) for key in KEYS.values())


# -- compressed ------------------------------------------------------------------------------------------------------


def test_large_values_get_smaller_and_others_are_left_alone() -> None:
    inner = MemoryProvider()
    outer = Compressed(inner, min_bytes=100)
    noise = secrets.token_bytes(1000)
    outer.set_many({"text": TEXT, "short": b"aaaaaaaaaa", "noise": noise})
    assert len(inner.get("text") or b"") < len(TEXT) / 10
    assert inner.get("short") == b"\x00aaaaaaaaaa"
    assert inner.get("noise") == b"\x00" + noise
    assert outer.get_many(["text", "short", "noise"]) == {"text": TEXT, "short": b"aaaaaaaaaa", "noise": noise}


def test_a_small_value_that_claims_to_be_huge_is_refused() -> None:
    inner = MemoryProvider()
    Compressed(inner).set("bomb", bytes(10_000_000))
    assert len(inner.get("bomb") or b"") < 20_000
    with pytest.raises(DecodeError, match="too large"):
        Compressed(inner, max_bytes=1 << 20).get("bomb")
    with pytest.raises(EncodeError, match="max_bytes"):
        Compressed(inner, max_bytes=1 << 20).set("k", bytes(10_000_000))


@pytest.mark.parametrize("stored", [b"", b"\x02x", b"\x01", b"\x01nonsense", b"\x01x\x9c"])
def test_damaged_values_are_noticed(stored: bytes) -> None:
    inner = MemoryProvider()
    inner.set("k", stored)
    with pytest.raises(DecodeError, match="'k'"):
        Compressed(inner).get("k")


# -- validated -------------------------------------------------------------------------------------------------------


def test_a_check_refuses_before_storing_and_after_reading() -> None:
    inner = MemoryProvider()
    outer = Validated(inner, check=lambda key, value: value.startswith(b"{"), max_value_bytes=10)
    outer.set("k", b"{}")
    for wrong in (b"no", b"{          }"):
        with pytest.raises(EncodeError, match="refused"):
            outer.set("k", wrong)
        with pytest.raises(EncodeError):
            outer.set_many({"other": b"{}", "k": wrong})
    assert inner.get("other") is None
    assert outer.get("k") == b"{}"
    inner.set("k", b"bad")
    with pytest.raises(DecodeError, match="fails"):
        outer.get("k")


# -- bounded and memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eviction", "victim"), [("lru", "b"), ("fifo", "a"), ("lfu", "b")])
def test_the_policy_picks_the_victim(eviction: str, victim: str) -> None:
    inner = MemoryProvider()
    bounded = Bounded(inner, max_entries=3, eviction=eviction)
    memory = MemoryProvider(max_entries=3, eviction=eviction)
    for provider in (bounded, memory):
        for key in "abc":
            provider.set(key, b"x")
        for key in ("a", "a", "c"):
            provider.get(key)
        provider.set("d", b"x")
        assert {key for key in "abcd" if not provider.exists(key)} == {victim}
        assert provider.evictions == 1
    assert sorted(inner.keys()) == sorted(set("abcd") - {victim})


def test_room_may_be_made_by_what_ends_soonest() -> None:
    bounded: Any = Bounded(MemoryProvider(), max_entries=3, eviction="ttl")
    memory: Any = MemoryProvider(max_entries=3, eviction="ttl")
    for provider in (bounded, memory):
        provider.set("ever", b"x")
        provider.set("hour", b"x", 3600)
        provider.set("day", b"x", 86_400)
        provider.set("hour", b"x", 172_800)  # now two days: what it had before counts no more
        assert provider.add("minute", b"x", 60) is True
        assert not provider.exists("day")
        provider.set_many({"a": b"x", "b": b"x"}, 90_000)
        assert sorted(provider.keys()) == ["b", "ever", "hour"]
        provider.set_many({"never": b"x", "nevermore": b"x"})
        assert sorted(provider.keys()) == ["ever", "never", "nevermore"]
        provider.set("again", b"x")
        assert not provider.exists("ever"), "of those without an end the oldest goes"
        assert provider.evictions == 6


def test_what_ends_soonest_is_found_without_remembering_everything() -> None:
    memory = MemoryProvider(max_entries=5, eviction="ttl", clock=lambda: 0.0)
    for number in range(10_000):
        memory.set(f"{number % 3}", b"x", 1 + number % 7)
    assert len(memory._cache._ends) < 100  # type: ignore[attr-defined]
    assert len(memory) == 3


def test_a_bound_in_bytes_counts_keys_and_values() -> None:
    inner = MemoryProvider()
    bounded = Bounded(inner, max_bytes=100)
    memory = MemoryProvider(max_bytes=100)
    for provider in (bounded, memory):
        provider.set_many({f"{number}": b"x" * 29 for number in range(5)})
        assert [provider.exists(f"{number}") for number in range(5)] == [False, False, True, True, True]
        provider.set("4", b"x" * 89)
        assert [provider.exists(f"{number}") for number in range(5)] == [False, False, False, False, True]
    assert memory.size == 90
    with pytest.raises(EncodeError, match="max_bytes"):
        bounded.set("big", b"x" * 100)
    memory.set("4", b"x" * 200)
    assert memory.get("4") is None, "a value that is too large replaces the old one by nothing"


def test_what_is_deleted_or_cleared_counts_no_more() -> None:
    bounded: Any = Bounded(MemoryProvider(), max_entries=4)
    bounded.set_many(dict.fromkeys("abcd", b"x"))
    bounded.delete("a")
    bounded.delete_many(["b"])
    bounded.clear("c")
    bounded.set_many(dict.fromkeys("xyz", b"x"))
    assert bounded.exists("d")
    assert bounded.add("w", b"x") is True
    assert not bounded.exists("d")
    assert bounded.evictions == 1


def test_dead_values_make_room_before_living_ones() -> None:
    now = [0.0]
    memory = MemoryProvider(max_entries=2, clock=lambda: now[0])
    memory.set("old", b"x")
    memory.set("dead", b"x", 1)
    now[0] = 2
    memory.set("new", b"x")
    assert memory.exists("old")
    assert memory.evictions == 0


def test_lives_that_were_replaced_leave_no_trace() -> None:
    memory = MemoryProvider(clock=lambda: 0.0)
    for _ in range(10_000):
        memory.set("k", b"x", 60)
    assert len(memory._deaths) < 100
    assert len(memory) == 1


@pytest.mark.parametrize("options", [{}, {"max_entries": 1, "eviction": "best"}])
def test_a_bound_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Bounded(MemoryProvider(), **options)
    with pytest.raises(ConfigError):
        MemoryProvider(max_entries=0)


# -- measured --------------------------------------------------------------------------------------------------------


class Heard:
    """A recorder that keeps all that it hears."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def hit(self, *args: Any) -> None:
        self.all.append(("hit", *args))

    def miss(self, *args: Any) -> None:
        self.all.append(("miss", *args))

    def latency(self, tier: str, operation: str, seconds: float) -> None:
        assert seconds >= 0
        self.all.append(("latency", tier, operation))

    def age(self, *args: Any) -> None: ...

    def error(self, *args: Any) -> None:
        self.all.append(("error", *args))

    def evicted(self, *args: Any) -> None: ...


def test_hits_misses_latencies_and_errors_are_told_by_table() -> None:
    heard = Heard()
    provider = Measured(MemoryProvider(), heard, name="cache")
    provider.set("app:users:1", b"x")
    provider.get("app:users:1")
    provider.get("app:teams:1")
    provider.get_many(["app:users:1", "app:users:2", "app:teams:3"])
    with pytest.raises(ConfigError):
        provider.set("app:users:1", b"x", -1)
    assert heard.all == [
        ("latency", "cache", "set"),
        ("latency", "cache", "get"),
        ("hit", "cache", "users"),
        ("latency", "cache", "get"),
        ("miss", "cache", "teams"),
        ("latency", "cache", "get_many"),
        ("hit", "cache", "users", 1),
        ("miss", "cache", "users", 1),
        ("miss", "cache", "teams", 1),
        ("error", "cache", "ConfigError"),
        ("latency", "cache", "set"),
    ]

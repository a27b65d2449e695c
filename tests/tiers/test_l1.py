"""L1: bounds, lives, policies, and readers that take no lock."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalayer.errors import ConfigError
from datalayer.tiers.l1 import L1, POLICIES, estimate_size


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(**options: object) -> L1:
    return L1(**{"max_entries": 3, "ttl": 10.0, "jitter": 0.0, "clock": Clock()} | options)  # type: ignore[arg-type]


def read(l1: L1, key: object) -> object:
    entry = l1.index.get(key)  # type: ignore[call-overload]
    if entry is None or entry.deadline <= l1.clock():
        return None
    entry.hits += 1
    return entry.value


@pytest.mark.parametrize("policy", POLICIES)
@given(steps=st.lists(st.tuples(st.sampled_from("pdrtc"), st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_the_invariants_hold_after_every_step(policy: str, steps: list[tuple[str, int, int]]) -> None:
    l1 = make(eviction=policy, max_entries=4, max_bytes=120)
    for step, key, size in steps:
        if step == "p":
            l1.put(key, key, size=size * 3)
        elif step == "d":
            l1.drop(key)
        elif step == "r":
            assert read(l1, key) in (None, key)
        elif step == "t":
            l1.clock.now += size / 10  # type: ignore[attr-defined]
        else:
            l1.clear()
        l1.check()


def test_what_was_read_survives_what_was_not() -> None:
    l1 = make()
    for key in "abc":
        l1.put(key, key)
    read(l1, "a")
    l1.put("d", "d")
    assert set(l1.index) == {"a", "c", "d"}
    assert l1.evictions == 1


def test_fifo_forgets_the_oldest_however_often_it_is_read() -> None:
    l1 = make(eviction="fifo")
    for key in "abc":
        l1.put(key, key)
    read(l1, "a")
    l1.put("d", "d")
    assert set(l1.index) == {"b", "c", "d"}


def test_lfu_forgets_the_least_read() -> None:
    l1 = make(eviction="lfu")
    for key in "abc":
        l1.put(key, key)
    for key in "aabccc":
        read(l1, key)
    l1.put("d", "d")
    assert set(l1.index) == {"a", "c", "d"}


def test_ttl_forgets_the_nearest_to_its_end() -> None:
    l1 = make(eviction="ttl")
    for key, ttl in (("a", 9), ("b", 2), ("c", 5)):
        l1.put(key, key, ttl=ttl)
    l1.put("d", "d")
    assert set(l1.index) == {"a", "c", "d"}


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'random'.*lru, lfu, fifo, ttl"):
        make(eviction="random")


def test_a_value_dies_at_its_deadline_and_never_outlives_what_it_came_from() -> None:
    l1 = make()
    l1.put("a", 1)
    l1.put("b", 2, max_life=1.0)
    l1.clock.now = 1.0  # type: ignore[attr-defined]
    assert (read(l1, "a"), read(l1, "b")) == (1, None)
    l1.clock.now = 10.0  # type: ignore[attr-defined]
    assert read(l1, "a") is None


def test_jitter_only_shortens() -> None:
    l1 = make(jitter=0.5, max_entries=200)
    for key in range(100):
        l1.put(key, key)
    lives = [entry.deadline for entry in l1.index.values()]
    assert all(5.0 <= life <= 10.0 for life in lives)
    assert len(set(lives)) > 50


def test_dead_entries_are_freed_by_later_puts() -> None:
    l1 = make(max_entries=1000)
    for key in range(100):
        l1.put(key, key)
    l1.clock.now = 100.0  # type: ignore[attr-defined]
    for key in range(100, 160):
        l1.put(key, key)
    assert len(l1) == 60


def test_a_value_larger_than_the_bound_is_not_kept_and_replaces_nothing_stale() -> None:
    l1 = make(max_bytes=100)
    l1.put("a", 1, size=50)
    l1.put("a", 2, size=101)
    assert "a" not in l1.index


def test_hits_are_counted_across_evictions_and_drops() -> None:
    l1 = make()
    for key in range(5):
        l1.put(key, key)
        read(l1, key)
        read(l1, key)
    l1.drop(4)
    assert l1.hits == 10


def test_clear_keeps_the_index_that_readers_hold() -> None:
    l1 = make()
    index = l1.index
    l1.put("a", 1)
    l1.clear()
    assert l1.index is index
    assert not index


def test_readers_without_a_lock_meet_no_error_while_others_write() -> None:
    l1 = L1(max_entries=50, ttl=10.0, eviction="lru")
    stop, errors = threading.Event(), []

    def reader() -> None:
        try:
            while not stop.is_set():
                for key in range(100):
                    entry = l1.index.get(key)
                    if entry is not None and entry.deadline > l1.clock():
                        entry.hits += 1
                        assert entry.value == key
        except Exception as error:  # the test reports it
            errors.append(error)

    def writer(seed: int) -> None:
        draw = random.Random(seed)
        try:
            for _ in range(3000):
                key = draw.randrange(100)
                draw.choice((lambda k: l1.put(k, k), l1.drop, lambda k: l1.put(k, k)))(key)
        except Exception as error:  # the test reports it
            errors.append(error)

    readers = [threading.Thread(target=reader) for _ in range(2)]
    writers = [threading.Thread(target=writer, args=(seed,)) for seed in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert errors == []
    l1.check()


def test_the_clock_keeps_at_least_as_much_of_a_skewed_load_as_lru(rng: random.Random) -> None:
    weights = [1 / (rank + 1) ** 0.9 for rank in range(2000)]
    load = rng.choices(range(2000), weights, k=30_000)
    l1 = L1(max_entries=200, ttl=1e9)
    lru: OrderedDict[int, None] = OrderedDict()
    hits = exact = 0
    for key in load:
        if read(l1, key) is None:
            l1.put(key, key)
        else:
            hits += 1
        if key in lru:
            exact += 1
            lru.move_to_end(key)
        else:
            lru[key] = None
            if len(lru) > 200:
                lru.popitem(last=False)
    assert hits >= 0.97 * exact


def test_sizes_grow_with_what_a_row_holds() -> None:
    small, large = {"a": "x"}, {"a": "x" * 1000}
    assert estimate_size(large) - estimate_size(small) == 999
    assert estimate_size(tuple(small.values())) > 160

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from datalayer.errors import ConfigError
from datalayer.models.hooks import Hooks
from datalayer.models.policy import CachePolicy, Eviction, Index, L1Policy, L2Policy, WriteMode, policy_of


def test_durations_become_seconds_and_names_become_members():
    l1 = L1Policy(ttl="1m", max_entries=10_000, eviction="lru")
    policy = CachePolicy(l1=l1, l2=L2Policy(ttl="30m"), write_mode="behind", negative_ttl=2)
    assert (policy.l1.ttl, policy.l2.ttl, policy.negative_ttl) == (60.0, 1800.0, 2.0)
    assert (policy.l1.eviction, policy.write_mode) == (Eviction.LRU, WriteMode.BEHIND)


def test_everything_is_left_to_the_settings_by_default():
    policy = CachePolicy()
    assert (policy.enabled, policy.l1, policy.l2) == (True, L1Policy(), L2Policy())
    assert (policy.l1.ttl, policy.l1.eviction, policy.l2.ttl, policy.write_mode, policy.negative_ttl) == (None,) * 5
    assert (policy.l2_plaintext, policy.commit_wait, policy.external_writes) == (False,) * 3


def test_policies_cannot_be_changed_and_are_equal_by_value():
    assert CachePolicy(l1=L1Policy(ttl="1m")) == CachePolicy(l1=L1Policy(ttl=60))
    assert hash(CachePolicy(indexes=[Index("a")])) == hash(CachePolicy(indexes=(Index("a"),)))  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        CachePolicy().enabled = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CachePolicy(write_moed="behind"), "did you mean 'write_mode'"),
        (lambda: L1Policy(max_entrys=1), "L1Policy: unknown option 'max_entrys'; did you mean 'max_entries'"),
        (lambda: L2Policy(prefix="x"), "did you mean 'key_prefix'"),
        (lambda: Index("a", uniqe=True), "did you mean 'unique'"),
        (lambda: L1Policy(ttl=0), r"L1Policy\.ttl is 0, expected more than 0"),
        (lambda: L1Policy(ttl="soon"), r"L1Policy\.ttl"),
        (lambda: L1Policy(max_entries=0), "max_entries is 0"),
        (lambda: L1Policy(max_bytes=True), "max_bytes is True"),
        (lambda: L1Policy(max_entries=1.5), "whole number"),
        (lambda: L1Policy(eviction="lur"), "did you mean 'lru'"),
        (lambda: L1Policy(eviction=3), "eviction is 3"),
        (lambda: L1Policy(enabled=1), "enabled is a int, expected True or False"),
        (lambda: L1Policy(enabled=False, ttl=5), "ttl given with enabled=False"),
        (lambda: L2Policy(enabled=False, key_prefix="x"), "key_prefix given with enabled=False"),
        (lambda: L2Policy(key_prefix=""), "key_prefix is empty"),
        (lambda: CachePolicy(l1=L2Policy()), "l1 is a L2Policy, expected L1Policy"),
        (lambda: CachePolicy(l2="30m"), "l2 is a str, expected L2Policy"),
        (lambda: CachePolicy(hooks={}), "hooks is a dict, expected Hooks"),
        (lambda: CachePolicy(indexes=("a",)), "expected a tuple of Index"),
        (lambda: CachePolicy(indexes="ab"), "expected a tuple of Index"),
        (lambda: CachePolicy(indexes=Index("a")), "expected a tuple of Index"),
        (lambda: CachePolicy(cache_scope="tenant"), "cache_scope is a str, expected a callable"),
        (lambda: CachePolicy(write_mode="trough"), "did you mean 'through'"),
        (lambda: CachePolicy(commit_wait=True, write_mode=WriteMode.BEHIND), "write_mode is BEHIND"),
        (lambda: CachePolicy(commit_wait=True, l1=L1Policy(enabled=False)), "L1 is switched off"),
        (lambda: CachePolicy(negative_ttl=5, enabled=False), "both caches are switched off"),
        (lambda: CachePolicy(l2_plaintext=True, l2=L2Policy(enabled=False)), "L2 is switched off"),
        (lambda: Index(), "expected names"),
        (lambda: Index("a", "a"), "each column once"),
        (lambda: Index("a", unique="yes"), "expected True or False"),
    ],
)
def test_unknown_wrong_and_contradictory_options_are_refused(make: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_wrong_replica_is_not_shown_because_it_may_hold_a_password():
    with pytest.raises(ConfigError) as raised:
        CachePolicy(read_replica=b"postgresql://u:geheim@h/db")  # type: ignore[arg-type]
    assert "geheim" not in str(raised.value)


def test_the_replica_is_not_in_the_repr():
    assert "geheim" not in repr(CachePolicy(read_replica="postgresql://u:geheim@h/db"))


def test_a_policy_is_inherited_and_can_be_replaced():
    class Base:
        __cache__ = CachePolicy(l1=L1Policy(ttl=1))

    class Same(Base):
        pass

    class Other(Base):
        __cache__ = CachePolicy(enabled=False)

    class Plain:
        pass

    assert policy_of(Same) is Base.__cache__
    assert not policy_of(Other).enabled
    assert policy_of(Plain) == CachePolicy()


@pytest.mark.parametrize("found", [False, "off", {"enabled": False}, CachePolicy])
def test_anything_else_in_cache_is_refused(found: Any):
    with pytest.raises(ConfigError, match=r"Thing\.__cache__: found a \w+, expected CachePolicy"):
        policy_of(type("Thing", (), {"__cache__": found}))


def test_hooks_are_part_of_a_policy():
    hooks = Hooks(before_set=print)
    assert CachePolicy(hooks=hooks).hooks is hooks

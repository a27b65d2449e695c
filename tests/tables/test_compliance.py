"""Each rule of the providers' suite can fail: for every one there is a provider that breaks it and little else."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest

from datalayer.errors import UnavailableError
from datalayer.tables import MemoryProvider
from datalayer.tables.checks import check_key, check_ttl
from datalayer.testing.compliance.provider import ProviderCompliance


class Fewer:
    """No provider: there is only a get."""

    def get(self, key: str) -> bytes | None:
        return None

    def close(self) -> None:
        """Nothing to close."""


class Textual(MemoryProvider):
    def get(self, key: str) -> Any:
        found = super().get(key)
        return None if found is None else found.rstrip(b"\x00")


class Raising(MemoryProvider):
    def get(self, key: str) -> bytes | None:
        found = super().get(key)
        assert found is not None, f"no {key}"
        return found


class Falsy(MemoryProvider):
    def get(self, key: str) -> bytes | None:
        return super().get(key) or None


class Stubborn(MemoryProvider):
    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.add(key, value, ttl)


class Agreeing(MemoryProvider):
    def delete(self, key: str) -> bool:
        return super().delete(key) or True


class Folding(MemoryProvider):
    def get(self, key: str) -> bytes | None:
        return super().get(key.lower())

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        super().set(key.lower(), value, ttl)


class Lenient(MemoryProvider):
    def get(self, key: str) -> bytes | None:
        return super().get(key) if isinstance(key, str) and key else None


class Converting(MemoryProvider):
    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        super().set(key, value if isinstance(value, bytes) else str(value).encode(), ttl)


class FirstOnly(MemoryProvider):
    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        super().set_many(dict(list(items.items())[:1000]), ttl)


class Repeating(MemoryProvider):
    def delete_many(self, keys: Iterable[str]) -> int:
        picked = list(keys)
        super().delete_many(picked)
        return len(picked)


class NeedsOne(MemoryProvider):
    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        picked = list(keys)
        assert picked, "MGET needs a key"
        return super().get_many(picked)


class Walking(MemoryProvider):
    def get_many(self, keys: Any) -> dict[str, bytes]:
        return super().get_many([keys[n] for n in range(len(keys))])


class Splitting(MemoryProvider):
    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        super().set_many({key.split("\r\n")[0]: value for key, value in items.items()}, ttl)


class Endless(MemoryProvider):
    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        super().set_many(items, None if check_ttl(ttl) is None else 3600)


class Clinging(MemoryProvider):
    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        left = self.ttl(key)
        super().set(key, value, left if left is not None and left < math.inf and ttl is None else ttl)


class Obliging(MemoryProvider):
    def set(self, key: str, value: bytes, ttl: Any = None) -> None:
        super().set(key, value, 1.0 if ttl == 0 else ttl)


class Unsure(MemoryProvider):
    def ttl(self, key: str) -> float | None:
        found = super().ttl(key)
        return None if found == math.inf else found


class Paging(MemoryProvider):
    def keys(self, prefix: str = "") -> Iterator[str]:
        return iter(list(super().keys(prefix))[:1000])


class Quoting(MemoryProvider):
    def keys(self, prefix: str = "") -> Iterator[str]:
        return (key.replace("%", "%25") for key in super().keys(prefix))


class Remembering(MemoryProvider):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.seen.add(key)
        super().set(key, value, ttl)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return iter({key for key in self.seen if key.startswith(prefix)})


class Globbing(MemoryProvider):
    def keys(self, prefix: str = "") -> Iterator[str]:
        return super().keys(prefix.partition("*")[0])


class Thorough(MemoryProvider):
    def clear(self, prefix: str = "") -> int:
        return super().clear(prefix.rstrip(":"))


class Fragile(MemoryProvider):
    def keys(self, prefix: str = "") -> Iterator[str]:
        before = set(super().keys())
        for key in super().keys(prefix):
            assert set(super().keys()) == before, "changed during iteration"
            yield key


class Overwriting(MemoryProvider):
    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        was = self.exists(key)
        self.set(key, value, ttl)
        return not was


class Racing(MemoryProvider):
    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        if self.exists(key):
            return False
        time.sleep(0.002)
        self.set(key, value, ttl)
        return True


class Bare(MemoryProvider):
    native: Any = None


class Sharing(MemoryProvider):
    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.current = check_key(key)
        time.sleep(0)
        super().set(self.current, value, ttl)


class Immortal(MemoryProvider):
    def get(self, key: str) -> bytes | None:
        try:
            return super().get(key)
        except UnavailableError:
            return None


BROKEN: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "test_is_a_provider": (Fewer, ()),
    "test_what_was_set_comes_back_byte_by_byte": (Textual, ()),
    "test_an_absent_key_is_an_answer_and_no_error": (Raising, ()),
    "test_an_empty_value_is_not_an_absent_one": (Falsy, ()),
    "test_a_second_set_replaces_the_first": (Stubborn, ()),
    "test_a_delete_says_whether_there_was_something": (Agreeing, ()),
    "test_keys_that_differ_are_different_keys": (Folding, ()),
    "test_what_is_no_key_is_refused": (Lenient, ("",)),
    "test_what_is_no_bytes_is_refused_and_changes_nothing": (Converting, ("text",)),
    "test_many_keys_are_as_one_after_the_other": (FirstOnly, ()),
    "test_a_key_that_is_named_twice_counts_once": (Repeating, ()),
    "test_no_keys_are_many_too": (NeedsOne, ()),
    "test_many_keys_may_come_from_any_iterable": (Walking, ()),
    "test_odd_keys_may_come_together": (Splitting, ()),
    "test_a_value_dies_when_its_life_ends": (Endless, ()),
    "test_a_set_replaces_the_life_together_with_the_value": (Clinging, ()),
    "test_what_is_no_life_is_refused_and_changes_nothing": (Obliging, (0,)),
    "test_says_how_long_a_value_has_left": (Unsure, ()),
    "test_lists_the_keys_of_a_prefix_each_once": (Paging, ()),
    "test_lists_odd_keys_as_they_are": (Quoting, ()),
    "test_lists_no_dead_keys": (Remembering, ()),
    "test_takes_a_prefix_literally": (Globbing, ("a*",)),
    "test_clears_a_prefix_and_nothing_else": (Thorough, ()),
    "test_may_be_written_while_its_keys_are_listed": (Fragile, ()),
    "test_adds_only_where_there_is_nothing": (Overwriting, ()),
    "test_of_several_who_add_at_once_one_succeeds": (Racing, ()),
    "test_shows_its_native_client": (Bare, ()),
    "test_may_be_used_by_many_threads": (Sharing, ()),
    "test_ends_with_close_which_may_be_called_twice": (Immortal, ()),
}


def test_every_rule_has_a_provider_that_breaks_it() -> None:
    assert BROKEN.keys() == {name for name in dir(ProviderCompliance) if name.startswith("test_")}


@pytest.mark.parametrize("rule", BROKEN)
def test_the_rule_is_noticed_when_it_is_broken(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datalayer.testing.compliance.provider._PATIENCE", 0.3)
    make, extra = BROKEN[rule]
    check = getattr(ProviderCompliance(), rule)
    arguments = [make(), *(("space:",) if "space" in inspect.signature(check).parameters else ()), *extra]
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(*arguments)


@pytest.mark.parametrize("rule", BROKEN)
def test_the_rule_is_content_with_a_right_provider(rule: str) -> None:
    _, extra = BROKEN[rule]
    check = getattr(ProviderCompliance(), rule)
    arguments = [*(("space:",) if "space" in inspect.signature(check).parameters else ()), *extra]
    try:
        check(MemoryProvider(), *arguments)
    except pytest.skip.Exception:
        assert rule == "test_shows_its_native_client"

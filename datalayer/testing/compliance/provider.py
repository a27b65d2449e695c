"""The rules of :class:`~datalayer.contracts.provider.Provider` and its rarer abilities, as a suite to subclass::

    class TestMine(ProviderCompliance):
        def make(self) -> Provider:
            return MyProvider()

Rules for abilities that a provider does not have are skipped.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from datalayer.contracts.provider import Adding, Expiring, Native, Provider, Scannable
from datalayer.errors import ConfigError, EncodeError, UnavailableError

#: Keys that a careless implementation takes for one another, for a pattern, or for a protocol's own characters.
ODD_KEYS = (
    "a", "A", "a ", " a", "a:b", "a\tb", "a\nb", "a\r\nget b", "a\x00b", "*", "?", "a*", "[a]", "a\\", "%61", "a%20",
    "a/../b", "a'b\";--", "ä", "a\u0308", "ß", "ss", "İ", "i", "\U0001f600", "1", "01", "{a}b", "a" * 200,
)  # fmt: skip

_PATIENCE = 10.0


class ProviderCompliance:
    """Subclass it and override :meth:`make`. Every rule gets a new provider, which is closed after it.

    ``shared`` says that what one provider writes, the next one may find, as on a server: the rules then use keys of
    their own. ``ttl_resolution`` is the size in seconds of the smallest step of the provider's clock.
    """

    shared = False
    ttl_resolution = 0.001

    def make(self) -> Provider:
        """A new provider."""
        raise NotImplementedError("a subclass of ProviderCompliance says here how its provider is made")

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """One provider for one rule."""
        made = self.make()
        yield made
        made.close()

    @pytest.fixture
    def space(self) -> str:
        """A prefix that no other rule uses."""
        return f"rule-{secrets.token_hex(4)}:"

    # -- one key ---------------------------------------------------------------------------------------------------

    def test_is_a_provider(self, provider: Provider) -> None:
        assert isinstance(provider, Provider)

    def test_what_was_set_comes_back_byte_by_byte(self, provider: Provider, space: str) -> None:
        for value in (b"x", bytes(range(256)), b"\r\nEND\r\n", b"\x00", b"null", b"1", bytes(100_000)):
            provider.set(space, value)
            found = provider.get(space)
            assert found == value, f"{len(value)} bytes came back as {found!r:.60}"
            assert type(found) is bytes, f"a value came back as {type(found).__name__}"

    def test_an_absent_key_is_an_answer_and_no_error(self, provider: Provider, space: str) -> None:
        assert provider.get(space) is None
        assert provider.exists(space) is False
        assert provider.delete(space) is False

    def test_an_empty_value_is_not_an_absent_one(self, provider: Provider, space: str) -> None:
        provider.set(space, b"")
        assert provider.get(space) == b""
        assert provider.exists(space) is True
        assert provider.get_many([space]) == {space: b""}

    def test_a_second_set_replaces_the_first(self, provider: Provider, space: str) -> None:
        provider.set(space, b"a longer first one")
        provider.set(space, b"second")
        assert provider.get(space) == b"second"

    def test_a_delete_says_whether_there_was_something(self, provider: Provider, space: str) -> None:
        provider.set(space, b"x")
        assert provider.exists(space) is True
        assert provider.delete(space) is True
        assert provider.delete(space) is False
        assert provider.get(space) is None
        assert provider.exists(space) is False

    def test_keys_that_differ_are_different_keys(self, provider: Provider, space: str) -> None:
        for number, key in enumerate(ODD_KEYS):
            provider.set(space + key, b"%d" % number)
        for number, key in enumerate(ODD_KEYS):
            assert provider.get(space + key) == b"%d" % number, f"key {key!r} holds another one's value"

    @pytest.mark.parametrize("key", ["", None, 1, b"bytes", "\ud800"])
    def test_what_is_no_key_is_refused(self, provider: Provider, key: Any) -> None:
        for call in _calls(provider, key, b"x"):
            with pytest.raises(EncodeError):
                call()

    @pytest.mark.parametrize("value", [None, "text", 1, bytearray(b"x"), memoryview(b"x")])
    def test_what_is_no_bytes_is_refused_and_changes_nothing(self, provider: Provider, space: str, value: Any) -> None:
        provider.set(space, b"before")
        with pytest.raises(EncodeError):
            provider.set(space, value)
        with pytest.raises(EncodeError):
            provider.set_many({space: b"after", space + "2": value})
        assert provider.get(space) == b"before"

    # -- many ------------------------------------------------------------------------------------------------------

    def test_many_keys_are_as_one_after_the_other(self, provider: Provider, space: str) -> None:
        items = {f"{space}{number}": b"%d" % number for number in range(1200)}
        provider.set_many(items)
        absent = space + "absent"
        assert provider.get_many([*items, absent, *items]) == items
        assert provider.get(f"{space}7") == b"7"
        some = list(items)[:1100]
        assert provider.delete_many([*some, absent]) == len(some)
        assert provider.get_many(items) == {key: items[key] for key in list(items)[1100:]}

    def test_a_key_that_is_named_twice_counts_once(self, provider: Provider, space: str) -> None:
        provider.set(space, b"x")
        assert provider.delete_many([space, space]) == 1

    def test_no_keys_are_many_too(self, provider: Provider) -> None:
        provider.set_many({})
        assert provider.get_many([]) == {}
        assert provider.delete_many([]) == 0

    def test_many_keys_may_come_from_any_iterable(self, provider: Provider, space: str) -> None:
        provider.set(space, b"x")
        assert provider.get_many(iter([space])) == {space: b"x"}
        assert provider.delete_many(iter([space])) == 1

    def test_odd_keys_may_come_together(self, provider: Provider, space: str) -> None:
        items = {space + key: key.encode() for key in ODD_KEYS}
        provider.set_many(items)
        assert provider.get_many(items) == items
        assert provider.delete_many(items) == len(items)

    # -- lives -----------------------------------------------------------------------------------------------------

    def test_a_value_dies_when_its_life_ends(self, provider: Provider, space: str) -> None:
        life = max(0.05, self.ttl_resolution)
        provider.set(space + "short", b"x", life)
        provider.set_many({space + "many": b"x"}, life)
        provider.set(space + "long", b"x", 3600)
        provider.set(space + "endless", b"x")
        began = time.monotonic()
        for key in (space + "short", space + "many"):
            _until(lambda key=key: provider.get(key) is None, f"{key} is still there")  # type: ignore[misc]
            assert not provider.exists(key)
            assert provider.delete(key) is False
        assert time.monotonic() - began <= life + self.ttl_resolution + 1.0, "a value lived on after its end"
        assert provider.get_many([space + "long", space + "endless"]) == {
            space + "long": b"x",
            space + "endless": b"x",
        }

    def test_a_set_replaces_the_life_together_with_the_value(self, provider: Provider, space: str) -> None:
        life = max(0.05, self.ttl_resolution)
        provider.set(space, b"x", life)
        provider.set(space, b"y")
        provider.set(space + "witness", b"x", life)
        _until(lambda: provider.get(space + "witness") is None, "the witness is still there")
        assert provider.get(space) == b"y"

    @pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, "1", True])
    def test_what_is_no_life_is_refused_and_changes_nothing(self, provider: Provider, space: str, ttl: Any) -> None:
        with pytest.raises(ConfigError):
            provider.set(space, b"x", ttl)
        with pytest.raises(ConfigError):
            provider.set_many({space: b"x"}, ttl)
        assert provider.get(space) is None

    def test_says_how_long_a_value_has_left(self, provider: Provider, space: str) -> None:
        expiring = _able(provider, Expiring)
        provider.set(space + "a", b"x", 100)
        provider.set(space + "b", b"x")
        provider.set(space + "month", b"x", 40 * 86400)
        left, month = expiring.ttl(space + "a"), expiring.ttl(space + "month")
        assert left is not None
        assert 90 < left <= 100 + self.ttl_resolution
        assert month is not None
        assert 40 * 86400 - 10 < month <= 40 * 86400 + self.ttl_resolution
        assert expiring.ttl(space + "b") == math.inf
        assert expiring.ttl(space + "absent") is None
        many = expiring.ttl_many([space + "a", space + "b", space + "absent"])
        assert many.keys() == {space + "a", space + "b"}
        assert many[space + "b"] == math.inf
        assert 90 < many[space + "a"] <= 100 + self.ttl_resolution

    # -- rare abilities --------------------------------------------------------------------------------------------

    def test_lists_the_keys_of_a_prefix_each_once(self, provider: Provider, space: str) -> None:
        scannable = _able(provider, Scannable)
        items = {f"{space}{number}": b"x" for number in range(1300)}
        provider.set_many(items)
        provider.set(f"other-{space}", b"x")
        found = list(scannable.keys(space))
        assert sorted(found) == sorted(items)
        assert sorted(scannable.keys(f"{space}12")) == sorted(key for key in items if key.startswith(f"{space}12"))
        if not self.shared:
            assert sorted(scannable.keys()) == sorted([*items, f"other-{space}"])

    def test_lists_odd_keys_as_they_are(self, provider: Provider, space: str) -> None:
        scannable = _able(provider, Scannable)
        provider.set_many({space + key: b"x" for key in ODD_KEYS})
        assert sorted(scannable.keys(space)) == sorted(space + key for key in ODD_KEYS)

    def test_lists_no_dead_keys(self, provider: Provider, space: str) -> None:
        scannable = _able(provider, Scannable)
        provider.set(space, b"x", max(0.05, self.ttl_resolution))
        _until(lambda: provider.get(space) is None, "the value is still there")
        assert list(scannable.keys(space)) == []

    @pytest.mark.parametrize("prefix", ["a*", "a?", "[ab]", "a\\", "a%", "a_"])
    def test_takes_a_prefix_literally(self, provider: Provider, space: str, prefix: str) -> None:
        scannable = _able(provider, Scannable)
        provider.set_many({f"{space}{start}:1": b"x" for start in (prefix, "ab", "a", "b", "aa")})
        assert list(scannable.keys(f"{space}{prefix}:")) == [f"{space}{prefix}:1"]
        assert scannable.clear(f"{space}{prefix}:") == 1
        assert len(provider.get_many(f"{space}{start}:1" for start in ("ab", "a", "b", "aa"))) == 4

    def test_clears_a_prefix_and_nothing_else(self, provider: Provider, space: str) -> None:
        scannable = _able(provider, Scannable)
        mine = {f"{space}mine:{number}": b"x" for number in range(1300)}
        others = {f"{space}{other}": b"x" for other in ("min", "mine", "mined:1", "Mine:1", "yours:1")}
        provider.set_many(mine)
        provider.set_many(others)
        assert scannable.clear(f"{space}mine:") == len(mine)
        assert provider.get_many(mine) == {}
        assert provider.get_many(others) == others
        assert scannable.clear(f"{space}mine:") == 0

    def test_may_be_written_while_its_keys_are_listed(self, provider: Provider, space: str) -> None:
        scannable = _able(provider, Scannable)
        provider.set_many({f"{space}{number}": b"x" for number in range(700)})
        seen = set()
        for key in scannable.keys(space):
            seen.add(key)
            provider.delete(key)
            provider.set("later-" + key, b"x", 60)
        assert len(seen) == 700
        assert list(scannable.keys(space)) == []

    def test_adds_only_where_there_is_nothing(self, provider: Provider, space: str) -> None:
        adding = _able(provider, Adding)
        assert adding.add(space, b"first") is True
        assert adding.add(space, b"second") is False
        assert provider.get(space) == b"first"
        provider.delete(space)
        assert adding.add(space, b"third", 3600) is True
        assert provider.get(space) == b"third"
        assert adding.add_many({space: b"fourth", space + "2": b"fourth"}, 3600) == 1
        assert provider.get_many([space, space + "2"]) == {space: b"third", space + "2": b"fourth"}

    def test_of_several_who_add_at_once_one_succeeds(self, provider: Provider, space: str) -> None:
        adding = _able(provider, Adding)
        for number in range(20):
            added: list[bool] = []
            _together(8, lambda n: added.append(adding.add(f"{space}{number}", b"%d" % n)))  # noqa: B023
            assert added.count(True) == 1

    def test_shows_its_native_client(self, provider: Provider) -> None:
        assert _able(provider, Native).native is not None

    # -- threads and the end ---------------------------------------------------------------------------------------

    def test_may_be_used_by_many_threads(self, provider: Provider, space: str) -> None:
        values = [bytes([n]) * 2000 for n in range(8)]

        def work(n: int) -> None:
            for turn in range(40):
                provider.set(f"{space}own{n}:{turn}", values[n])
                provider.set(f"{space}common", values[n])
                assert provider.get(f"{space}own{n}:{turn}") == values[n]
                assert provider.get(f"{space}common") in values, "a value is a mixture of two"

        _together(8, work)

    def test_ends_with_close_which_may_be_called_twice(self, provider: Provider, space: str) -> None:
        provider.set(space, b"x")
        provider.close()
        provider.close()
        for call in _calls(provider, space, b"x"):
            with pytest.raises(UnavailableError):
                call()


def _calls(provider: Provider, key: Any, value: bytes) -> list[Callable[[], object]]:
    return [
        lambda: provider.get(key),
        lambda: provider.set(key, value),
        lambda: provider.delete(key),
        lambda: provider.exists(key),
        lambda: provider.get_many([key]),
        lambda: provider.set_many({key: value}),
        lambda: provider.delete_many([key]),
    ]


def _able(provider: Any, ability: Any) -> Any:
    if not isinstance(provider, ability):
        pytest.skip(f"{type(provider).__name__} is not {ability.__name__}")
    return provider


def _until(done: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"{otherwise} after {_PATIENCE:g} s"
        time.sleep(0.005)


def _together(count: int, work: Callable[[int], object]) -> None:
    """Run ``work(0)`` to ``work(count - 1)`` in threads that start at the same moment; raise the first error."""
    errors: list[BaseException] = []
    gate = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            gate.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]

"""Tables and their service: names, lives, patterns, native clients, and providers that change under running calls."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kept import Kept

from datalayer import tables as default
from datalayer.config.env import from_env
from datalayer.errors import ConfigError, EncodeError, UnavailableError
from datalayer.tables import (
    Compressed,
    Layers,
    MemoryProvider,
    RedisProvider,
    StoreProvider,
    Tables,
    register_scheme,
)
from datalayer.tables.patterns import split_pattern


@dataclasses.dataclass
class User:
    id: int
    name: str


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


@pytest.fixture
def tables(provider: MemoryProvider) -> Iterator[Tables]:
    with Tables(provider, key_prefix="app:", default_ttl="1h") as made:
        yield made


def test_a_table_keeps_values_of_its_type(tables: Tables) -> None:
    users = tables.table("users", User)
    ann, bob = User(1, "ann"), User(2, "bob")
    users.set("1", ann)
    users.set_many({"2": bob, "3": bob})
    assert users.get("1") == ann
    assert users.get("1") is not ann
    assert users.get("9") is None
    assert users.get("9", "nobody") == "nobody"
    assert users.get_many(["1", "2", "9"]) == {"1": ann, "2": bob}
    assert users.exists("2")
    assert users.delete("2") is True
    assert users.delete("2") is False
    assert users.delete_many(["1", "2", "3"]) == 2
    assert users.add("1", ann) is True
    assert users.add("1", bob) is False


def test_keys_are_prefixed_by_application_and_table(tables: Tables, provider: MemoryProvider) -> None:
    tables.table("users", str).set("1", "x")
    tables.table("teams", str).set("1", "y")
    assert sorted(provider.keys()) == ["app:teams:1", "app:users:1"]


@pytest.mark.parametrize("name", ["", "a:b", None, 1])
def test_a_name_that_could_reach_into_another_table_is_refused(tables: Tables, name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        tables.table(name, str)


def test_lives_come_from_the_call_then_the_table_then_the_service(tables: Tables) -> None:
    plain, short = tables.table("plain", str), tables.table("short", str, ttl="5m")
    plain.set("a", "x")
    short.set("a", "x")
    short.set("b", "x", ttl=None)
    short.set("c", "x", ttl=10)
    short.set_many({"d": "x"}, ttl="20s")
    left = {"plain": plain.ttl("a"), **{key: short.ttl(key) for key in "abcd"}}
    expected = {"plain": 3600, "a": 300, "b": math.inf, "c": 10, "d": 20}
    assert {key: round(seconds) if seconds and seconds < math.inf else seconds for key, seconds in left.items()} == (
        expected
    )
    assert short.ttl("absent") is None


@pytest.mark.parametrize("ttl", [0, -1, "nonsense", math.nan])
def test_a_life_that_is_none_is_refused(tables: Tables, ttl: Any) -> None:
    with pytest.raises(ConfigError):
        tables.table("t", str, ttl=ttl)
    with pytest.raises(ConfigError):
        tables.table("t", str).set("k", "x", ttl=ttl)


def test_keys_are_listed_by_pattern_and_cleared_without_their_neighbours(tables: Tables) -> None:
    users, others = tables.table("users", str), tables.table("users2", str)
    users.set_many(dict.fromkeys(["ann", "anna", "bob", "a*", "a[b]", "ä"], "x"))
    others.set("ann", "x")
    assert sorted(users.keys()) == sorted(["ann", "anna", "bob", "a*", "a[b]", "ä"])
    assert sorted(users.keys("ann*")) == ["ann", "anna"]
    assert sorted(users.keys("a\\*")) == ["a*"]
    assert sorted(users.keys("a\\[b]")) == ["a[b]"]
    assert sorted(users.keys("?")) == ["ä"]
    assert sorted(users.keys("[ab]*b")) == ["bob"]
    assert users.clear("ann*") == 2
    assert users.clear() == 4
    assert list(users.keys()) == []
    assert list(others.keys()) == ["ann"]


@pytest.mark.parametrize(
    ("pattern", "prefix", "matching", "failing"),
    [
        ("*", "", ["", "a", "\n"], []),
        ("abc", "abc", ["abc"], ["abcd", "ab"]),
        ("a?c", "a", ["abc", "a\nc", "a\U0001f600c"], ["ac", "abbc"]),
        ("a[b-d]", "a", ["ab", "ac", "ad"], ["ae", "a-"]),
        ("a[^b]", "a", ["ac", "a^"], ["ab", "a"]),
        ("a\\*b*", "a*b", ["a*b", "a*bc"], ["aXb"]),
        ("[]-a]", "", [], ["x"]),
        ("a.c+", "a.c+", ["a.c+"], ["abc+", "a.cc"]),
        ("[a\\]]", "", ["a", "]"], ["\\"]),
    ],
)
def test_a_pattern_means_the_same_for_every_provider(
    pattern: str, prefix: str, matching: list[str], failing: list[str]
) -> None:
    if pattern.startswith("[]"):
        with pytest.raises(ConfigError):
            split_pattern(pattern)
        return
    start, matches = split_pattern(pattern)
    assert start == prefix
    assert all(matches(key) for key in matching)
    assert not any(matches(key) for key in failing)


@pytest.mark.parametrize("pattern", ["a[", "a\\", "[", "[a"])
def test_a_pattern_that_breaks_off_is_refused(tables: Tables, pattern: str) -> None:
    with pytest.raises(ConfigError, match="breaks off"):
        list(tables.table("t", str).keys(pattern))


def test_a_batch_with_one_value_that_cannot_be_encoded_stores_nothing(tables: Tables) -> None:
    users = tables.table("users", User)
    with pytest.raises(EncodeError, match="users, key '2'"):
        users.set_many({"1": User(1, "a"), "2": "no user"})  # type: ignore[dict-item]
    assert list(users.keys()) == []


def test_a_provider_without_an_ability_is_named_in_the_error() -> None:
    with Tables(StoreProvider(_plain_store())) as tables:
        table = tables.table("t", str)
        table.set("k", "x")
        for call in (lambda: list(table.keys()), table.clear, lambda: table.ttl("k"), lambda: table.add("k", "x")):
            with pytest.raises(ConfigError, match="StoreProvider"):
                call()


def _plain_store() -> Any:
    kept = Kept()

    class Plain:
        put, get, delete, exists, close = kept.put, kept.get, kept.delete, kept.exists, kept.close

    return Plain()


# -- native ----------------------------------------------------------------------------------------------------------


def test_the_native_client_is_given_as_the_type_that_is_asked_for(redis_url: str) -> None:
    with Tables(RedisProvider(redis_url)) as tables:
        client = tables.native(redis.Redis)
        client.sadd("active", "1")
        assert client.smembers("active") == {b"1"}
        assert isinstance(tables.native(RedisProvider), RedisProvider)
        with pytest.raises(ConfigError, match="MemoryProvider"):
            tables.native(MemoryProvider)


def test_a_wrapper_shows_the_native_client_of_what_it_wraps() -> None:
    store = Kept()
    with Tables(Compressed(StoreProvider(store))) as tables:
        assert tables.native(Kept) is store


def test_a_client_that_was_given_is_left_open(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        with Tables(RedisProvider(client)) as tables:
            tables.table("t", str).set("k", "x")
        assert client.get("t:k") == b"x"
    with redis.Redis.from_url(redis_url, decode_responses=True) as decoding, pytest.raises(ConfigError, match="decode"):
        RedisProvider(decoding)


# -- swaps and ends --------------------------------------------------------------------------------------------------


class Slow(MemoryProvider):
    """Holds every get until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.closed = threading.Event()

    def get(self, key: str) -> bytes | None:
        self.entered.set()
        assert self.go.wait(10)
        return super().get(key)

    def close(self) -> None:
        self.closed.set()
        super().close()


def test_a_swap_lets_calls_in_flight_end_where_they_began() -> None:
    slow, new = Slow(), MemoryProvider()
    with Tables(slow) as tables:
        table = tables.table("t", str)
        table.set("k", "old")
        found: list[str | None] = []
        reader = threading.Thread(target=lambda: found.append(table.get("k")))
        reader.start()
        assert slow.entered.wait(10)
        assert tables.swap_provider(new, timeout=0.01) is False
        table.set("k", "new")
        assert table.get("k") == "new"
        assert not slow.closed.is_set()
        slow.go.set()
        reader.join()
        assert found == ["old"]
        assert slow.closed.wait(10)


def test_many_swaps_under_load_lose_no_call() -> None:
    stop, errors = threading.Event(), []
    with Tables(MemoryProvider()) as tables:
        table = tables.table("t", int)

        def work() -> None:
            try:
                while not stop.is_set():
                    table.set("k", 1)
                    assert table.get("k") in (1, None)
                    list(table.keys())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            tables.swap_provider(MemoryProvider())
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


def test_swaps_between_servers_lose_no_call(redis_url: str) -> None:
    """Every value is written to one provider and read from it or the next; no call meets a closed connection."""
    stop, errors, calls = threading.Event(), list[BaseException](), [0]

    with Tables(RedisProvider(redis_url)) as tables:
        table = tables.table("t", str)

        def work() -> None:
            try:
                while not stop.is_set():
                    table.set("k", "v")
                    assert table.get("k") == "v"
                    assert table.get_many(["k"]) == {"k": "v"}
                    calls[0] += 1
            except BaseException as error:
                errors.append(error)

        table.set("k", "v")
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        ended = [tables.swap_provider(RedisProvider(redis_url), timeout=10) for _ in range(25)]
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert calls[0] > 0
    assert ended == [True] * 25


def test_a_swap_to_the_same_provider_leaves_it_open(provider: MemoryProvider, tables: Tables) -> None:
    assert tables.swap_provider(provider) is True
    tables.table("t", str).set("k", "x")


def test_an_old_provider_that_fails_to_close_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryProvider):
        def close(self) -> None:
            raise OSError("no")

    with Tables(Failing()) as tables:
        assert tables.swap_provider(MemoryProvider()) is True
        tables.table("t", str).set("k", "x")
    assert "failed to close" in caplog.text


def test_a_closed_service_says_so_until_it_is_configured_again(tables: Tables, provider: MemoryProvider) -> None:
    table = tables.table("t", str)
    tables.close()
    tables.close()
    with pytest.raises(UnavailableError):
        table.get("k")
    with pytest.raises(UnavailableError):
        provider.get("k")
    tables.configure(MemoryProvider())
    assert table.get("k") is None


def test_what_is_no_provider_is_refused(tables: Tables) -> None:
    for wrong in (None, {}, redis.Redis, Kept()):
        with pytest.raises(ConfigError, match="provider"):
            tables.swap_provider(wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_tables_work_in_a_forked_child(tables: Tables, redis_url: str) -> None:
    layered = Tables(Layers(("L1", MemoryProvider()), ("L2", RedisProvider(redis_url))))
    services = {"memory": tables.table("t", str), "layers": layered.table("t", str)}
    for table in services.values():
        table.set("k", "parent")
    child = os.fork()
    if not child:
        status = 1
        try:
            for table in services.values():
                assert table.get("k") == "parent"
                table.set("child", "child")
                assert table.get("child") == "child"
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert services["layers"].get("child") == "child", "Redis is shared"
    layered.close()


# -- the application's own -------------------------------------------------------------------------------------------


@pytest.fixture
def application() -> Iterator[Any]:
    yield default
    default.close()


def test_the_applications_tables_may_be_made_before_they_are_configured(application: Any) -> None:
    users = default.table("users", User)
    default.close()
    with pytest.raises(UnavailableError):
        users.get("1")
    default.configure(MemoryProvider(), key_prefix="my*app:", default_ttl=60)
    users.set("1", User(1, "ann"))
    assert users.get("1") == User(1, "ann")
    assert list(default.native(MemoryProvider).keys()) == ["my*app:users:1"]
    assert default.swap_provider(MemoryProvider()) is True
    assert users.get("1") is None


def test_a_service_that_nobody_configured_says_how_to() -> None:
    with pytest.raises(ConfigError, match="configure"):
        Tables().table("t", str).get("k")
    with pytest.raises(ConfigError, match="configure"):
        Tables().swap_provider(MemoryProvider())


def test_the_environment_names_provider_and_options(application: Any, redis_url: str) -> None:
    default.configure_from_env({})
    assert isinstance(default.native(MemoryProvider), MemoryProvider)
    default.configure_from_env({"DATALAYER_REDIS": redis_url})
    assert isinstance(default.native(redis.Redis), redis.Redis)
    default.configure_from_env(
        {
            "DATALAYER_TABLES_URL": "memory://",
            "DATALAYER_TABLES_KEY_PREFIX": "p:",
            "DATALAYER_TABLES_DEFAULT_TTL": "5m",
            "DATALAYER_TABLES_CODEC": "json",
            "DATALAYER_REDIS": redis_url,
        }
    )
    table = default.table("t", User)
    table.set("k", User(1, "ann"))
    assert default.native(MemoryProvider).get("p:t:k") == b'[{"id":1,"name":"ann"}]'
    assert 299 < (table.ttl("k") or 0) <= 300


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"DATALAYER_TABLES_URI": "memory://"}, "DATALAYER_TABLES_URI"),
        ({"DATALAYER_TABLES_URL": "nosuch://user:secret@host"}, "nosuch"),
        ({"DATALAYER_TABLES_URL": "memory"}, "memory"),
        ({"DATALAYER_TABLES_DEFAULT_TTL": "soon"}, "ttl"),
        ({"DATALAYER_TABLES_CODEC": "pickle"}, "pickle"),
    ],
)
def test_a_wrong_variable_is_named_and_no_secret_shown(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        default.configure_from_env(environ)
    assert "secret" not in str(caught.value)


def test_the_layers_own_settings_pass_over_the_variables_of_tables() -> None:
    assert from_env({"DATALAYER_TABLES_URL": "memory://", "DATALAYER_L1_TTL": "5m"}).l1_ttl == 300


def test_a_scheme_may_be_registered(application: Any) -> None:
    register_scheme("kept", lambda url: StoreProvider(Kept()))
    default.configure_from_env({"DATALAYER_TABLES_URL": "kept://anything"})
    assert isinstance(default.native(Kept), Kept)

"""The settings object: defaults, what it takes, what it refuses, and what it never shows."""

from __future__ import annotations

import copy
import enum
import logging
import re
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

import datalayer
from datalayer.config.settings import Settings
from datalayer.contracts.clock import SystemClock
from datalayer.errors import ConfigError
from datalayer.observe.metrics import NullRecorder

KEY = bytes(range(32))

DEFAULTS: dict[str, Any] = {
    "url": None,
    "redis": None,
    "redis_password": None,
    "redis_db": None,
    "read_replica": None,
    "lazy_connect": True,
    "connect_timeout": 5.0,
    "close_timeout": 10.0,
    "pool_size": 20,
    "pool_min": 2,
    "pool_timeout": 30.0,
    "pool_max_lifetime": 1800.0,
    "pool_max_lifetime_jitter": 60.0,
    "pool_max_idle": 600.0,
    "pool_pre_ping": True,
    "pool_health_check_period": 30.0,
    "health_check_period": 60.0,
    "statement_timeout": 30.0,
    "lock_timeout": 10.0,
    "l1_ttl": None,
    "l1_max_entries": 100_000,
    "l1_max_bytes": None,
    "l1_eviction": "lru",
    "l1_lease": 1.0,
    "negative_ttl": 5.0,
    "ttl_jitter": 0.1,
    "stale_on_error": None,
    "l2_ttl": 1800.0,
    "key_prefix": "dl",
    "invalidation_channel": None,
    "invalidation_patterns": (),
    "redis_pool_size": 100,
    "redis_timeout": 0.25,
    "redis_retries": 1,
    "breaker_failures": 3,
    "breaker_reset": 1.0,
    "fence_lease": 2.0,
    "mark_policy": "revoke",
    "max_value_bytes": 1 << 20,
    "codec": "msgpack",
    "l2_mac_key": None,
    "write_mode": "through",
    "write_behind_flush_interval": 0.5,
    "write_behind_flush_threshold": 100,
    "write_behind_max_retry": 5,
    "write_behind_max_backlog": 100_000,
    "journal": None,
    "journal_path": None,
    "journal_allow_unsafe": False,
    "encryption_keys": {},
    "allow_plaintext": False,
    "auto_migrate": False,
    "migrations_directory": None,
    "migrations_table": "schema_migrations",
    "migrations_lock_timeout": 10.0,
    "vector_dimensions": 1536,
    "vector_index_lists": 100,
    "vector_similarity_function": "cosine",
    "vector_search_threshold": 0.7,
    "slow_query": 1.0,
    "slow_query_log": True,
    "query_stats": True,
    "enable_metrics": True,
    "metrics_interval": 30.0,
    "auto_explain": False,
    "auto_explain_analyze": True,
    "auto_explain_buffers": True,
    "auto_explain_timing": True,
    "auto_explain_min_duration": 0.1,
    "clock": None,
    "metrics": None,
    "logger": None,
    "cache_scope": None,
}


def test_the_defaults_are_the_documented_ones():
    settings = Settings()
    assert {item.name: getattr(settings, item.name) for item in fields(settings)} == DEFAULTS
    assert list(Settings.options()) == list(DEFAULTS)


DURATIONS = [name for name, value in DEFAULTS.items() if isinstance(value, float)]
DURATIONS = [*(set(DURATIONS) - {"ttl_jitter", "vector_search_threshold"}), "l1_ttl", "stale_on_error"]


@pytest.mark.parametrize("name", sorted(DURATIONS))
def test_every_duration_takes_numbers_text_and_timedeltas(name: str):
    # A lease may not be shorter than three timeouts: keep them apart for this test.
    for written in (0.375, "375ms", timedelta(milliseconds=375)):
        assert getattr(Settings(**{name: written}), name) == 0.375


@pytest.mark.parametrize("name", sorted(DURATIONS))
def test_no_duration_may_be_negative_or_text_without_sense(name: str):
    for written in (-1, "soon", True):
        with pytest.raises(ConfigError, match=f"^{name}: found .*, expected seconds"):
            Settings(**{name: written})


MAY_BE_ZERO = {
    "pool_max_lifetime",
    "pool_max_lifetime_jitter",
    "pool_max_idle",
    "pool_health_check_period",
    "health_check_period",
    "statement_timeout",
    "lock_timeout",
    "negative_ttl",
    "slow_query",
    "auto_explain_min_duration",
}


@pytest.mark.parametrize("name", sorted(DURATIONS))
def test_zero_is_refused_where_it_would_mean_nothing(name: str):
    if name in MAY_BE_ZERO:
        assert getattr(Settings(**{name: 0}), name) == 0.0
    else:
        with pytest.raises(ConfigError, match=f"^{name}: found 0, expected a duration greater than 0"):
            Settings(**{name: 0})


FLAGS = [name for name, value in DEFAULTS.items() if isinstance(value, bool)]


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_true_or_false_and_nothing_else(name: str):
    assert getattr(Settings(**{name: not DEFAULTS[name]}), name) is not DEFAULTS[name]
    for written in (1, "true", None):
        with pytest.raises(ConfigError, match=f"^{name}: found .*, expected True or False"):
            Settings(**{name: written})


COUNTS = [n for n, value in DEFAULTS.items() if type(value) is int and n != "max_value_bytes"]


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_whole_number_in_its_range(name: str):
    assert getattr(Settings(**{name: 1}, **({"pool_min": 0} if name == "pool_size" else {})), name) == 1
    for written in (-1, 1.5, "7", True, None):
        with pytest.raises(ConfigError, match=f"^{name}: found .*, expected a whole number from "):
            Settings(**{name: written})


def test_more_than_one_redis_retry_is_refused():
    with pytest.raises(ConfigError, match="redis_retries: found 3, expected a whole number from 0 to 1"):
        Settings(redis_retries=3)


@pytest.mark.parametrize("name", ["l1_max_bytes", "max_value_bytes"])
def test_a_size_takes_units_and_not_zero(name: str):
    assert getattr(Settings(**{name: "2MiB"}), name) == 2 << 20
    with pytest.raises(ConfigError, match=f"{name}: found 0, expected a size greater than 0"):
        Settings(**{name: 0})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("l1_eviction", ["lru", "lfu", "fifo", "ttl", "clock"]),
        ("write_mode", ["through", "through_l1_lazy", "behind"]),
        ("journal", ["file", "memory"]),
        ("vector_similarity_function", ["cosine", "l2", "inner_product"]),
        ("codec", ["msgpack", "json"]),
    ],
)
def test_a_choice_takes_its_words_in_any_case_and_refuses_others(name: str, words: list[str]):
    for word in words:
        assert getattr(Settings(**{name: word.upper()}), name) == word
    with pytest.raises(ConfigError, match=f"{name}: found 'nonsense', expected one of '.*{words[-1]}'"):
        Settings(**{name: "nonsense"})
    with pytest.raises(ConfigError, match=f"{name}: found "):
        Settings(**{name: 7})


def test_a_misspelt_choice_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'fifo'"):
        Settings(l1_eviction="fifoo")


def test_a_member_of_an_enum_stands_for_its_value():
    mode = enum.Enum("Mode", {"BEHIND": "behind"})
    assert Settings(write_mode=mode.BEHIND).write_mode == "behind"


@pytest.mark.parametrize(("name", "good", "bad"), [("ttl_jitter", 0, 0.95), ("vector_search_threshold", -1, 1.01)])
def test_a_fraction_stays_in_its_range(name: str, good: float, bad: float):
    assert getattr(Settings(**{name: good}), name) == good
    for written in (bad, float("nan"), "0.5", True):
        with pytest.raises(ConfigError, match=f"{name}: found .*, expected a number from "):
            Settings(**{name: written})


@pytest.mark.parametrize("prefix", ["", "a b", "a{b}", "a*", 5, "x" * 201])
def test_a_key_prefix_has_no_signs_that_redis_reads(prefix: object):
    with pytest.raises(ConfigError, match=r"key_prefix: found .*, expected text without blanks"):
        Settings.from_mapping({"key_prefix": prefix})


def test_a_table_name_is_an_identifier():
    assert Settings(migrations_table="ops.migrations").migrations_table == "ops.migrations"
    with pytest.raises(ConfigError, match="migrations_table: found 'a; drop table b', expected the name of a table"):
        Settings(migrations_table="a; drop table b")


def test_paths_may_be_path_objects():
    assert Settings(migrations_directory=Path("sql"), journal_path="j").migrations_directory == "sql"
    with pytest.raises(ConfigError, match="journal_path: found '', expected the path"):
        Settings(journal_path="")


def test_patterns_are_a_list_of_texts():
    assert Settings(invalidation_patterns=["a:*", "b:*"]).invalidation_patterns == ("a:*", "b:*")
    for written in ("a:*", [""], [1], 5):
        with pytest.raises(ConfigError, match=r"invalidation_patterns: found .*, expected a list of texts"):
            Settings(invalidation_patterns=written)


# -- urls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("sqlite:///app.db", "sqlite:///app.db"),
        ("sqlite://", "sqlite://"),
        ("postgresql+psycopg://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+psycopg2://u:p@h/db"),
        ("postgres://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql://u:p@h/db?sslmode=disable", "postgresql+psycopg://u:p@h/db?sslmode=disable"),
        (make_url("postgresql+psycopg://u:p%40w@h/db"), "postgresql+psycopg://u:p%40w@h/db"),
    ],
)
def test_a_database_url_without_a_driver_gets_the_one_that_is_installed(written: object, kept: str):
    assert Settings(url=written).url == kept
    assert Settings(read_replica=written).read_replica == kept


@pytest.mark.parametrize("name", ["url", "redis", "read_replica"])
@pytest.mark.parametrize("written", ["", "u:hunter2@host", "host=h password=hunter2", 5, b"redis://:hunter2@h"])
def test_what_is_not_a_url_is_refused_without_being_quoted(name: str, written: object):
    with pytest.raises(ConfigError, match=f"^{name}: found ") as caught:
        Settings.from_mapping({name: written})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "rediss://u:p@cache",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:26379,b:26379/mymaster/0",
        "redis+cluster://a:7000,b:7000",
    ],
)
def test_every_kind_of_redis_is_accepted(url: str):
    assert Settings(redis=url).redis == url


def test_another_scheme_is_refused_by_name():
    with pytest.raises(
        ConfigError, match="redis: found a URL that begins with http://, expected one of redis, rediss"
    ) as c:
        Settings(redis="http://:hunter2@h")
    assert "hunter2" not in str(c.value)


def test_a_port_that_is_half_a_password_is_not_quoted():
    with pytest.raises(ConfigError, match="host and port cannot be told") as caught:
        Settings(redis="redis://:hun/ter2@h")
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "joined"),
    [
        ("redis://h:1/0", "redis://:p%40%2F@h:1/0"),
        ("redis://u:old@h", "redis://u:p%40%2F@h"),
        ("unix:///r.sock", "unix://:p%40%2F@/r.sock"),
        ("redis+sentinel://a:1,b:2/m?x=y@z", "redis+sentinel://:p%40%2F@a:1,b:2/m?x=y@z"),
    ],
)
def test_a_redis_password_becomes_part_of_the_url(url: str, joined: str):
    settings = Settings(redis=url, redis_password="p@/")
    assert settings.redis == joined
    assert settings.redis_password is None
    assert settings.replace(redis_password="new").redis == joined.replace("p%40%2F", "new")


def test_a_redis_database_becomes_part_of_the_url():
    assert Settings(redis="redis://h/3?a=b&db=1", redis_db=7).redis == "redis://h/3?a=b&db=7"
    assert Settings(redis="redis+cluster://h", redis_db=0).redis == "redis+cluster://h?db=0"
    with pytest.raises(ConfigError, match="redis_db: found 2, expected 0: a Redis Cluster"):
        Settings(redis="redis+cluster://h", redis_db=2)


@pytest.mark.parametrize("given", [{"redis_password": "hunter2"}, {"redis_db": 1}])
def test_a_part_of_a_redis_url_needs_the_url(given: dict[str, Any]):
    with pytest.raises(ConfigError, match=f"{next(iter(given))}: given without redis") as caught:
        Settings(**given)
    assert "hunter2" not in str(caught.value)


def test_an_empty_password_is_refused():
    with pytest.raises(ConfigError, match="redis_password: found nothing, expected text"):
        Settings(redis="redis://h", redis_password="")


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_keep_their_order_and_the_first_is_active():
    settings = Settings(encryption_keys={"k2": KEY, "k1": KEY[::-1]})
    assert list(settings.encryption_keys.items()) == [("k2", KEY), ("k1", KEY[::-1])]
    assert settings != Settings(encryption_keys={"k1": KEY[::-1], "k2": KEY})


@pytest.mark.parametrize(
    "keys", [{"k1": KEY[:31]}, {"k1": KEY + b"!"}, {"k1": "x" * 32}, {"k 1": KEY}, {5: KEY}, [KEY], KEY]
)
def test_a_ring_that_does_not_fit_is_refused_without_its_bytes(keys: object):
    with pytest.raises(ConfigError, match=r"^encryption_keys.*: found .*, expected ") as caught:
        Settings.from_mapping({"encryption_keys": keys})
    assert "x" * 32 not in str(caught.value)
    assert "\\x01" not in str(caught.value)


def test_a_mac_key_has_16_bytes_or_more():
    assert Settings(l2_mac_key=KEY[:16]).l2_mac_key == KEY[:16]
    assert Settings(l2_mac_key=KEY).l2_mac_key == KEY
    for key in (KEY[:15], "x" * 16):
        with pytest.raises(ConfigError, match=r"l2_mac_key: found .*, expected 16 bytes or more"):
            Settings.from_mapping({"l2_mac_key": key})


def test_no_secret_is_ever_shown():
    settings = Settings(
        url="postgresql://user:hunter2@h/db?sslpassword=hunter3",
        redis="redis://:hunter4@cache:6379/0?password=hunter5",
        read_replica="postgresql://user:hunter6@r/db",
        encryption_keys={"k2": b"hunter7!" * 4, "k1": b"hunter8!" * 4},
        l2_mac_key=b"hunter9!" * 2,
    )
    keys = settings.encryption_keys
    shown = f"{settings!r} {settings} {keys!r} {keys} {settings.l2_mac_key!r} {settings.l2_mac_key} {keys['k1']!r}"
    assert "hunter" not in shown
    assert "user:***@h/db" in shown
    assert "<2 keys: k2, k1>" in shown
    assert "l2_mac_key=<secret>" in shown


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(Settings()) == "Settings()"
    assert repr(Settings(l1_ttl="1m", pool_size=20)) == "Settings(l1_ttl=60.0)"


# -- objects -----------------------------------------------------------------------------------------------------------


class Codec:
    name = "own"

    def encode(self, values: Any) -> bytes:
        return b""

    def decode(self, data: bytes) -> Any:
        return None


class StoppedClock:
    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return datetime(2000, 1, 1, tzinfo=UTC)


def test_objects_of_the_application_are_kept_as_they_are():
    given: dict[str, Any] = {
        "codec": Codec(),
        "clock": StoppedClock(),
        "metrics": NullRecorder(),
        "logger": logging.getLogger("app"),
        "cache_scope": lambda: "tenant",
    }
    settings = Settings(**given)
    assert all(getattr(settings, name) is value for name, value in given.items())
    assert Settings(clock=SystemClock()).clock is not None


def test_a_logger_may_be_given_by_name():
    assert Settings(logger="app.db").logger is logging.getLogger("app.db")
    assert isinstance(Settings(logger=logging.LoggerAdapter(logging.getLogger("a"), {})).logger, logging.LoggerAdapter)


@pytest.mark.parametrize("name", ["codec", "clock", "metrics", "logger", "cache_scope"])
def test_an_object_that_cannot_do_it_is_refused(name: str):
    with pytest.raises(ConfigError, match=f"{name}: found a .*, expected "):
        Settings.from_mapping({name: 5.5})


def test_a_class_in_place_of_an_object_is_refused():
    with pytest.raises(ConfigError, match="clock: found the class StoppedClock, expected an object"):
        Settings.from_mapping({"clock": StoppedClock})


# -- the object itself -------------------------------------------------------------------------------------------------


def test_settings_are_frozen():
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.pool_size = 3  # type: ignore[misc]
    assert settings.pool_size == 20


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        Settings("sqlite://")  # type: ignore[misc]


def test_an_unknown_keyword_is_a_config_error_with_a_suggestion():
    for make in (
        lambda: Settings(l1_tll=5),
        lambda: Settings.from_mapping({"l1_tll": 5}),
        lambda: Settings().replace(l1_tll=5),
    ):  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match=r"Settings: unknown option 'l1_tll'; did you mean 'l1_ttl'\?"):
            make()


def test_replace_checks_like_the_constructor_and_leaves_the_rest():
    first = Settings(url="sqlite://", l1_ttl="5m", encryption_keys={"k1": KEY})
    second = first.replace(l1_ttl="1m")
    assert (first.l1_ttl, second.l1_ttl) == (300.0, 60.0)
    assert second.replace(l1_ttl=300) == first
    with pytest.raises(ConfigError, match="l1_ttl"):
        first.replace(l1_ttl="soon")


def test_settings_can_be_compared_hashed_and_copied():
    settings = Settings(url="sqlite://", encryption_keys={"k1": KEY}, l2_mac_key=KEY)
    assert settings == Settings(url="sqlite://", encryption_keys={"k1": KEY}, l2_mac_key=KEY) != Settings()
    assert len({settings, copy.copy(settings), copy.deepcopy(settings)}) == 1


def test_contradictions_are_refused():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"pool_size": 3, "pool_min": 4}, "pool_min: found 4, expected at most pool_size, which is 3"),
        (
            {"redis": "redis://h", "redis_timeout": 1},
            "redis_timeout: found 1 s, expected less than a third of fence_lease",
        ),
        ({"journal": "redis"}, "journal: found 'redis' without a Redis"),
        ({"journal": "memory", "journal_path": "x"}, "journal_path: given with journal='memory'"),
    ]
    for given, text in cases:
        with pytest.raises(ConfigError, match=text):
            Settings(**given)


@pytest.mark.parametrize(
    ("has_redis", "multi_process_db", "expected"),
    [(True, True, 300.0), (True, False, 300.0), (False, False, 300.0), (False, True, 30.0)],
)
def test_l1_lives_shorter_where_nothing_else_ends_a_stale_entry(
    has_redis: bool, multi_process_db: bool, expected: float
):
    assert Settings().effective_l1_ttl(has_redis=has_redis, multi_process_db=multi_process_db) == expected
    assert Settings(l1_ttl=7).effective_l1_ttl(has_redis=has_redis, multi_process_db=multi_process_db) == 7.0


def test_the_channel_follows_the_key_prefix():
    assert Settings(key_prefix="shop").effective_invalidation_channel() == "shop:invalidate"
    assert Settings(invalidation_channel="c").effective_invalidation_channel() == "c"


#: Joined with ``redis``, given out by effective_l1_ttl(), and the defaults of vector columns.
READ_ELSEWHERE = {
    "redis_password",
    "redis_db",
    "l1_ttl",
    "invalidation_channel",
    "vector_dimensions",
    "vector_index_lists",
    "vector_similarity_function",
    "vector_search_threshold",
}


def test_every_option_is_read_by_some_part_of_the_library():
    package = Path(datalayer.__file__).parent
    source = "\n".join(path.read_text() for path in package.rglob("*.py") if "config" not in path.parts)
    unread = {name for name in Settings.options() if not re.search(rf"\bsettings\.{name}\b", source)}
    assert unread <= READ_ELSEWHERE

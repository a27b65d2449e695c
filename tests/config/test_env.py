"""Settings from environment variables."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalayer.config.env import from_env
from datalayer.config.settings import Settings
from datalayer.errors import ConfigError

KEY = bytes(range(224, 256))
TEXT = base64.b64encode(KEY).decode()

# Option, text, value: one for every option that can be written as text.
WRITTEN: list[tuple[str, str, object]] = [
    ("url", "sqlite:///app.db", "sqlite:///app.db"),
    ("redis", "redis://cache:6379/0", "redis://cache:6379/0"),
    ("read_replica", "sqlite:///copy.db", "sqlite:///copy.db"),
    ("lazy_connect", "no", False),
    ("connect_timeout", "2s", 2.0),
    ("close_timeout", "20", 20.0),
    ("pool_size", "30", 30),
    ("pool_min", " 5 ", 5),
    ("pool_timeout", "5s", 5.0),
    ("pool_max_lifetime", "1h", 3600.0),
    ("pool_max_lifetime_jitter", "2m", 120.0),
    ("pool_max_idle", "15m", 900.0),
    ("pool_pre_ping", "FALSE", False),
    ("pool_health_check_period", "10s", 10.0),
    ("health_check_period", "30s", 30.0),
    ("statement_timeout", "0", 0.0),
    ("lock_timeout", "500ms", 0.5),
    ("l1_ttl", "2m", 120.0),
    ("l1_max_entries", "10000", 10_000),
    ("l1_max_bytes", "64MB", 64_000_000),
    ("l1_eviction", "LFU", "lfu"),
    ("l1_lease", "2s", 2.0),
    ("negative_ttl", "0", 0.0),
    ("ttl_jitter", "0.25", 0.25),
    ("stale_on_error", "1m", 60.0),
    ("l2_ttl", "1h", 3600.0),
    ("key_prefix", "shop", "shop"),
    ("invalidation_channel", "shop:news", "shop:news"),
    ("invalidation_patterns", "a:*, b:*", ("a:*", "b:*")),
    ("redis_pool_size", "50", 50),
    ("redis_timeout", "100ms", 0.1),
    ("redis_retries", "0", 0),
    ("breaker_failures", "5", 5),
    ("breaker_reset", "3s", 3.0),
    ("fence_lease", "4s", 4.0),
    ("mark_policy", "fail", "fail"),
    ("max_value_bytes", "2MiB", 2 << 20),
    ("codec", "json", "json"),
    ("l2_mac_key", TEXT, KEY),
    ("write_mode", "behind", "behind"),
    ("write_behind_flush_interval", "1s", 1.0),
    ("write_behind_flush_threshold", "10", 10),
    ("write_behind_max_retry", "0", 0),
    ("write_behind_max_backlog", "5", 5),
    ("journal", "file", "file"),
    ("journal_path", "journal", "journal"),
    ("journal_allow_unsafe", "1", True),
    ("encryption_keys", f"k1:{TEXT}", {"k1": KEY}),
    ("allow_plaintext", "yes", True),
    ("auto_migrate", "on", True),
    ("migrations_directory", "sql", "sql"),
    ("migrations_table", "ops.done", "ops.done"),
    ("migrations_lock_timeout", "1s", 1.0),
    ("vector_dimensions", "768", 768),
    ("vector_index_lists", "64", 64),
    ("vector_similarity_function", "l2", "l2"),
    ("vector_search_threshold", "-.5", -0.5),
    ("slow_query", "250ms", 0.25),
    ("slow_query_log", "false", False),
    ("query_stats", "0", False),
    ("enable_metrics", "off", False),
    ("metrics_interval", "1m", 60.0),
    ("auto_explain", "true", True),
    ("auto_explain_analyze", "no", False),
    ("auto_explain_buffers", "no", False),
    ("auto_explain_timing", "no", False),
    ("auto_explain_min_duration", "0", 0.0),
]
OBJECTS = ("clock", "metrics", "cache_scope")
JOINED = ("redis_password", "redis_db")


@pytest.mark.parametrize(("name", "text", "value"), WRITTEN)
def test_every_option_can_be_set_by_its_variable(name: str, text: str, value: object):
    settings = from_env({f"DATALAYER_{name.upper()}": text, "HOME": "x"})
    assert getattr(settings, name) == value
    assert settings == Settings.from_mapping({name: value})


def test_all_variables_together_make_the_same_settings_as_code():
    settings = from_env({f"DATALAYER_{name.upper()}": text for name, text, _ in WRITTEN})
    assert settings == Settings.from_mapping({name: value for name, _, value in WRITTEN})


def test_no_option_is_left_out_of_these_tests():
    assert {name for name, _, _ in WRITTEN} | {*OBJECTS, *JOINED, "logger"} == set(Settings.options())


def test_parts_of_the_redis_url_and_the_logger_have_variables_too():
    found = from_env(
        {
            "DATALAYER_REDIS": "redis://h",
            "DATALAYER_REDIS_PASSWORD": "p",
            "DATALAYER_REDIS_DB": "2",
            "DATALAYER_LOGGER": "app.db",
        }
    )
    assert found.redis == "redis://:p@h?db=2"
    assert found.logger is not None
    assert found.logger.name == "app.db"


@pytest.mark.parametrize("name", OBJECTS)
def test_what_only_code_can_give_is_refused_with_that_advice(name: str):
    with pytest.raises(ConfigError, match=f"DATALAYER_{name.upper()}: found text, .* give it in code"):
        from_env({f"DATALAYER_{name.upper()}": "x"})


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_as_good_as_none(text: str):
    assert from_env({"DATALAYER_REDIS": text, "DATALAYER_POOL_SIZE": text}) == Settings()


def test_a_misspelt_variable_is_refused_with_a_suggestion():
    with pytest.raises(
        ConfigError, match=r"DATALAYER_L1_TLL: no option has this name; did you mean 'DATALAYER_L1_TTL'\?"
    ):
        from_env({"DATALAYER_L1_TLL": "5m"})
    with pytest.raises(ConfigError, match=r"DATALAYER_URL_: .* did you mean 'DATALAYER_URL'\?"):
        from_env({"DATALAYER_URL_": ""})


def test_the_test_suite_has_variables_of_its_own():
    assert from_env({"DATALAYER_TEST_SEED": "1", "DATALAYER_TEST_": ""}) == Settings()


def test_another_prefix_makes_a_second_layer_in_one_process():
    environ = {"ORDERS_URL": "sqlite:///o.db", "DATALAYER_URL": "sqlite:///d.db", "ORDERS_TEST_X": "1"}
    assert from_env(environ, "ORDERS_").url == "sqlite:///o.db"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATALAYER_L1_TTL", "42s")
    assert from_env().l1_ttl == 42.0


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("POOL_SIZE", "many", "found 'many', expected a whole number from 1"),
        ("POOL_SIZE", "1.5", "found '1.5', expected a whole number from 1"),
        ("POOL_SIZE", "9" * 30, "expected a whole number from 1"),
        ("L1_TTL", "soon", "found 'soon', expected seconds"),
        ("TTL_JITTER", "much", "found 'much', expected a number from 0 to 0.9"),
        ("TTL_JITTER", "1e-1", "found '1e-1', expected a number from 0 to 0.9"),
        ("AUTO_MIGRATE", "maybe", "found 'maybe', expected one of true, 1, yes, on or false, 0, no, off"),
        ("L1_ELEVATION", "x", "no option has this name"),
        ("MAX_VALUE_BYTES", "big", "found 'big', expected a whole number of bytes"),
        ("INVALIDATION_PATTERNS", "a,,b", "expected a list of texts"),
    ],
)
def test_a_wrong_text_is_refused_by_the_name_of_its_variable(variable: str, text: str, problem: str):
    with pytest.raises(ConfigError) as caught:
        from_env({f"DATALAYER_{variable}": text})
    assert str(caught.value).startswith(f"DATALAYER_{variable}: ")
    assert problem in str(caught.value)


def test_a_combination_that_is_wrong_says_where_it_comes_from():
    with pytest.raises(ConfigError, match=r"environment variables DATALAYER_\*: pool_min: found 9"):
        from_env({"DATALAYER_POOL_SIZE": "3", "DATALAYER_POOL_MIN": "9"})


def test_keys_are_read_in_order_and_in_every_base64():
    urlsafe = base64.urlsafe_b64encode(KEY).decode().rstrip("=")
    assert "_" in urlsafe or "-" in urlsafe
    settings = from_env({"DATALAYER_ENCRYPTION_KEYS": f"k2:{urlsafe}, k1:{TEXT}"})
    assert list(settings.encryption_keys.items()) == [("k2", KEY), ("k1", KEY)]


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("ENCRYPTION_KEYS", SECRET, "key number 1 has no id"),
        ("ENCRYPTION_KEYS", f"{TEXT}:{SECRET}", "found a key id that does not fit"),
        ("ENCRYPTION_KEYS", f"k1:{SECRET}!!", "found text that is not base64"),
        ("ENCRYPTION_KEYS", f"k1:{SECRET}", "found 10 bytes, expected 32 bytes"),
        ("ENCRYPTION_KEYS", f"k1:{TEXT},k1:{SECRET}", "key id 'k1' is given twice"),
        ("L2_MAC_KEY", f"{SECRET}!", "found text that is not base64"),
        ("L2_MAC_KEY", SECRET, "found 10 bytes, expected 16 bytes or more"),
        ("URL", f"user:{SECRET}@host/db", "found text that does not begin with a scheme"),
        ("REDIS", f"http://:{SECRET}@host", "found a URL that begins with http"),
        ("REDIS", f"redis://:/{SECRET}@host:x", "host and port cannot be told"),
        ("REDIS_PASSWORD", SECRET, "given without redis"),
        ("POOL_SIZE", f"redis://:{SECRET}@host", "expected a whole number"),
        ("L1_EVICTION", f"redis://:{SECRET}@host", "expected one of"),
        ("KEY_PREFIX", f"redis://:{SECRET}@host *", "expected text without blanks"),
    ],
)
def test_no_error_shows_a_secret(variable: str, text: str, problem: str):
    with pytest.raises(ConfigError) as caught:
        from_env({f"DATALAYER_{variable}": text})
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)
    assert TEXT not in str(caught.value)
    assert caught.value.__cause__ is None


@given(
    st.sampled_from(sorted(Settings.options())),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
)
def test_any_text_makes_settings_or_a_config_error(name: str, text: str):
    try:
        settings = from_env({f"DATALAYER_{name.upper()}": text})
    except ConfigError:
        return
    assert isinstance(repr(settings), str)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True), st.binary(min_size=32, max_size=32), max_size=4
    )
)
def test_any_ring_survives_the_environment(ring: dict[str, bytes]):
    text = ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in ring.items())
    assert list(from_env({"DATALAYER_ENCRYPTION_KEYS": text}).encryption_keys.items()) == list(ring.items())

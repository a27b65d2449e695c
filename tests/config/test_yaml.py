"""Settings from YAML files, flat and in sections."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from datalayer.config.option import Option
from datalayer.config.sections import SECTIONS, Tree
from datalayer.config.settings import Settings
from datalayer.config.yaml import from_yaml
from datalayer.errors import ConfigError, MissingDriverError

KEY = bytes(range(224, 256))
TEXT = base64.b64encode(KEY).decode()
SECRET = "hunter2hunter2"

Read = Callable[..., Settings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a text as ``app.yaml`` with the keywords as its environment."""

    def read_text(text: str, **environ: str) -> Settings:
        path = tmp_path / "app.yaml"
        path.write_text(text, encoding="utf-8")
        return from_yaml(path, environ)

    return read_text


NESTED = """
storage:
  postgres:
    database_url: "${DATABASE_URL}"
    max_connections: 30
    min_connections: 5
    max_conn_lifetime: "1h"
    max_conn_idle_time: "15m"
    health_check_period: "1m"
    statement_timeout: "40s"
    lock_timeout: "5s"
    enable_query_stats: false
    slow_query_threshold: "2s"
    auto_explain:
      enabled: true
      log_analyze: false
      log_buffers: true
      log_timing: false
      min_duration: "200ms"
    pool:
      max_lifetime_jitter: "2m"
      health_check_period: "20s"
      lazy_connect: false
  cache:
    l1:
      type: "memory"
      size: 10000
      ttl: "5m"
    l2:
      type: "redis"
      endpoint: "${REDIS_URL}"
      ttl: "1h"
      max_connections: 50
    invalidation:
      strategy: "event-based"
      patterns:
        - "conversation:*"
        - "${WHAT}:*"
  migrations:
    auto_migrate: true
    directory: "migrations"
    table: "migrations_done"
    lock_timeout: "11s"
  vector:
    dimensions: 768
    index_lists: 50
    similarity_function: "l2"
    search_threshold: 0.5
  monitoring:
    enable_metrics: false
    metrics_interval: "10s"
    slow_query_log: false
    query_stats: false
"""


def test_the_sections_mean_the_flat_options(read: Read):
    found = read(NESTED, DATABASE_URL="postgresql://u:p@h/db", REDIS_URL="redis://c", WHAT="message")
    assert found == Settings(
        url="postgresql+psycopg://u:p@h/db",
        pool_size=30,
        pool_min=5,
        pool_max_lifetime="1h",
        pool_max_idle="15m",
        health_check_period="1m",
        statement_timeout="40s",
        lock_timeout="5s",
        query_stats=False,
        slow_query="2s",
        auto_explain=True,
        auto_explain_analyze=False,
        auto_explain_timing=False,
        auto_explain_min_duration="200ms",
        pool_max_lifetime_jitter="2m",
        pool_health_check_period="20s",
        lazy_connect=False,
        l1_max_entries=10_000,
        l1_ttl="5m",
        redis="redis://c",
        l2_ttl="1h",
        redis_pool_size=50,
        invalidation_patterns=("conversation:*", "message:*"),
        auto_migrate=True,
        migrations_directory="migrations",
        migrations_table="migrations_done",
        migrations_lock_timeout="11s",
        vector_dimensions=768,
        vector_index_lists=50,
        vector_similarity_function="l2",
        vector_search_threshold=0.5,
        enable_metrics=False,
        metrics_interval="10s",
        slow_query_log=False,
    )


def test_every_key_of_a_section_is_a_real_option():
    def names(tree: Tree) -> list[str]:
        parts = [names(item) if not isinstance(item, str | frozenset) else [item] for item in tree.values()]
        return [name for part in parts for name in part if isinstance(name, str)]

    assert set(names(SECTIONS)) <= set(Settings.options())


def test_sections_may_stand_at_the_top_beside_flat_options(read: Read):
    found = read("cache: {l1: {ttl: 1m}}\npostgres:\nurl: sqlite://\n")
    assert (found.l1_ttl, found.url) == (60.0, "sqlite://")


FLAT: list[tuple[str, str, object]] = [
    ("url", "sqlite:///app.db", "sqlite:///app.db"),
    ("l1_ttl", "300", 300.0),
    ("l1_ttl", "5m", 300.0),
    ("pool_size", "7", 7),
    ("pool_size", "'7'", 7),
    ("auto_migrate", "yes", True),
    ("auto_migrate", "'true'", True),
    ("ttl_jitter", "0.5", 0.5),
    ("ttl_jitter", "'0.5'", 0.5),
    ("max_value_bytes", "2MiB", 2 << 20),
    ("write_mode", "behind", "behind"),
    ("invalidation_patterns", "['a:*', 'b:*']", ("a:*", "b:*")),
    ("invalidation_patterns", "a:*,b:*", ("a:*", "b:*")),
    ("encryption_keys", f"'k2:{TEXT},k1:{TEXT}'", {"k2": KEY, "k1": KEY}),
    ("encryption_keys", f"{{k2: '{TEXT}', k1: !!binary '{TEXT}'}}", {"k2": KEY, "k1": KEY}),
    ("l2_mac_key", f"'{TEXT}'", KEY),
    ("l2_mac_key", f"!!binary '{TEXT}'", KEY),
]


@pytest.mark.parametrize(("name", "written", "value"), FLAT)
def test_flat_options_are_read_in_their_own_types(read: Read, name: str, written: str, value: object):
    assert read(f"{name}: {written}\n") == Settings.from_mapping({name: value})


def _plain(name: str, item: Option[object, object]) -> object:
    value = item.parse(item.default, name)
    return list(value) if isinstance(value, tuple) else None if name == "encryption_keys" else value


def test_the_defaults_written_out_are_the_defaults(read: Read):
    text = yaml.safe_dump({name: _plain(name, item) for name, item in Settings.options().items()})
    assert read(text) == Settings()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "redis:\nl1_ttl: ~\nstorage:\n", "redis: ''\n"])
def test_what_is_empty_is_not_set(read: Read, text: str):
    assert read(text) == Settings()


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "environ", "url"),
    [
        ("${U}", {"U": "sqlite:///a"}, "sqlite:///a"),
        ("${U:-sqlite:///b}", {}, "sqlite:///b"),
        ("${U:-sqlite:///b}", {"U": ""}, "sqlite:///b"),
        ("${U:-sqlite:///b}", {"U": "sqlite:///a"}, "sqlite:///a"),
        ("sqlite:///${A}${B:-}.${C}", {"A": "x", "C": "db"}, "sqlite:///x.db"),
        ("sqlite:///$$x$$${A}", {"A": "y"}, "sqlite:///$x$y"),
        ("sqlite:///$${A}", {"A": "y"}, "sqlite:///${A}"),
        ("sqlite:///$x$", {}, "sqlite:///$x$"),
        ("${U}", {"U": "sqlite:///${U}$$"}, "sqlite:///${U}$$"),
        ("${U}", {"U": ""}, None),
        ("${U:-}", {}, None),
    ],
)
def test_references_are_expanded_once(read: Read, written: str, environ: dict[str, str], url: str | None):
    assert read(f"url: '{written}'\n", **environ).url == url


def test_a_reference_may_stand_for_any_type(read: Read):
    found = read("pool_size: ${N}\nauto_migrate: ${M:-no}\nencryption_keys: {k1: '${K}'}\n", N="9", K=TEXT)
    assert (found.pool_size, found.auto_migrate, found.encryption_keys) == (9, False, {"k1": KEY})


def test_a_value_from_the_environment_cannot_add_options(read: Read):
    with pytest.raises(ConfigError, match="key_prefix: found "):
        read("key_prefix: ${P}\n", P="a\nallow_plaintext: true")


def test_a_variable_that_is_missing_is_named_with_file_and_key(read: Read):
    with pytest.raises(ConfigError) as caught:
        read("storage:\n  postgres:\n    database_url: ${DATABASE_URL}\n")
    text = str(caught.value)
    assert "app.yaml: storage.postgres.database_url: the environment variable DATABASE_URL is not set" in text
    assert "${DATABASE_URL:-default}" in text


@pytest.mark.parametrize("written", ["${", "${}", "${1X}", "${X-y}", "${A:-${B}}", "a${B C}"])
def test_half_a_reference_is_refused_without_the_rest_of_the_text(read: Read, written: str):
    with pytest.raises(ConfigError, match=r"app.yaml: url: found '\$\{' that begins no reference") as caught:
        read(f"url: 'postgresql://u:{SECRET}@h/{written}'\n")
    assert SECRET not in str(caught.value)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("l1_tll: 5m", "l1_tll: no option has this name; did you mean 'l1_ttl'?"),
        ("storge: {}", "storge: no option has this name; did you mean 'storage'?"),
        ("1: 2", "1: no option has this name"),
        ("? [a]\n: 2", "found text that is not YAML"),
        ("storage: {postgres: {max_conections: 3}}", "storage.postgres.max_conections: .* 'max_connections'?"),
        ("storage: {cache: {l1: {tll: 3}}}", "storage.cache.l1.tll: .* did you mean 'ttl'?"),
        ("storage: {url: 'sqlite://'}", "storage.url: no option has this name"),
        ("cache: {l3: {}}", "cache.l3: no option has this name"),
        ("cache: {l1: {type: disk}}", "cache.l1.type: found 'disk', expected 'memory', which is all there is"),
        ("cache: {invalidation: {strategy: 5}}", "cache.invalidation.strategy: found 5, expected 'event-based'"),
        ("cache: [1]", "cache: found a list, expected a mapping of options"),
        ("- 1", "the file: found a list, expected a mapping of options"),
        ("hello", "the file: found a str, expected a mapping of options"),
        ("pool_size: many", "pool_size: found 'many', expected a whole number"),
        ("pool_size: {a: 1}", "pool_size: found a dict, expected a whole number"),
        ("auto_migrate: 1", "auto_migrate: found 1, expected True or False"),
        ("l1_ttl: [5]", "l1_ttl: found a list, expected seconds"),
        ("clock: now", "clock: found text, but this option takes an object"),
        ("postgres: {max_connections: 3}\npool_min: 9", "pool_min: found 9, expected at most pool_size"),
        (
            "pool_size: 3\npostgres: {max_connections: 4}",
            "postgres.max_connections: pool_size has another value elsewhere",
        ),
        (
            "postgres: {enable_query_stats: true}\nmonitoring: {query_stats: false}",
            "monitoring.query_stats: query_stats has another value elsewhere",
        ),
    ],
)
def test_a_mistake_is_refused_with_file_and_path(read: Read, text: str, problem: str):
    with pytest.raises(ConfigError, match=rf"app\.yaml: .*{problem}"):
        read(text)


def test_the_same_value_twice_is_no_contradiction(read: Read):
    assert read("pool_size: 3\npostgres: {max_connections: 3}\n").pool_size == 3


@pytest.mark.parametrize(
    "text",
    [
        "l1_ttl: 1m\nl2_ttl: 2m\nl1_ttl: 3m\n",
        "storage:\n  cache:\n    l1: {ttl: 1m}\n    l1: {size: 3}\n",
        "encryption_keys: {k1: x, k1: y}\n",
    ],
)
def test_a_key_that_stands_twice_is_refused(read: Read, text: str):
    with pytest.raises(ConfigError, match=r"app\.yaml: found the key '(l1_ttl|l1|k1)' twice, .* at line"):
        read(text)


def test_anchors_and_merges_work(read: Read):
    found = read("postgres: &p {statement_timeout: 3s}\nstorage: {postgres: {<<: *p, lock_timeout: 2s}}\n")
    assert (found.statement_timeout, found.lock_timeout) == (3.0, 2.0)


def test_a_mapping_that_contains_itself_is_refused(read: Read):
    with pytest.raises(ConfigError, match=r"app\.yaml: "):
        read("storage: &s {postgres: *s}\n")


@pytest.mark.parametrize(
    "text",
    [
        f"url: 'postgresql://u:{SECRET}@h\nredis: [",
        f"url: *{SECRET}\n",
        f"url: !{SECRET} x\n",
        f"!!python/object/apply:os.system ['{SECRET}']",
        f"a: 1\n---\nb: {SECRET}\n",
        f"url: {SECRET}\x07\n",
        f"l1_ttl: 2020-13-45\nurl: {SECRET}\n",
    ],
)
def test_a_broken_file_is_refused_by_place_and_never_quoted(read: Read, text: str):
    with pytest.raises(ConfigError, match=r"app\.yaml: found text that is not YAML") as caught:
        read(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "text",
    [
        f"url: u:{SECRET}@h\n",
        f"redis: http://:{SECRET}@h\n",
        f"encryption_keys: {SECRET}\n",
        f"encryption_keys: {{k1: {SECRET}}}\n",
        f"encryption_keys: {{'{TEXT}': {SECRET}}}\n",
        f"encryption_keys: [{SECRET}]\n",
        f"l2_mac_key: {SECRET}\n",
        f"redis_password: {SECRET}\n",
        f"redis_password: [{SECRET}]\n",
        f"pool_size: redis://:{SECRET}@h\n",
    ],
)
def test_no_error_shows_a_secret(read: Read, text: str):
    with pytest.raises(ConfigError, match=r"app\.yaml: ") as caught:
        read(text)
    assert SECRET not in str(caught.value)
    assert TEXT not in str(caught.value)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        from_yaml(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"key_prefix: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: cannot be read: it is not UTF-8"):
        from_yaml(tmp_path / "latin.yaml")


def test_without_pyyaml_the_error_prints_the_pip_line(read: Read, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDriverError, match=r"pip install 'datalayer\[yaml\]'"):
        read("l1_ttl: 5m\n")


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TTL", "7s")
    (tmp_path / "a.yaml").write_text("l1_ttl: ${SOME_TTL}\n")
    assert from_yaml(tmp_path / "a.yaml").l1_ttl == 7.0

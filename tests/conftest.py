"""Fixtures that every test may use: real servers, empty databases, a seeded random source, no threads left behind.

The environment that steers them: DATALAYER_TEST_PG_URL, DATALAYER_TEST_REDIS_URL and DATALAYER_TEST_SERVICES (see
datalayer.testing.servers.find), DATALAYER_TEST_MEMCACHED, DATALAYER_TEST_REQUIRE (``postgres,redis,memcached``: absent
servers end the run with exit code 3 instead of skipping) and DATALAYER_TEST_SEED.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from sqlalchemy.engine import make_url

from datalayer.testing.servers import (
    MemcachedServer,
    PostgresServer,
    PrivatePostgres,
    RedisServer,
    ServerDead,
    ServersMissing,
    find_memcached,
    find_postgres,
    find_redis,
)

Server = PostgresServer | RedisServer | MemcachedServer

_FINDERS: dict[str, Callable[[], Server]] = {
    "postgres": find_postgres,
    "redis": find_redis,
    "memcached": find_memcached,
}
_SERVERS = pytest.StashKey["Servers"]()
_SEED = pytest.StashKey[str]()
_THREAD_GRACE_SECONDS = 5.0

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, max_examples=200)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


class Servers:
    """The servers of this run by kind: found once, in the controller when there are workers, stopped at its end.

    Workers share them, except a PostgreSQL that was started for the run: each has its own, because transactions of one
    worker's tests would keep the epochs of another's from being settled.
    """

    def __init__(self) -> None:
        self.found: dict[str, Server] = {}
        self.missing: dict[str, str] = {}
        self._more: list[Server] = []
        self._workers = 0

    def get(self, kind: str) -> Server:
        """Return the server or skip the test with the list of sources tried."""
        self.search(kind)
        if kind in self.missing:
            pytest.skip(self.missing[kind])
        return self.found[kind]

    def search(self, kind: str) -> None:
        if kind in self.found or kind in self.missing:
            return
        try:
            self.found[kind] = _FINDERS[kind]()
        except ServersMissing as missing:
            self.missing[kind] = str(missing)

    def stop(self) -> None:
        for server in (*self.found.values(), *self._more):
            server.stop()

    def lines(self) -> list[str]:
        found = [f"{kind}: {server.version} from {server.source}" for kind, server in self.found.items()]
        return found + [f"{kind}: none" for kind in self.missing]

    def to_worker(self) -> dict[str, dict[str, tuple[str, str]] | dict[str, str]]:
        found = dict(self.found)
        if self._workers and isinstance(found.get("postgres"), PrivatePostgres):
            found["postgres"] = _FINDERS["postgres"]()
            self._more.append(found["postgres"])
        self._workers += 1
        return {"found": {k: (s.url, s.source) for k, s in found.items()}, "missing": self.missing}

    @classmethod
    def from_controller(cls, sent: dict[str, dict[str, tuple[str, str]]]) -> Servers:
        servers = cls()
        types = {"postgres": PostgresServer, "redis": RedisServer, "memcached": MemcachedServer}
        servers.found = {kind: types[kind](*how) for kind, how in sent["found"].items()}
        servers.missing = {kind: str(why) for kind, why in sent["missing"].items()}
        return servers


# -- the run ---------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    sent = getattr(config, "workerinput", None)
    if sent is not None:
        config.stash[_SERVERS] = Servers.from_controller(sent["datalayer_servers"])
        config.stash[_SEED] = sent["datalayer_seed"]
        return
    config.stash[_SEED] = os.environ.get("DATALAYER_TEST_SEED") or secrets.token_hex(4)
    config.stash[_SERVERS] = servers = Servers()
    config.add_cleanup(servers.stop)
    if config.option.collectonly:
        return
    _search_now(config, servers)
    if _has_workers(config):
        config.pluginmanager.register(_Controller(), "datalayer-controller")


def _search_now(config: pytest.Config, servers: Servers) -> None:
    """Look for what is required, and for all before workers start: they share what the controller found."""
    required = [kind for kind in os.environ.get("DATALAYER_TEST_REQUIRE", "").replace(" ", "").split(",") if kind]
    if unknown := set(required) - set(_FINDERS):
        pytest.exit(f"DATALAYER_TEST_REQUIRE names {sorted(unknown)}; it may name {sorted(_FINDERS)}", returncode=3)
    try:
        for kind in _FINDERS if _has_workers(config) else required:
            servers.search(kind)
    except ServerDead as dead:
        pytest.exit(str(dead), returncode=3)
    if absent := [servers.missing[kind] for kind in required if kind in servers.missing]:
        pytest.exit("\n".join(["DATALAYER_TEST_REQUIRE is not met:", *absent]), returncode=3)


def _has_workers(config: pytest.Config) -> bool:
    return bool(config.getoption("dist", "no") != "no")


class _Controller:
    """Tells each xdist worker the servers and the seed."""

    def pytest_configure_node(self, node: object) -> None:
        config: pytest.Config = node.config  # type: ignore[attr-defined]
        node.workerinput["datalayer_servers"] = config.stash[_SERVERS].to_worker()  # type: ignore[attr-defined]
        node.workerinput["datalayer_seed"] = config.stash[_SEED]  # type: ignore[attr-defined]


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = config.stash[_SERVERS].lines() or ["servers: started when a test asks for them"]
    return [*lines, f"seed: DATALAYER_TEST_SEED={config.stash[_SEED]}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = getattr(item, "fixturenames", ())
        for kind in _FINDERS:
            if f"{kind}_server" in names:
                item.add_marker(getattr(pytest.mark, kind))


# -- servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    """This worker's PostgreSQL, shared by its tests (and by all workers if it was not started for the run): do not stop
    it; faults need ``start_postgres()``."""
    server = pytestconfig.stash[_SERVERS].get("postgres")
    assert isinstance(server, PostgresServer)
    return server


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> RedisServer:
    """The run's Redis or Valkey, shared by all tests and workers: do not stop it; faults need ``start_redis()``."""
    server = pytestconfig.stash[_SERVERS].get("redis")
    assert isinstance(server, RedisServer)
    return server


@pytest.fixture(scope="session")
def memcached_server(pytestconfig: pytest.Config) -> MemcachedServer:
    """The run's memcached, shared by all tests and workers: use keys of your own; faults need ``start_memcached()``."""
    server = pytestconfig.stash[_SERVERS].get("memcached")
    assert isinstance(server, MemcachedServer)
    return server


@pytest.fixture
def pg_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty database of this test's own."""
    yield from _database(postgres_server)


@pytest.fixture(scope="module")
def pg_module_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a database that the tests of one module share, empty at first."""
    yield from _database(postgres_server)


def _database(server: PostgresServer) -> Iterator[str]:
    name = f"test_{os.getpid()}_{secrets.token_hex(4)}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def redis_url(redis_server: RedisServer, worker_number: int) -> Iterator[str]:
    """URL of an empty logical database that no other worker uses. Channels know no databases: see ``key_prefix``."""
    url = make_url(redis_server.url)
    number = int(url.database or 0) + 1 + worker_number
    own = url.set(database=str(number)).render_as_string(hide_password=False)
    if number >= redis_server.databases:
        pytest.fail(f"worker {worker_number} needs logical database {number}, Redis has {redis_server.databases}")
    with redis.Redis.from_url(own) as client:
        client.flushdb()
        yield own
        client.flushdb()


@pytest.fixture(scope="session")
def worker_number() -> int:
    """0 for the first xdist worker and without workers, 1 for the second, ..."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


@pytest.fixture
def key_prefix() -> str:
    """A prefix for keys and channels that no other test has."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture(params=["sqlite-memory", "sqlite-file", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database: the test runs once on each kind."""
    if request.param == "sqlite-memory":
        return "sqlite://"
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite-file" else "pg_url")
    return url


# -- randomness and tidiness -----------------------------------------------------------------------------------------


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and the test's name only, in any order of tests."""
    return random.Random(f"{request.config.stash[_SEED]}:{request.node.nodeid}")


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves one of our own threads running."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _THREAD_GRACE_SECONDS
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("datalayer-")]
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    if running := sorted(thread.name for thread in left if thread.is_alive()):
        pytest.fail(f"threads left running: {', '.join(running)}; close what started them", pytrace=False)

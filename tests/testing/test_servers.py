"""The servers that all other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
import sqlalchemy as sa
from redis.sentinel import MasterNotFoundError, Sentinel

from datalayer.errors import ConfigError
from datalayer.testing.ports import free_port
from datalayer.testing.servers import (
    PostgresServer,
    PrivatePostgres,
    PrivateRedis,
    ServerDead,
    ServersMissing,
    find_postgres,
    find_redis,
    redis_binaries,
    start_cluster,
    start_postgres,
    start_redis,
    start_sentinel,
)
from datalayer.testing.servers.cluster import wait_until

_BINARIES = [path for _, path in redis_binaries() if path.exists()]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture
def own_redis() -> Iterator[PrivateRedis]:
    server = start_redis(options={"appendonly": "yes", "appendfsync": "always"})
    yield server
    server.stop()


def _scalar(url: str, statement: str) -> object:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        return connection.exec_driver_sql(statement).scalar()


def test_each_test_gets_an_empty_database(pg_url: str, postgres_server: PostgresServer) -> None:
    assert pg_url != postgres_server.url
    assert _scalar(pg_url, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == 0


def test_a_dropped_database_is_gone_though_somebody_is_connected(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database("dropped_under_use")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        postgres_server.drop_database("dropped_under_use")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_gets_an_empty_redis(redis_url: str, attempt: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", attempt)


def test_any_url_is_an_empty_database(any_url: str) -> None:
    engine = sa.create_engine(any_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_committed_rows_survive_a_kill_of_postgres(postgres: PrivatePostgres) -> None:
    url = postgres.create_database("survives")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("create table t as select 7 as n")
        connection.commit()
        postgres.kill()
        assert not postgres.alive
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    postgres.restart()
    assert _scalar(url, "select n from t") == 7


def test_a_paused_postgres_keeps_silent_until_resumed(postgres: PrivatePostgres) -> None:
    with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
        backend = connection.info.backend_pid
        postgres.pause()
        try:
            assert _state(backend) == "T"
            assert _state(postgres.pid) == "T"
        finally:
            postgres.resume()
        assert connection.execute("select 1").fetchone() == (1,)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_replica_follows_its_primary(postgres: PrivatePostgres) -> None:
    replica = postgres.replica()
    try:
        postgres.create_database("followed")
        arrived = "select exists (select from pg_database where datname = 'followed')"
        wait_until("the database arrives", lambda: _scalar(replica.url, arrived) is True)
        assert _scalar(replica.url, "select pg_is_in_recovery()") is True
    finally:
        replica.stop()


def test_a_killed_redis_comes_back_on_its_port_with_its_log(own_redis: PrivateRedis) -> None:
    with own_redis.client() as client:
        client.set("k", "v")
    own_redis.kill()
    assert not own_redis.alive
    own_redis.restart()
    with own_redis.client() as client:
        assert client.get("k") == "v"


def test_a_paused_redis_times_out_and_answers_after_resume(own_redis: PrivateRedis) -> None:
    own_redis.pause()
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.1, retry=None) as client:
        with pytest.raises(redis.TimeoutError):
            client.ping()
        own_redis.resume()
        assert client.ping() is True


def test_a_password_is_part_of_the_url() -> None:
    server = start_redis(options={"requirepass": "letmein"})
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping() is True
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("binary", _BINARIES, ids=lambda path: path.name)
def test_a_cluster_serves_all_slots(binary: Path) -> None:
    cluster = start_cluster(binary=binary)
    try:
        with redis.RedisCluster.from_url(cluster.url, decode_responses=True) as client:
            assert [client.set(f"k{n}", n) for n in range(50)] == [True] * 50
            assert len(client.get_primaries()) == 3
            assert len(client.get_nodes()) == 6
    finally:
        cluster.stop()


@pytest.mark.slow
@pytest.mark.parametrize("binary", _BINARIES, ids=lambda path: path.name)
def test_sentinels_replace_a_killed_master(binary: Path) -> None:
    group = start_sentinel(binary=binary)
    sentinel = Sentinel(group.addresses, socket_timeout=0.5)
    try:
        assert sentinel.discover_master(group.name)[1] == group.master.port
        group.master.kill()
        wait_until("a new master is named", lambda: _master(sentinel, group.name) == group.replicas[0].port)
    finally:
        for client in sentinel.sentinels:
            client.close()
        group.stop()


def _master(sentinel: Sentinel, name: str) -> int | None:
    try:
        return int(sentinel.discover_master(name)[1])
    except MasterNotFoundError:
        return None


def test_a_server_ends_with_a_killed_process_and_the_next_run_removes_its_folder(tmp_path: Path) -> None:
    program = (
        "import os, signal; from datalayer.testing.servers import start_redis; s = start_redis();"
        "print(s.pid, s._folder.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, folder = done.stdout.split()
    wait_until("the server is gone", lambda: not Path(f"/proc/{pid}").exists() or _state(int(pid)) == "Z")
    os.utime(folder, (0, 0))
    again = "from datalayer.testing.servers import start_redis; start_redis()"
    subprocess.run([sys.executable, "-c", again], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_server_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATALAYER_TEST_PG_URL", f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    monkeypatch.setenv("DATALAYER_TEST_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(ServerDead, match="DATALAYER_TEST_PG_URL"):
        find_postgres(services="auto")
    with pytest.raises(ServerDead, match="DATALAYER_TEST_REDIS_URL"):
        find_redis(services="auto")


def test_a_live_server_in_the_environment_is_used(own_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATALAYER_TEST_REDIS_URL", own_redis.url)
    assert find_redis(services="auto").url == own_redis.url


def test_absent_servers_are_listed_by_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATALAYER_TEST_REDIS_URL", raising=False)
    with pytest.raises(ServersMissing, match="env: DATALAYER_TEST_REDIS_URL is not set"):
        find_redis(services="env")


def test_an_unknown_choice_of_services_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="auto, env, docker, local"):
        find_postgres(services="cloud")

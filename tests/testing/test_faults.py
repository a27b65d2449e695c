"""The faults do what they say, on real servers and real processes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import redis
import sqlalchemy as sa

from datalayer.contracts.pauses import point
from datalayer.testing.faults import (
    Moving,
    RedisPair,
    cut_bus,
    cut_commit_reply,
    evict_headers,
    evict_values,
    freeze,
    kill_at,
    lock_rows,
    restart_redis,
    terminate_backends,
)
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_redis
from datalayer.testing.servers.cluster import wait_until
from datalayer.testing.servers.redis_server import PrivateRedis
from datalayer.tiers.l2.links import pack


@pytest.fixture
def server() -> Iterator[PrivateRedis]:
    server = start_redis()
    yield server
    server.stop()


@pytest.mark.parametrize("keep", [True, False])
def test_a_restart_keeps_the_data_or_loses_them(server: PrivateRedis, keep: bool) -> None:
    with server.client() as client:
        client.set("a", "1")
        before = client.info("replication")["master_replid"]
    restart_redis(server, keep_data=True)
    restart_redis(server, keep_data=keep)
    with server.client() as client:
        assert client.get("a") == ("1" if keep else None)
        assert client.info("replication")["master_replid"] != before


def test_values_and_headers_are_evicted_apart(server: PrivateRedis) -> None:
    with server.client() as client:
        client.hset("{dl:0}:h", "e", "1.a")
        client.mset({f"{{dl:0}}:v:rows:{i}": "V" for i in range(5)} | {"{other:0}:v:rows:1": "V"})
    assert evict_values(server, "dl", random.Random(1), most=3) == 3
    with server.client() as client:
        assert client.dbsize() == 4
        assert client.exists("{dl:0}:h")
    assert evict_headers(server, "dl", random.Random(1)) == 1


def test_subscribers_lose_their_connection(server: PrivateRedis) -> None:
    with server.client() as client, client.pubsub() as hearing:
        hearing.subscribe("c")
        assert hearing.get_message(timeout=5) is not None
        assert cut_bus(server) == 1
        assert client.ping()


def test_a_fail_over_loses_what_the_replica_missed_and_clients_move_one_by_one() -> None:
    pair = RedisPair()
    try:
        wait_until("the replica is in step", lambda: _link(pair.other) == "up")
        where = [pair.master.port]
        clients = Moving(lambda: where[0], timeout=1.0, most=4)
        _ask(clients, "SET", "a", "old")
        wait_until("the replica has it", lambda: _get(pair.other) == "old")
        pair.freeze_replica()
        _ask(clients, "SET", "a", "new")
        pair.fail_over()
        assert _ask(clients, "GET", "a") == b"new", "still with the old master"
        where[0] = pair.master.port
        assert _ask(clients, "GET", "a") == b"old"
        pair.rejoin()
        wait_until("the old master has been replaced", lambda: _get(pair.other) == "old")
        clients.close()
    finally:
        pair.stop()


def _ask(clients: Moving, *words: str) -> object:
    links = clients.links("")
    link = links.take()
    (reply,) = link.ask(pack(words), 1)
    links.give(link)
    return reply


def _link(server: PrivateRedis) -> object:
    with server.client() as client:
        return client.info("replication").get("master_link_status")


def _get(server: PrivateRedis) -> object:
    with server.client() as client:
        try:
            return client.get("a")
        except redis.RedisError:
            return None


def test_backends_are_terminated(pg_url: str) -> None:
    engine = sa.create_engine(pg_url)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        assert terminate_backends(pg_url) == 1
        with pytest.raises(sa.exc.OperationalError):
            connection.execute(sa.text("SELECT 1"))
    engine.dispose()


@pytest.mark.parametrize("sent", [True, False])
def test_a_commit_is_lost_on_its_way_or_on_its_way_back(pg_url: str, sent: bool) -> None:
    with TcpProxy.for_url(pg_url) as proxy:
        direct, cut = sa.create_engine(pg_url), sa.create_engine(proxy.url)
        with direct.begin() as connection:
            connection.execute(sa.text("CREATE TABLE c (id int)"))
        connection = cut.connect()
        connection.execute(sa.text("INSERT INTO c VALUES (1)"))
        cut_commit_reply(proxy, sent=sent)
        with pytest.raises(sa.exc.OperationalError):
            connection.commit()
        connection.close()
        with direct.connect() as connection:
            wait_until("the server noticed", lambda: _idle(connection) == 0)
            assert connection.scalar(sa.text("SELECT count(*) FROM c")) == int(sent)
        direct.dispose(), cut.dispose()


def _idle(connection: sa.Connection) -> object:
    connection.rollback()  # PostgreSQL shows one transaction the same list every time
    return connection.scalar(
        sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
    )


def test_rows_are_locked_by_somebody_else(pg_url: str) -> None:
    engine = sa.create_engine(pg_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE c (id int)"))
        connection.execute(sa.text("INSERT INTO c VALUES (1), (2)"))
    with lock_rows(pg_url, "c", [1]), engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
        connection.execute(sa.text("UPDATE c SET id = 2 WHERE id = 2"))
        with pytest.raises(sa.exc.OperationalError) as failure:
            connection.execute(sa.text("UPDATE c SET id = 1 WHERE id = 1"))
        assert isinstance(failure.value.orig, psycopg.errors.LockNotAvailable)
    engine.dispose()


def test_a_process_stands_still_and_goes_on() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            os.write(write, b"x")
            time.sleep(0.001)
    try:
        os.read(read, 1)
        timer = freeze(child, 0.3)
        assert os.waitpid(child, os.WUNTRACED)[1] != 0
        os.set_blocking(read, False)
        _drained(read)
        assert _drained(read) == 0
        timer.join()
        os.set_blocking(read, True)
        assert os.read(read, 1) == b"x"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read), os.close(write)


def _drained(read: int) -> int:
    try:
        return len(os.read(read, 1 << 20))
    except BlockingIOError:
        return 0


def test_a_process_dies_at_the_point_it_is_told() -> None:
    child = os.fork()
    if child == 0:
        with kill_at("done.before", threading.Event().is_set):
            point("done.before")
        with kill_at("done.before", lambda: True):
            point("revoke.after")
            point("done.before")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

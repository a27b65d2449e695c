"""The proxy that breaks connections for the fault tests."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import redis

from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers.cluster import wait_until


@pytest.fixture
def proxy(redis_url: str) -> Iterator[TcpProxy]:
    with TcpProxy.for_url(redis_url) as made:
        yield made


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(proxy.url, socket_timeout=0.2, retry=None, decode_responses=True, protocol=2) as made:
        made.set("k", "v")
        yield made


def test_bytes_pass_unchanged_in_any_size(client: redis.Redis, rng: random.Random) -> None:
    big = rng.randbytes(500_000).hex()
    client.set("big", big)
    assert client.get("big") == big


def test_held_bytes_arrive_after_the_hold(proxy: TcpProxy, client: redis.Redis) -> None:
    proxy.hold()
    with pytest.raises(redis.TimeoutError):
        client.incr("n")
    proxy.pass_()
    # The client has hung up and comes back on a second connection, which nothing keeps behind the first.
    wait_until("the held command arrives", lambda: int(client.get("n") or 0) == 1)
    assert client.incr("n") == 2


def test_a_blackhole_swallows_the_request_for_ever(proxy: TcpProxy, client: redis.Redis) -> None:
    proxy.blackhole()
    with pytest.raises(redis.TimeoutError):
        client.incr("n")
    proxy.pass_()
    assert client.incr("n") == 1


def test_a_connection_that_lost_bytes_is_reset_when_healed(proxy: TcpProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as end:
        assert proxy.wait_open(1)
        proxy.blackhole()
        end.sendall(b"PING\r\n")
        wait_until("it is lost", lambda: proxy.open == 1 and next(iter(proxy._links))._lossy)
        proxy.pass_()
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_reset_breaks_open_and_new_connections(proxy: TcpProxy, client: redis.Redis) -> None:
    proxy.reset()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.ping()
    proxy.pass_()
    assert client.get("k") == "v"


def test_refuse_looks_like_no_server(proxy: TcpProxy, client: redis.Redis) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    with pytest.raises(redis.ConnectionError):
        client.ping()
    proxy.pass_()
    assert client.get("k") == "v"


def test_latency_delays_both_ways(proxy: TcpProxy, client: redis.Redis) -> None:
    proxy.latency(0.03)
    start = time.monotonic()
    client.get("k")
    assert time.monotonic() - start >= 0.06


def test_a_cut_reply_was_executed(proxy: TcpProxy, client: redis.Redis, redis_url: str) -> None:
    proxy.cut(b"INCR", side="request", answered=True)
    with pytest.raises(redis.ConnectionError):
        client.incr("n")
    assert proxy.wait_cut()
    assert client.get("n") == "1"


def test_a_cut_request_was_not_executed(proxy: TcpProxy, client: redis.Redis) -> None:
    proxy.cut(b"INCR", side="request", keep_match=False)
    with pytest.raises(redis.ConnectionError):
        client.incr("n")
    assert client.get("n") is None


@pytest.mark.parametrize(("keep", "expected"), [(True, b"+PONG"), (False, b"+P")])
def test_a_pattern_split_over_chunks_is_found(proxy: TcpProxy, keep: bool, expected: bytes) -> None:
    ours, theirs = _listening()
    with ours, TcpProxy(theirs) as middle, socket.create_connection(("127.0.0.1", middle.port)) as end:
        server, _ = ours.accept()
        with server:
            middle.cut(b"ONG", keep_match=keep)
            server.sendall(b"+PO")
            got = end.recv(3)
            server.sendall(b"NG\r\n")
            assert got + _until_reset(end) == (expected if keep else b"+PO")


def _listening() -> tuple[socket.socket, tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, listener.getsockname()


def _until_reset(end: socket.socket) -> bytes:
    got = b""
    try:
        while data := end.recv(100):
            got += data
    except ConnectionResetError:
        return got
    raise AssertionError(f"an orderly end after {got!r}, not a reset")


def test_exactly_the_reply_to_commit_is_lost(pg_url: str) -> None:
    plain = pg_url.replace("+psycopg", "")
    with TcpProxy.for_url(plain) as middle, psycopg.connect(middle.url) as connection:
        connection.execute("create table t (n int)")
        middle.cut(b"COMMIT\x00", keep_match=False)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        with psycopg.connect(plain) as other:
            assert other.execute("select count(*) from t").fetchone() == (0,)


def test_an_orderly_end_is_passed_on(proxy: TcpProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as end:
        end.sendall(b"QUIT\r\n")
        assert end.recv(100) == b"+OK\r\n"
        assert end.recv(100) == b""
    assert proxy.wait_open(0)


def test_a_peer_that_does_not_read_cannot_keep_the_proxy_from_closing() -> None:
    ours, theirs = _listening()
    with ours, TcpProxy(theirs) as middle, socket.create_connection(("127.0.0.1", middle.port)) as end:
        end.setblocking(False)
        try:
            while True:
                end.send(bytes(65536))
        except BlockingIOError:
            middle.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(f"datalayer-proxy-{middle.port}")]


def test_an_impossible_cut_is_refused(proxy: TcpProxy) -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        proxy.cut(b"")
    with pytest.raises(ValueError, match="answered"):
        proxy.cut(b"x", answered=True)

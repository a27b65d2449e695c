"""What happens to connections to PostgreSQL: backends that are terminated, and a COMMIT whose reply is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from datalayer.testing.proxy import TcpProxy


def terminate_backends(url: str, *, most: int | None = None) -> int:
    """End sessions of a database, all or some picked by the server's chance; returns how many."""
    with _connect(url) as connection:
        row = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE pid <> "
            "pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend' "
            "ORDER BY random() LIMIT %s) s",
            (most,),
        ).fetchone()
    return int(row[0]) if row else 0


def cut_commit_reply(proxy: TcpProxy, *, sent: bool = True) -> None:
    """Arm: the next COMMIT through the proxy is executed but never confirmed, or (``sent=False``) does not arrive."""
    proxy.cut(b"COMMIT\0", side="request", answered=True) if sent else proxy.cut(
        b"COMMIT\0", side="request", keep_match=False
    )


def half_open(proxy: TcpProxy) -> None:
    """The peer is gone and nobody says so: bytes go nowhere, connections stay open until somebody gives up."""
    proxy.blackhole()


@contextmanager
def lock_rows(url: str, table: str, ids: Sequence[Any]) -> Iterator[None]:
    """Another transaction holds the row locks of these rows inside the block."""
    with _connect(url) as connection, connection.transaction():
        connection.execute(
            sql.SQL("SELECT 1 FROM {} WHERE id = ANY(%s) FOR UPDATE").format(sql.Identifier(table)), (list(ids),)
        )
        yield


def _connect(url: str) -> psycopg.Connection:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=5)

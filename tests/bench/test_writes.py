"""Bulk loads beside COPY written by hand, and single writes beside the plain ORM. One interleaved run each."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from datalayer import DataLayer
from datalayer.testing.counting import Statements

Report = Callable[[str, str, str], None]

ROWS = int(os.environ.get("DATALAYER_BENCH_ROWS", "100000"))
ROUNDS = int(os.environ.get("DATALAYER_BENCH_ROUNDS", "4"))
_TYPES = ["varchar", "varchar", "varchar", "varchar", "int4", "int4", "float8", "bool", "timestamptz", "timestamptz"]


@pytest.fixture
def hand(place: Any) -> Iterator[psycopg.Connection]:
    """A plain connection of the driver, and the table as it was after the test."""
    with psycopg.connect(place.url.replace("+psycopg", "")) as connection:
        yield connection
        connection.rollback()
        connection.execute("TRUNCATE bench_users")
        connection.commit()
    engine = sa.create_engine(place.url)
    with engine.begin() as refill:
        refill.execute(sa.insert(place.User), [place.row(i) for i in range(len(place.ids))])
    engine.dispose()


def copy_by_hand(connection: psycopg.Connection, names: list[str], rows: list[tuple[Any, ...]]) -> None:
    """What somebody would write who knows the types, and has no caches to keep right."""
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY bench_users ({', '.join(names)}) FROM STDIN WITH (FORMAT BINARY)") as copy,
    ):
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)
    connection.commit()


def test_bulk_loads(place: Any, hand: psycopg.Connection, report: Report) -> None:
    mappings = [place.row(i) for i in range(ROWS)]
    names, tuples = list(mappings[0]), [tuple(row.values()) for row in mappings]
    with place.layer() as layer:
        users = layer.repository(place.User)

        def empty() -> None:
            hand.execute("TRUNCATE bench_users")
            hand.commit()

        def filled(share: int) -> Callable[[], None]:
            def fill() -> None:
                empty()
                copy_by_hand(hand, names, tuples[:: 100 // share])

            return fill

        def orm() -> None:
            with Session(layer.engine) as session:
                session.execute(sa.insert(place.User), mappings)
                session.commit()

        def update(rows: Any) -> Callable[[], Any]:
            return lambda: users.bulk_load(rows, on_conflict="update")

        cases: dict[str, tuple[Callable[[], None], Callable[[], Any]]] = {
            "binary COPY by hand": (empty, lambda: copy_by_hand(hand, names, tuples)),
            "bulk_load of tuples": (empty, lambda: users.bulk_load(tuples)),
            "bulk_load of mappings": (empty, lambda: users.bulk_load(mappings)),
            "bulk upsert, all rows new": (empty, update(tuples)),
            "bulk upsert, half of the rows exist": (filled(50), update(tuples)),
            "bulk upsert, all rows exist": (filled(100), update(tuples)),
            "ORM bulk insert": (empty, orm),
        }
        best: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name, (prepare, act) in cases.items():
                prepare()
                gc.collect()
                began = time.perf_counter()
                act()
                best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
                assert users.count() == ROWS
    base = best["binary COPY by hand"]
    for name, took in best.items():
        report(
            "P8", f"{name} of {ROWS:,} rows / binary COPY", f"{took / base:7.2f} x wall   ({ROWS / took:9,.0f} rows/s)"
        )


class Trips:
    """How often the thread that writes waits for Redis, and how often it sends without waiting."""

    def __init__(self) -> None:
        self.waits = self.posts = 0


@contextmanager
def counted(layer: DataLayer) -> Iterator[Trips]:
    wire, me, trips = layer._parts.l2._wire, threading.get_ident(), Trips()  # type: ignore[attr-defined]
    attempt, post = wire._attempt, wire.post

    def attempted(*args: Any) -> Any:
        trips.waits += threading.get_ident() == me
        return attempt(*args)

    def posted(*args: Any) -> Any:
        trips.posts += threading.get_ident() == me
        return post(*args)

    wire._attempt, wire.post = attempted, posted
    try:
        yield trips
    finally:
        del wire._attempt, wire.post


def test_single_writes(place: Any, times: Any, report: Report) -> None:
    keys = place.ids[:40]
    turn = [0]

    def changed() -> int:
        turn[0] += 1
        return turn[0]

    def writing(open_session: Callable[[], Session]) -> Callable[[], None]:
        def write() -> None:
            for key in keys:
                with open_session() as session:
                    session.get_one(place.User, key).age = changed()
                    session.commit()

        return write

    engine = sa.create_engine(place.url)
    with place.layer() as alone, place.layer(redis=place.redis_url, key_prefix="bench-writes") as shared:
        users = shared.repository(place.User)
        for key in keys:
            users.get(key)

        def update() -> None:
            for key in keys:
                users.update(key, age=changed())

        times.run(
            {
                "plain": (writing(lambda: Session(engine)), len(keys)),
                "alone": (writing(alone.session), len(keys)),
                "shared": (writing(shared.session), len(keys)),
                "update": (update, len(keys)),
            },
            rounds=12,
        )
        with counted(shared) as trips, Statements(shared.engine) as statements:
            for key in keys:
                with shared.session() as session:
                    session.get_one(place.User, key).age = changed()
                    trips.waits = trips.posts = 0  # those of the read are the read's
                    session.commit()
                assert trips.waits <= 1, "one wait for Redis, before COMMIT"
                assert trips.posts <= 1, "one message after it, which nobody waits for"
            assert statements.taken() <= 2 * len(keys)
        assert {users.get_one(key, consistency="shared").age for key in keys} == set(
            range(turn[0] - len(keys) + 1, turn[0] + 1)
        )
    engine.dispose()
    names = {
        "alone": "get + change + commit, without Redis / the plain ORM",
        "shared": "get + change + commit, with Redis / the plain ORM",
        "update": "repository.update(), with Redis / the plain ORM's get + commit",
    }
    for name, what in names.items():
        report("P9", what, times.ratio(name, "plain"))

"""What write-behind gives: acknowledgements and their latencies beside write-through, flush rate, coalescing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, DataLayer, WriteMode
from datalayer.testing.servers import find_postgres, start_redis

CALLS = 150
ROUNDS = 2


class Base(DeclarativeBase):
    pass


class _Columns:
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    city: Mapped[str]
    score: Mapped[float]
    points: Mapped[int]


class Through(_Columns, Base):
    __tablename__ = "bench_through"


class Behind(_Columns, Base):
    __tablename__ = "bench_behind"
    __cache__ = CachePolicy(write_mode=WriteMode.BEHIND)


def row(i: int) -> dict[str, Any]:
    return {"id": i, "name": f"Name Surname {i}", "city": "Springfield", "score": i * 0.37, "points": i}


@pytest.fixture(params=["redis", "file", "file without Redis"])
def layer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DataLayer]:
    postgres = find_postgres()
    url, redis = postgres.create_database("bench_behind"), start_redis(options={"appendonly": "yes"})
    options: dict[str, Any] = {"journal": "redis"}
    if request.param != "redis":
        options = {"journal": "file", "journal_path": str(tmp_path / "j")}
    address = None if request.param == "file without Redis" else redis.url
    with DataLayer(url, redis=address, models=Base, **options) as layer:
        layer.migrate()
        yield layer
    redis.stop()
    postgres.drop_database("bench_behind")


def latencies(call: Callable[[int], object]) -> list[float]:
    found = []
    for i in range(CALLS):
        began = time.perf_counter()
        call(i)
        found.append(time.perf_counter() - began)
    return sorted(found)


def shown(name: str, found: list[float]) -> str:
    p50, p99 = found[len(found) // 2] * 1e6, found[len(found) * 99 // 100] * 1e6
    return f"{name}: {len(found) / sum(found):,.0f} writes/s, p50 {p50:,.0f} us, p99 {p99:,.0f} us"


def test_acknowledgements_beside_write_through(layer: DataLayer, request: pytest.FixtureRequest) -> None:
    through, behind = layer.repository(Through), layer.repository(Behind)
    for i in range(50):
        through.set(Through(**row(i)))
        behind.set(Behind(**row(i)))
    one, two = [], []
    for _ in range(ROUNDS):  # interleaved
        one += latencies(lambda i: through.set(Through(**row(i))))
        two += latencies(lambda i: behind.set(Behind(**row(i))))
    layer.flush(30)
    one, two = sorted(one), sorted(two)
    print(f"\n{request.node.name}\n  {shown('through', one)}\n  {shown('behind', two)}")
    print(f"  ratio of the medians: {two[len(two) // 2] / one[len(one) // 2]:.2f}")
    assert layer._behind().counts["acknowledged"] == 50 + ROUNDS * CALLS


def test_flush_rate_and_coalescing(layer: DataLayer, request: pytest.FixtureRequest) -> None:
    behind = layer.repository(Behind)
    engine = layer._behind()
    for rows, writes in ((4_000, 4_000), (100, 4_000)):
        engine.options = replace(engine.options, threshold=10**9, backlog=10**9)
        engine._turning.acquire()  # the flusher waits until all of it is queued
        try:
            for at in range(0, writes, 200):
                behind.set_many([Behind(**row(i % rows)) for i in range(at, at + 200)])
        finally:
            engine._turning.release()
        before = engine.counts.copy()
        began = time.perf_counter()
        assert layer.flush(120).ok
        seconds = time.perf_counter() - began
        flushed = engine.counts["flushed"] - before["flushed"]
        written = engine.counts["rows"] - before["rows"]
        print(
            f"\n{request.node.name}: {writes:,} writes of {rows:,} rows: {flushed / seconds:,.0f} entries/s flushed, "
            f"{written / seconds:,.0f} rows/s, {flushed / max(1, written):.1f} entries a row"
        )
        assert flushed == writes

"""What the benchmarks share: servers, rows of ten columns, and interleaved timing."""

from __future__ import annotations

import datetime as dt
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from datalayer import DataLayer
from datalayer.testing.servers import find_postgres, find_redis

ROWS = 2000


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "bench_parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class User(Base):
    """Ten columns: a text key, three texts, two integers, a float, a boolean and two moments."""

    __tablename__ = "bench_users"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(200))
    city: Mapped[str] = mapped_column(String(100))
    age: Mapped[int]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("bench_parents.id"))
    score: Mapped[float]
    active: Mapped[bool]
    created_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    updated_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    parent: Mapped[Parent | None] = relationship()


def row(i: int) -> dict[str, Any]:
    start = dt.datetime(2024, 5, 17, 12, 34, 56, 123456, tzinfo=dt.UTC)
    return {
        "id": f"user-{i:031d}",
        "name": f"Name Surname {i}",
        "email": f"user{i}@example.com",
        "city": "Springfield",
        "age": 20 + i % 60,
        "parent_id": 1 + i % 10,
        "score": i * 0.37,
        "active": bool(i % 2),
        "created_at": start + dt.timedelta(seconds=i),
        "updated_at": start + dt.timedelta(days=1, seconds=i),
    }


class Place:
    """A filled database, an empty Redis, and the ids."""

    def __init__(self, url: str, redis_url: str) -> None:
        self.url, self.redis_url = url, redis_url
        self.ids = [row(i)["id"] for i in range(ROWS)]
        self.User, self.Parent, self.row = User, Parent, row

    def layer(self, **options: Any) -> DataLayer:
        return DataLayer(self.url, models=Base, **options)


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    postgres, redis = find_postgres(), find_redis()
    url = postgres.create_database("bench")
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Parent(id=i, name=f"p{i}") for i in range(1, 11)])
        session.flush()
        session.execute(sa.insert(User), [row(i) for i in range(ROWS)])
        session.commit()
    engine.dispose()
    yield Place(url, redis.url)
    postgres.stop()
    redis.stop()


class Times:
    """The best wall and CPU time of each case, in microseconds a call, all cases interleaved in one process."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def run(self, cases: dict[str, tuple[Callable[[], Any], int]], rounds: int = 15) -> None:
        for _ in range(rounds):
            for name, (call, count) in cases.items():
                gc.collect()
                wall, cpu = time.perf_counter(), time.process_time()
                call()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                self.wall[name] = min(self.wall.get(name, 1e9), wall / count * 1e6)
                self.cpu[name] = min(self.cpu.get(name, 1e9), cpu / count * 1e6)

    def ratio(self, name: str, base: str) -> str:
        wall, cpu = self.wall[name] / self.wall[base], self.cpu[name] / self.cpu[base]
        return f"{wall:7.2f} x wall {cpu:7.2f} x cpu   ({self.wall[name]:9.2f} us, base {self.wall[base]:9.2f} us)"


LINES: list[str] = []


@pytest.fixture
def report() -> Callable[[str, str, str], None]:
    """Notes one figure: its number in the targets, what it is, and the ratio."""

    def note(number: str, what: str, figure: str) -> None:
        LINES.append(f"{number:4} {what:64} {figure}")

    return note


@pytest.fixture
def times() -> Times:
    return Times()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if LINES:
        terminalreporter.write_line("")
        for line in LINES:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))

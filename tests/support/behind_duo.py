"""Two processes of one application, as far as queued writes are concerned: two layers whose flushers stand still.

Tests say when which of them flushes, at which step it dies, and what Redis loses.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, DataLayer, WriteMode
from datalayer.contracts.pauses import pause_at
from datalayer.writes.behind import Behind
from datalayer.writes.file import FileJournal
from datalayer.writes.reports import FlushReport


class Base(DeclarativeBase):
    __cache__ = CachePolicy(write_mode=WriteMode.BEHIND)


class Row(Base):
    __tablename__ = "duo_rows"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]
    number: Mapped[int] = mapped_column(default=0)


class Child(Base):
    __tablename__ = "duo_children"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    row_id: Mapped[int] = mapped_column(ForeignKey("duo_rows.id"))
    number: Mapped[int] = mapped_column(sa.CheckConstraint("number >= 0"), default=0)


class Killed(BaseException):
    """kill -9, as the code that is killed sees it: nothing after it runs, and nothing catches it."""


def killed() -> None:
    raise Killed


OPTIONS: dict[str, Any] = {
    "write_behind_flush_interval": 3600,
    "write_behind_flush_threshold": 1_000_000,
    "fence_lease": 2.0,  # a slow machine must not end epochs in the middle of a story
    "l1_lease": 0.4,
    "redis_timeout": 0.5,
    "breaker_reset": 0.05,
    "journal_allow_unsafe": True,
}


class Process:
    """One of the two."""

    def __init__(self, layer: DataLayer) -> None:
        self.layer = layer
        self.rows = layer.repository(Row)
        self.children = layer.repository(Child)
        self.behind: Behind = layer._behind()
        self.alive = True

    def write(self, key: int, text: str) -> None:
        self.rows.set(Row(id=key, text=text, number=0))

    def flush(self) -> FlushReport:
        return self.layer.flush(5)

    def turn(self) -> int:
        return self.behind.turn()

    def text(self, key: int) -> str | None:
        """What a strict read says."""
        row = self.rows.get(key, consistency="shared")
        return None if row is None else row.text

    def dies_at(self, point: str, call: Callable[[], object]) -> None:
        """Run a call that is killed at a point of the protocol."""
        with pause_at(point, killed):
            try:
                call()
            except Killed:
                self.die()
                return
        raise AssertionError(f"the call did not pass {point}")

    def die(self) -> None:
        """Nothing is flushed and nothing is said; the system takes the locks back."""
        self.alive = False
        behind, self.layer._parts.behind = self.layer._parts.queue, None
        assert behind is not None
        behind._stop.set()
        behind._wake.set()
        if behind._thread is not None:
            behind._thread.join(5)
        for journal in [*(behind._route.journals() if behind._route is not None else []), *behind._adopted]:
            if isinstance(journal, FileJournal):
                journal._connection.close()
                journal._lock_file.abandon()
        behind._engine.dispose()
        self.layer.close()


class Duo:
    """The two, their database and their Redis."""

    def __init__(self, url: str, redis_url: str | None, prefix: str, **options: Any) -> None:
        self.url, self.redis_url = url, redis_url
        self._options = OPTIONS | {"key_prefix": prefix} | options
        self._processes: list[Process] = []
        with DataLayer(url, models=Base) as layer:
            layer.explain(Row), layer.explain(Child)  # known from now on, with their column for numbers
            Base.metadata.create_all(layer.engine)
        self.a, self.b = self.another(), self.another()
        self.engine = sa.create_engine(url)

    def another(self, **options: Any) -> Process:
        process = Process(DataLayer(self.url, redis=self.redis_url, models=Base, **(self._options | options)))
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            if process.alive:
                process.die()
        self.engine.dispose()

    def stored(self, key: int) -> str | None:
        """What the database has."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(Row.text).where(Row.id == key)).scalar()

    def number(self, key: int) -> int | None:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(Row.number).where(Row.id == key)).scalar()

    def client(self) -> redis.Redis:
        assert self.redis_url is not None
        client: redis.Redis = redis.Redis.from_url(self.redis_url)
        return client

    def lose_redis(self) -> None:
        """Redis forgets everything, and everybody has noticed."""
        before = [p.behind._authority.stands[0].epoch for p in self._alive()]
        with self.client() as client:
            client.flushdb()
        deadline = time.monotonic() + 30
        for process, old in zip(self._alive(), before, strict=True):
            while not self._renewed(process, old):
                if time.monotonic() > deadline:
                    raise AssertionError("no new epoch began")
                process.rows.get(-1, consistency="shared")
                time.sleep(0.02)

    def _renewed(self, process: Process, old: bytes) -> bool:
        found = process.behind._authority.current(0)
        return found is not None and found.epoch != old

    def _alive(self) -> list[Process]:
        return [process for process in self._processes if process.alive]


@contextlib.contextmanager
def duo_of(url: str, redis_url: str | None, prefix: str, path: Path | None, **options: Any) -> Iterator[Duo]:
    journal = {"journal": "file", "journal_path": str(path)} if path is not None else {"journal": "redis"}
    duo = Duo(url, redis_url, prefix, **journal, **options)
    try:
        yield duo
    finally:
        duo.close()

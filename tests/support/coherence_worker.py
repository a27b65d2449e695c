"""Processes of the coherence benchmarks: one that watches its own memory, and one that reads and writes a lot."""

from __future__ import annotations

import bisect
import itertools
import random
import secrets
import threading
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from datalayer import CachePolicy, DataLayer, L1Policy, Model, column
from datalayer.testing.faults import die_with_parent

ROWS = 20_000
THREADS = 4


class Row(Model):
    __tablename__ = "bench_coherence"
    __cache__ = CachePolicy(l1=L1Policy(max_entries=ROWS // 10))
    id: Mapped[int] = column(primary_key=True)
    n: Mapped[int]
    name: Mapped[str]
    city: Mapped[str]
    email: Mapped[str]
    score: Mapped[float]
    active: Mapped[bool]
    age: Mapped[int]
    a: Mapped[str]
    b: Mapped[str]


def create(url: str) -> None:
    engine = sa.create_engine(url)
    Row.__table__.create(engine)  # type: ignore[attr-defined]
    fixed = {"city": "Springfield", "score": 0.5, "active": True, "age": 40, "a": "x" * 40, "b": "y" * 40}
    with engine.begin() as connection:
        rows = [{"id": i, "n": 0, "name": f"n{i}", "email": f"u{i}@example.com", **fixed} for i in range(ROWS)]
        connection.execute(sa.insert(Row), rows)
    engine.dispose()


def layer(url: str, redis: str, prefix: str, **options: Any) -> DataLayer:
    return DataLayer(url, redis=redis, key_prefix=prefix, models=[Row], **options)


def watch(url: str, redis: str, prefix: str, pipe: Any) -> None:
    """Hold row 1 in L1, then tell when it is gone."""
    die_with_parent()
    with layer(url, redis, prefix) as mine:
        rows = mine.repository(Row)
        rows.get(1)
        (ladder,) = mine.caches.ladders()
        while pipe.recv() is not None:
            while 1 not in ladder.l1.index or ladder.horizon[0] <= ladder.l1.clock():
                rows.get(1)
            pipe.send("held")
            index = ladder.l1.index
            while 1 in index:
                time.sleep(0)
            pipe.send(time.monotonic())


class Zipf:
    """Keys with frequencies 1/k^s."""

    def __init__(self, size: int, s: float) -> None:
        self._sums = list(itertools.accumulate(1 / (k + 1) ** s for k in range(size)))

    def __call__(self, draw: random.Random) -> int:
        return bisect.bisect_left(self._sums, draw.random() * self._sums[-1])


class Plain:
    """What one would do without a layer."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, pool_size=THREADS)

    def read(self, id: int) -> int:
        with Session(self._engine) as session:
            return session.get_one(Row, id).n

    def write(self, id: int) -> int:
        with Session(self._engine) as session, session.begin():
            row = session.get_one(Row, id, with_for_update=True)
            row.n += 1
            return row.n

    def warm(self) -> None:
        """The database has its pages in memory: they have just been written."""
        self.read(0)

    def counts(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._engine.dispose()


class Layered:
    """The same through the layer; ``level`` of the reads."""

    def __init__(self, url: str, redis: str, level: Any) -> None:
        self._layer = layer(url, redis, "p13", pool_size=THREADS + 2)
        self._rows = self._layer.repository(Row)
        self._level = level
        self._writes = 0

    def read(self, id: int) -> int:
        if self._level == "cached":
            return self._rows.get(id).n  # type: ignore[union-attr]
        return self._rows.get(id, consistency=self._level).n  # type: ignore[union-attr]

    def write(self, id: int) -> int:
        with self._layer.begin() as session:
            row = session.get_one(Row, id, with_for_update=True)
            row.n += 1
            n = row.n
        self._writes += 1
        return n

    def warm(self) -> None:
        """Until Redis has every row: the caches of an application are not empty most of the time."""
        (ladder,) = self._layer.caches.ladders()
        while True:
            before = ladder.counts["l2_hits"]
            for at in range(0, ROWS, 500):
                self._rows.get_many(range(at, at + 500), consistency="shared")
            if ladder.counts["l2_hits"] - before == ROWS:
                return

    def counts(self) -> dict[str, int]:
        (ladder,) = self._layer.caches.ladders()
        return {**ladder.counts, "l1_hits": ladder.l1.hits, "writes": self._writes}

    def close(self) -> None:
        self._layer.close()


def load(seed: int, url: str, redis: str, kind: str, seconds: float, gate: Any, told: Any, least: Any) -> None:
    """95 % reads; each ``shared`` read is compared with what was committed before it began."""
    die_with_parent()
    place: Plain | Layered = Plain(url) if kind == "plain" else Layered(url, redis, kind)
    zipf = Zipf(ROWS, 0.9)
    strict, known = kind == "shared", least.get_obj()
    counts, stale = [0] * THREADS, [0] * THREADS
    place.read(0)
    place.warm()
    gate.wait(120)
    end, cpu = time.monotonic() + seconds, time.process_time()

    def run(number: int) -> None:
        draw = random.Random(f"{seed}.{number}.{secrets.token_hex(2)}")
        while time.monotonic() < end:
            id = zipf(draw)
            if draw.random() < 0.05:
                n = place.write(id)
                with least.get_lock():
                    known[id] = max(known[id], n)
            else:
                due = known[id] if strict else 0
                stale[number] += place.read(id) < due
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = (time.process_time() - cpu) / sum(counts)
    told.put((sum(counts) / seconds, sum(stale), {**place.counts(), "cpu_us": int(spent * 1e6 / 2)}))
    place.close()

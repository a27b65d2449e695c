"""The locks of a migration of a million rows while somebody writes: how long writers are kept out, step by step.

A *blocking* lock is one that keeps ROW EXCLUSIVE out: SHARE and above. It is held within the step's transaction, so the
transaction's length bounds it; a second connection looks into ``pg_locks`` as fast as it can, and a writer notes its
slowest update.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from datalayer.migrate.options import MigrateOptions
from datalayer.migrate.runner import create_missing
from datalayer.models.base import NAMING_CONVENTION
from datalayer.testing.servers import find_postgres

Report = Callable[[str, str, str], None]

ROWS = int(os.environ.get("DATALAYER_BENCH_ROWS", "1000000"))

_HELD = sa.text(
    "SELECT DISTINCT l.pid || l.mode FROM pg_locks l WHERE l.relation = to_regclass('big') AND l.locktype = 'relation' "
    "AND l.granted AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    postgres = find_postgres()
    url = postgres.create_database("bench_migrate")
    engine = sa.create_engine(url)
    schema().create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO owners SELECT generate_series(1, 1000)"))
        connection.execute(
            sa.text(
                "INSERT INTO big (id, name, n, owner_id) "
                f"SELECT i, 'name ' || i, 0, 1 + i % 1000 FROM generate_series(1, {ROWS}) i"
            )
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE big")
    engine.dispose()
    yield url
    postgres.stop()


def schema(*extra: sa.SchemaItem) -> sa.MetaData:
    found = sa.MetaData(naming_convention=NAMING_CONVENTION)
    sa.Table("owners", found, sa.Column("id", sa.BigInteger, primary_key=True))
    sa.Table(
        "big",
        found,
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("n", sa.BigInteger),
        sa.Column("owner_id", sa.BigInteger),
        *extra,
    )
    return found


COLUMN = lambda: sa.Column("level", sa.Integer, nullable=False, server_default="7")  # noqa: E731  # one a schema
MUST = lambda: sa.Column("must", sa.Text, nullable=False, default="said")  # noqa: E731

CASES: dict[str, Callable[[], list[sa.SchemaItem]]] = {
    "add a column with a default": lambda: [COLUMN()],
    "add an index": lambda: [COLUMN(), sa.Index("ix_big_name", "name")],
    "add a foreign key": lambda: [
        COLUMN(), sa.Index("ix_big_name", "name"), sa.ForeignKeyConstraint(["owner_id"], ["owners.id"])
    ],
    "add a NOT NULL column without a server default": lambda: [
        COLUMN(), sa.Index("ix_big_name", "name"), sa.ForeignKeyConstraint(["owner_id"], ["owners.id"]), MUST()
    ],
}  # fmt: skip


class Background:
    """A thread that repeats something until the block ends."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._stop = work, threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._work()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None, repr(self.error)


class Writer:
    """Updates rows one by one, each in a transaction of its own, and notes how long each took."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection, self._next, self.took = connection, 0, [0.0]

    def __call__(self) -> None:
        self._next = self._next % ROWS + 7919
        began = time.perf_counter()
        self._connection.execute(sa.text("UPDATE big SET n = n + 1 WHERE id = :id"), {"id": 1 + self._next % ROWS})
        self.took.append(time.perf_counter() - began)


class Watcher:
    """Looks which blocking locks a migrator holds; notes the time from the first look that saw one to the last."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection, self._since = connection, dict[str, float]()
        self.longest = 0.0
        self.looks = 0

    def __call__(self) -> None:
        before = time.perf_counter()
        held = set(self._connection.scalars(_HELD))
        after = time.perf_counter()
        self._since = {lock: self._since.get(lock, after) for lock in held}
        self.longest = max([self.longest, *(before - since for since in self._since.values())])
        self.looks += 1


@contextmanager
def autocommit(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        yield connection


#: Steps that take long and keep no writer out.
LETS_WRITE = ("create index", "validate", "fill", "prove")


_STEPS = "SELECT name, duration_ms / 1000.0 FROM schema_migrations ORDER BY version DESC LIMIT :count"


def steps(engine: sa.Engine, count: int) -> list[tuple[str, float]]:
    """The last steps that were taken, with their seconds."""
    with engine.connect() as connection:
        recorded = sa.text(
            "SELECT name, duration_ms / 1000.0 FROM schema_migrations ORDER BY version DESC LIMIT :count"
        )
        return [(name, float(took)) for name, took in connection.execute(recorded, {"count": count})][::-1]


@pytest.mark.parametrize("case", CASES)
def test_writers_wait_a_moment_only(url: str, case: str, report: Report) -> None:
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with autocommit(url) as one, autocommit(url) as two:
        writer, watcher = Writer(one), Watcher(two)
        with Background(writer), Background(watcher):
            began = time.perf_counter()
            done = create_missing(engine, [schema(*CASES[case]())], MigrateOptions(not_null="multistep"))
            took = time.perf_counter() - began
    assert done.refused == ()
    assert done.applied
    slowest, median = max(writer.took), sorted(writer.took)[len(writer.took) // 2]
    locking = {name: seconds for name, seconds in steps(engine, len(done.applied)) if not name.startswith(LETS_WRITE)}
    longest = max(locking.values(), default=0.0)
    report(
        "M",
        f"{case}, {ROWS:,} rows: {took:.2f} s in all",
        f"blocking lock: at most {longest * 1000:3.0f} ms, seen for {watcher.longest * 1000:4.1f} ms by "
        f"{watcher.looks} looks; "
        f"slowest of {len(writer.took) - 1} updates {slowest * 1000:5.1f} ms, median {median * 1000:4.2f} ms",
    )
    for name, seconds in locking.items():
        report("", f"    {name}", f"{seconds:7.3f} s")
    assert longest < 1.0
    assert watcher.longest < 1.0
    assert slowest < 3.0

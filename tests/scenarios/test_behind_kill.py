"""Queued writes while their writers, flushers, Redis and the database's backends are killed at random.

The short form takes some seconds for each journal; with DATALAYER_TEST_LONG=1 each goes on until at least 100,000
writes are acknowledged (tox -e behind).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import behind_world as world
import psycopg
import pytest

from datalayer.testing.servers import start_postgres, start_redis
from datalayer.testing.servers.postgres import PrivatePostgres
from datalayer.testing.servers.redis_server import PrivateRedis

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("DATALAYER_TEST_LONG") == "1"
WANTED = 100_000 if LONG else 0
TROUBLES = 5
STEP = 3000 if LONG else 400
PATIENCE = 10.0
WRITERS = 3
OPTIONS: dict[str, Any] = {
    "write_behind_flush_interval": 0.05,
    "fence_lease": 0.8,
    "redis_timeout": 0.2,
    "breaker_reset": 0.1,
    "write_behind_max_retry": 2,
    "lock_timeout": 3.0,
    "statement_timeout": 5.0,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if LONG else 150)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    server = start_postgres(settings={"max_connections": "150"})
    yield server
    server.stop()


@pytest.fixture
def redis() -> Iterator[PrivateRedis]:
    server = start_redis(options={"appendonly": "yes", "appendfsync": "no"})
    yield server
    server.stop()


class Writers:
    """Processes that write, and die, and are replaced."""

    def __init__(self, url: str, redis: str | None, options: dict[str, Any], folder: Path, rng: random.Random) -> None:
        self._given = {"url": url, "redis": redis, "options": options}
        self._folder, self._rng, self._count = folder, rng, 0
        self.notes: list[Path] = []
        self.running = [self._start() for _ in range(WRITERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        self._count += 1
        who = f"w{self._count}"
        self.notes.append(self._folder / f"{who}.notes")
        self.notes[-1].touch()
        given = {**self._given, "notes": str(self.notes[-1]), "who": who, "seed": str(self._rng.random())}
        path = f"{ROOT}:{ROOT / 'tests' / 'support'}"
        with open(self._folder / f"{who}.errors", "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "behind_world", json.dumps(given)],
                env={**os.environ, "PYTHONPATH": path},
                stderr=errors,
            )

    def kill_one(self) -> None:
        at = self._rng.randrange(len(self.running))
        self._end(self.running[at])
        self.running[at] = self._start()

    def freeze_one(self, seconds: float) -> None:
        process = self._rng.choice(self.running)
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for process in self.running:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def errors(self) -> str:
        return "".join(path.read_text(errors="replace")[-2000:] for path in self._folder.glob("*.errors"))


def end_backends(url: str) -> None:
    """Terminate every other session of the database."""
    with (
        contextlib.suppress(psycopg.Error),
        psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection,
    ):
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )


def trouble(rng: random.Random, writers: Writers, url: str, redis: PrivateRedis | None) -> None:
    kind = rng.random()
    if kind < 0.45:
        writers.kill_one()
    elif kind < 0.65:
        end_backends(url)
    elif kind < 0.75:
        writers.freeze_one(rng.uniform(0.5, 2.0))
    elif redis is not None:
        redis.kill()
        time.sleep(rng.choice([0.0, 0.3, 1.5]))
        redis.restart()


def prepared(url: str, redis: str | None, options: dict[str, Any]) -> None:
    with world.open_layer(url, redis, options) as layer:
        layer.migrate()
        layer.repository(world.Tally).set_many([world.Tally(id=key, total=0) for key in range(world.TALLIES)])
        assert layer.flush(20).ok


def count(notes: list[Path]) -> int:
    return sum(path.read_bytes().count(b'["a"') for path in notes)


def some_more(notes: list[Path], how_many: int) -> None:
    """Let the writers write, unless they cannot."""
    goal, deadline = count(notes) + how_many, time.monotonic() + PATIENCE
    while count(notes) < goal and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("journal", ["redis", "file", "local"])
def test_what_was_acknowledged_is_in_the_database_once_and_in_order_whoever_was_killed(
    postgres: PrivatePostgres,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    rng: random.Random,
    journal: str,
) -> None:
    url = postgres.create_database(f"kill_{journal}")
    redis: PrivateRedis | None = request.getfixturevalue("redis") if journal != "local" else None
    options = dict(OPTIONS)
    options |= {"journal": "redis"} if journal == "redis" else {"journal": "file", "journal_path": str(tmp_path / "j")}
    address = redis.url if redis is not None else None
    prepared(url, address, options)
    writers = Writers(url, address, options, tmp_path, rng)
    try:
        troubles = 0
        while troubles < TROUBLES or count(writers.notes) < WANTED:
            some_more(writers.notes, rng.randrange(STEP) + 20)
            trouble(rng, writers, url, redis)
            troubles += 1
        some_more(writers.notes, STEP)
    finally:
        writers.stop()
    history = world.History(writers.notes)
    print(f"{history.acknowledged} acknowledged of {sum(map(len, history.ops.values()))}, {len(writers.notes)} writers")
    assert history.acknowledged >= max(WANTED, 200), writers.errors()
    with world.open_layer(url, address, options) as layer:
        report = layer.flush(60)
        assert (report.left, report.waiting, report.error) == (0, 0, None), report
        rows = world.rows_of(layer)
        assert history.problems(rows) == []
        assert world.shown_by(layer) == rows
        letters = layer.dead_letters().list(limit=100_000)
        assert {letter.table for letter in letters} <= {"wb_fussy", "wb_pets", "wb_tallies"}
        assert [letter for letter in letters if letter.table != "wb_fussy"] == []
        assert letters

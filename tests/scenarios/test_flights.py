"""A cold row that 64 threads of four processes want at once costs the database one statement."""

from __future__ import annotations

import multiprocessing as mp
import queue
from collections import Counter
from collections.abc import Iterator
from typing import Any

import flight_worker as work
import psycopg
import pytest

from datalayer.testing.servers import start_postgres

PROCESSES = 4


class Field:
    """A database that counts what it is asked, a Redis, and processes that ask together."""

    def __init__(self, url: str, redis: str, prefix: str) -> None:
        self.url, self.redis, self.prefix = url, redis, prefix
        self._plain = url.replace("+psycopg", "")
        with psycopg.connect(self._plain, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
            connection.execute("CREATE TABLE flight_rows (id int PRIMARY KEY, name text NOT NULL)")
            connection.execute("INSERT INTO flight_rows SELECT i, i::text FROM generate_series(0, 99) i")

    def statements(self) -> int:
        """How many reads of the table there were since the last call."""
        with psycopg.connect(self._plain, autocommit=True) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '%FROM flight_rows%' "
                "AND query LIKE 'SELECT%' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone()
            connection.execute("SELECT pg_stat_statements_reset()")
        return int(row[0]) if row else 0

    def read(self, keys: list[int], trouble: str | None = None) -> tuple[list[int], list[tuple[float, str]], list[int]]:
        """How many statements each key cost, what the reads got, and the exit codes."""
        spawn = mp.get_context("spawn")
        gate, told, first = spawn.Barrier(PROCESSES + 1), spawn.Queue(), spawn.Value("i", 0)
        arguments = (self.url, self.redis, self.prefix, keys, (trouble, first), gate, told)
        processes = [spawn.Process(target=work.main, args=arguments, daemon=True) for _ in range(PROCESSES)]
        for process in processes:
            process.start()
        costs = []
        try:
            for number in range(len(keys)):
                while gate.n_waiting < PROCESSES:
                    processes[0].join(0.01)
                costs.append(self.statements())
                gate.wait(60)
                if number == len(keys) - 1:
                    found = [r for _ in range(PROCESSES - (trouble == "kill")) for r in self._told(told)]
            costs.append(self.statements())
        finally:
            for process in processes:
                process.join(10)
                process.kill()
                process.join(5)
        return costs[1:], found, [p.exitcode or 0 for p in processes]

    def _told(self, told: Any) -> Any:
        try:
            return told.get(timeout=30)
        except queue.Empty:
            pytest.fail("a process did not come to its end")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture
def field(server: Any, redis_url: str, key_prefix: str) -> Field:
    return Field(server.create_database(key_prefix), redis_url, key_prefix)


def test_a_cold_key_is_read_once(field: Field) -> None:
    keys = [1, 2, 3, 4, 5]
    costs, found, _ = field.read(keys)
    print(f"statements for each cold key: {costs}")
    assert Counter(name for _, name in found) == {str(key): PROCESSES * work.THREADS for key in keys}
    assert sorted(costs)[2] == 1, f"{costs}: a machine that stands still may cost one more now and then"
    assert sum(costs) <= len(costs) + 2


@pytest.mark.parametrize("trouble", ["kill", "raise"])
def test_a_leader_that_dies_holds_nobody_up(field: Field, trouble: str) -> None:
    (cost,), found, codes = field.read([7], trouble)
    dead = work.THREADS if trouble == "kill" else 1
    assert Counter(name for _, name in found)["7"] == PROCESSES * work.THREADS - dead
    print(f"statements: {cost}")
    assert 1 <= cost <= 2, "the next one takes the place of the dead; a machine that stands still may cost one more"
    assert max(seconds for seconds, _ in found) < 2.5
    assert codes.count(-9) == (trouble == "kill")

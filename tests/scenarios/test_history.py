"""Many processes with many threads, every way to write and to read, every fault, and no broken promise.

DATALAYER_CHAOS_SECONDS says how long (``tox -e chaos``); two minutes in CI, some seconds else. The seed is printed.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import history_worker as work
import pytest
import redis

from datalayer.testing import faults
from datalayer.testing.histories import Checker, Follower, Recorder
from datalayer.testing.proxy import TcpProxy
from datalayer.testing.servers import start_postgres
from datalayer.testing.servers.postgres import PrivatePostgres

LEASE, L1_LEASE = 1.0, 0.5
PROCESSES, WRITERS, READERS = 3, 2, 3


def seconds() -> float:
    if told := os.environ.get("DATALAYER_CHAOS_SECONDS"):
        return float(told)
    return 120.0 if os.environ.get("CI") or os.environ.get("DATALAYER_TEST_LONG") else 12.0


class Proc:
    """One worker and the numbers that it shares with us."""

    def __init__(self, world: World, number: int) -> None:
        spawn = mp.get_context("spawn")
        self.number = number
        self.port = spawn.Value("i", world.port_for(number))
        self.bus_delay = spawn.Value("d", 0.0)
        self.idle = spawn.Value("b", 0)
        # The first worker of each three meets PostgreSQL through a proxy, the second one Redis.
        url = world.pg_proxy.url if number % 3 == 0 else world.url
        plan = work.Plan(
            number=number,
            seed=world.rng.randrange(2**32),
            url=url,
            folder=str(world.folder),
            writers=WRITERS,
            readers=READERS,
            lease=LEASE,
            l1_lease=L1_LEASE,
            deadly=0.004,
            phase=world.phase,
            port=self.port,
            bus_delay=self.bus_delay,
            idle=self.idle,
        )
        self.process = spawn.Process(target=work.main, args=(plan,), daemon=True)
        self.process.start()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()


class World:
    """The servers, the workers, and what is done to them."""

    def __init__(self, postgres: PrivatePostgres, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.postgres = postgres
        self.url = postgres.create_database(f"history_{secrets.token_hex(4)}")
        self.pg_proxy = TcpProxy.for_url(self.url)
        self.pair = faults.RedisPair()
        self.redis_proxies = {s.port: TcpProxy.for_url(s.url) for s in self.pair.servers}
        self.phase = mp.get_context("spawn").Value("i", work.RUN)
        self.log = Recorder(folder / "world.log", process="world")
        self.later: list[threading.Timer] = []
        self.stopping = False
        work.create(self.url, self.log)
        self.count = 0
        self.workers: list[Proc] = []
        self.respawned = 0

    def port_for(self, number: int) -> int:
        port = self.pair.master.port
        return self.redis_proxies[port].port if number % 3 == 1 else port

    def spawn(self) -> None:
        self.workers.append(Proc(self, self.count))
        self.count += 1

    def tend(self) -> None:
        """Replace the dead by others of their kind."""
        for worker in [w for w in self.workers if not w.alive]:
            self.workers.remove(worker)
            self.respawned += 1
            self.count += (worker.number - self.count) % 3
            self.spawn()

    def after(self, pause: float, act: Callable[[], object]) -> None:
        def run() -> None:
            try:
                act()
            except (redis.RedisError, OSError):
                return  # it is being restarted

        timer = threading.Timer(pause, run)
        timer.daemon = True
        self.later.append(timer)
        timer.start()

    # -- faults ----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self.rng.choice(self.workers).process.kill()

    def freeze(self) -> None:
        worker = self.rng.choice(self.workers)
        if worker.process.pid is not None and worker.alive:
            self.later.append(faults.freeze(worker.process.pid, self.rng.uniform(0.3, 2.5 * LEASE)))

    def flush_all(self) -> None:
        with self.pair.master.client() as client:
            client.flushall()

    def evict_values(self) -> None:
        for _ in range(5):
            faults.evict_values(self.pair.master, "dl", self.rng)

    def evict_header(self) -> None:
        faults.evict_headers(self.pair.master, "dl", self.rng)

    def restart_with_data(self) -> None:
        faults.restart_redis(self.pair.master, keep_data=True)

    def restart_without_data(self) -> None:
        faults.restart_redis(self.pair.master, keep_data=False)

    def outage(self) -> None:
        self.pair.master.kill()
        time.sleep(self.rng.uniform(0.2, 1.5))
        self.pair.master.restart()

    def fail_over(self) -> None:
        """The replica misses the last writes; each worker learns of the new master when it learns of it."""
        self.pair.freeze_replica()
        time.sleep(self.rng.uniform(0.0, 0.3))
        self.pair.fail_over()
        for worker in self.workers:

            def move(worker: Proc = worker, port: int = self.port_for(worker.number)) -> None:
                worker.port.value = port

            self.after(self.rng.choice([0.0, self.rng.uniform(0.0, 1.5)]), move)
        self.after(self.rng.uniform(1.0, 2.5), self.pair.rejoin)

    def terminate_some_backends(self) -> None:
        faults.terminate_backends(self.url, most=3)

    def terminate_all_backends(self) -> None:
        faults.terminate_backends(self.url)

    def lose_commit_reply(self) -> None:
        faults.cut_commit_reply(self.pg_proxy, sent=self.rng.random() < 0.7)

    def postgres_is_slow(self) -> None:
        self.pg_proxy.latency(0.05)
        self.after(1.0, self.pg_proxy.pass_)

    def postgres_is_half_open(self) -> None:
        faults.half_open(self.pg_proxy)
        self.after(self.rng.uniform(0.2, 1.5), self.pg_proxy.pass_)

    def redis_partition(self) -> None:
        proxy = self.redis_proxies[self.pair.master.port]
        self.rng.choice([proxy.blackhole, proxy.hold, proxy.reset, proxy.refuse, lambda: proxy.latency(0.1)])()
        self.after(self.rng.uniform(0.3, 1.5), proxy.pass_)

    def cut_bus(self) -> None:
        faults.cut_bus(self.pair.master)

    def delay_bus(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.bus_delay.value = self.rng.choice([0.01, 0.1, 0.7])

        def heal() -> None:
            worker.bus_delay.value = 0.0

        self.after(self.rng.uniform(0.5, 2.0), heal)

    FAULTS = (
        *(kill, freeze, freeze, flush_all, evict_values, evict_header, restart_with_data, restart_without_data),
        *(outage, fail_over, fail_over, terminate_some_backends, terminate_all_backends, lose_commit_reply),
        *(lose_commit_reply, postgres_is_slow, postgres_is_half_open, redis_partition, cut_bus, delay_bus),
    )

    def harm(self) -> None:
        fault = self.rng.choice(self.FAULTS)
        self.log.fault(fault.__name__)
        try:
            fault(self)
        except redis.RedisError:
            self.log.fault(f"{fault.__name__} (Redis was away)")

    # -- the end ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        for timer in self.later:
            timer.join(5)
        for proxy in (self.pg_proxy, *self.redis_proxies.values()):
            proxy.pass_()
        for worker in self.workers:
            worker.bus_delay.value = 0.0
            worker.port.value = self.port_for(worker.number)
        if not self.pair.master.alive:
            self.pair.master.restart()

    def wait(self, true: Callable[[], bool], limit: float) -> bool:
        end = time.monotonic() + limit
        while not true() and time.monotonic() < end:
            time.sleep(0.05)
        return true()

    def close(self) -> None:
        self.phase.value = work.END
        for timer in self.later:
            timer.join(5)
        for worker in self.workers:
            worker.process.join(10)
            worker.process.kill()
            worker.process.join(5)
        for proxy in (self.pg_proxy, *self.redis_proxies.values()):
            proxy.close()
        self.pair.stop()
        self.log.close()


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest, rng: random.Random) -> Iterator[World]:
    folder = tmp_path / "history"
    folder.mkdir()
    postgres = start_postgres()
    world = World(postgres, folder, rng.randrange(2**32))
    yield world
    world.close()
    postgres.stop()


def run(world: World, follower: Follower, length: float, *, harmful: bool = True) -> None:
    """Let them work, hurt them, and check as they go; then heal, let them come to rest, and look once more."""
    for _ in range(PROCESSES):
        world.spawn()
    end = time.monotonic() + length
    next_fault = time.monotonic() + 3.0
    while time.monotonic() < end and len(follower.checker.anomalies) < 10:
        time.sleep(0.2)
        follower.follow()
        world.tend()
        if harmful and time.monotonic() > next_fault:
            world.harm()
            next_fault = time.monotonic() + world.rng.uniform(0.3, 2.5)
    world.heal()
    world.tend()
    world.phase.value = work.QUIET
    assert world.wait(lambda: all(w.idle.value or not w.alive for w in world.workers), 40), "the writers did not end"
    work.conclude(world.url, world.log)
    time.sleep(3 * LEASE)
    world.phase.value = work.END
    assert world.wait(lambda: not any(w.alive for w in world.workers), 30), "a worker did not end"
    follower.drain()


def summary(checker: Checker, world: World) -> str:
    counts = {name: checker.counters[name] for name in sorted(checker.counters)}
    lines = [
        f"history: {checker.length} events, {checker.counts['COMMITTED']} commits, {checker.counts['READ']} reads "
        f"({', '.join(f'{n[5:]} {c}' for n, c in sorted(checker.counts.items()) if n.startswith('READ '))}), "
        f"{checker.counts['UNKNOWN']} unknown, {checker.counts['ROLLED_BACK']} rolled back",
        f"faults: {sum(checker.faults.values())} {dict(sorted(checker.faults.items()))}, "
        f"{world.respawned} processes replaced",
        f"workers that lived to the end: {counts}",
        f"anomalies: {sum(checker.broken.values())} {dict(checker.broken)}",
    ]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(seconds() + 240)
def test_no_promise_is_broken_under_any_fault(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    checker = Checker(lease=L1_LEASE)
    follower = Follower(world.folder, checker)
    run(world, follower, seconds())
    with capsys.disabled():
        print("\n" + summary(checker, world))
    assert checker.anomalies == [], "\n".join(map(str, checker.anomalies))
    assert checker.counts["COMMITTED"] > 50
    assert checker.counts["READ"] > 1000
    assert checker.counters["l1_hits"] > 0, "the history must meet a warm cache"
    assert checker.counters["l2_hits"] > 0
    assert Counter(checker.faults).total() > 0

"""What a metrics recorder is told by a layer, and that it cannot hurt the layer."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from recorder import Recorder
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.testing.servers import start_redis


class Measured(Model):
    __tablename__ = "measured"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


def fill(layer: DataLayer, count: int = 3) -> None:
    """Rows that no cache has."""
    Model.metadata.create_all(layer.engine, tables=[Measured.__table__])  # type: ignore[list-item]
    engine = sa.create_engine(layer.engine.url)  # past the layer, which would leave the rows in its caches
    with engine.begin() as connection:
        connection.execute(sa.insert(Measured), [{"id": i, "name": f"n{i}"} for i in range(1, count + 1)])
    engine.dispose()


@pytest.fixture
def layer_of(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[Any]:
    layers: list[DataLayer] = []

    def make(recorder: Any, **options: Any) -> DataLayer:
        given = {"redis": redis_url, "key_prefix": key_prefix, "metrics_interval": 3600} | options
        layers.append(DataLayer(pg_url, models=[Measured], metrics=recorder, **given))
        return layers[-1]

    yield make
    for layer in layers:
        layer.close()


def test_hits_and_misses_of_each_tier_are_told_by_model(layer_of: Any) -> None:
    recorder = Recorder()
    layer = layer_of(recorder)
    fill(layer)
    measured = layer.repository(Measured)
    assert measured.get(1).name == "n1"  # L3, after misses in L1 and L2
    assert measured.get(1).name == measured.get(1).name == "n1"  # L1
    (ladder,) = layer.caches.ladders()
    ladder.clear_local()
    assert measured.get(1).name == "n1"  # L2
    layer.stats()
    assert recorder.counts == {
        ("hit", "l1", "Measured"): 2,
        ("miss", "l1", "Measured"): 2,
        ("hit", "l2", "Measured"): 1,
        ("miss", "l2", "Measured"): 1,
        ("hit", "l3", "Measured"): 1,
    }
    layer.stats()
    layer.close()
    assert recorder.counts["hit", "l1", "Measured"] == 2, "told once only"


def test_calls_of_the_shared_tier_are_timed_and_the_age_of_its_values_told(layer_of: Any) -> None:
    recorder = Recorder()
    layer = layer_of(recorder)
    fill(layer)
    measured = layer.repository(Measured)
    measured.get_many([1, 2])
    measured.get(3)
    (ladder,) = layer.caches.ladders()
    ladder.clear_local()
    began = time.monotonic()
    measured.get(1)
    spent = time.monotonic() - began
    assert {"get", "get_many", "lease", "lease_many", "fill"} <= recorder.operations("l2")
    assert all(0 < seconds < 5 for _, _, seconds in recorder.latencies)
    assert [s for tier, what, s in recorder.latencies if (tier, what) == ("l2", "get")][-1] <= spent
    ((tier, model, age),) = recorder.ages
    assert (tier, model) == ("l2", "Measured")
    assert 0 <= age < 5


def test_the_age_of_what_l1_serves_is_sampled(layer_of: Any) -> None:
    class Clock:
        def __init__(self) -> None:
            self.ahead = 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.ahead

        def now(self) -> Any:
            raise NotImplementedError

    recorder, clock = Recorder(), Clock()
    layer = layer_of(recorder, redis=None, clock=clock, l1_ttl=300, ttl_jitter=0)
    fill(layer)
    measured = layer.repository(Measured)
    measured.get(1), measured.get(2)
    clock.ahead = 100
    measured.get(1)
    layer.stats()
    ((tier, model, age),) = recorder.ages
    assert (tier, model) == ("l1", "Measured")
    assert 100 <= age < 110


def test_evictions_are_told(layer_of: Any) -> None:
    recorder = Recorder()
    layer = layer_of(recorder, l1_max_entries=2)
    fill(layer)
    layer.repository(Measured).get_many([1, 2, 3])
    layer.stats()
    assert recorder.counts["evicted", "l1", "Measured"] == 1


def test_failures_of_redis_are_told_as_errors_of_l2(layer_of: Any) -> None:
    server, recorder = start_redis(), Recorder()
    try:
        layer = layer_of(recorder, redis=server.url)
        fill(layer)
        measured = layer.repository(Measured)
        assert measured.get(1).name == "n1"
        server.kill()
        assert measured.get(2).name == "n2"
        layer.stats()
        assert recorder.counts["error", "l2", "connection"] >= 1
    finally:
        server.stop()


def test_counts_are_told_every_interval_and_the_rest_when_the_layer_closes(layer_of: Any) -> None:
    told = threading.Event()

    class Telling(Recorder):
        def hit(self, tier: str, model: str, count: int = 1) -> None:
            super().hit(tier, model, count)
            told.set()

    recorder = Telling()
    layer = layer_of(recorder, metrics_interval=0.02)
    fill(layer)
    layer.repository(Measured).get(1)
    assert told.wait(10)
    slow = Recorder()
    other = layer_of(slow)
    other.repository(Measured).get(2)
    assert not slow.counts
    other.close()
    assert slow.counts["hit", "l3", "Measured"] == 1


def test_a_recorder_that_raises_breaks_nothing_and_is_logged_once(
    layer_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        def latency(self, tier: str, operation: str, seconds: float) -> None:
            raise OSError("the collector is away")

        miss = hit = latency  # type: ignore[assignment]

    layer = layer_of(Broken())
    fill(layer)
    with caplog.at_level(logging.ERROR):
        assert layer.repository(Measured).get(1).name == "n1"
        layer.stats()
        assert layer.repository(Measured).get(2).name == "n2"
    assert [record.name for record in caplog.records] == ["datalayer.metrics"]
    assert "Broken raised OSError in latency()" in caplog.text
    assert layer._parts.recorder.failures > 3


def test_metrics_that_are_switched_off_cost_and_tell_nothing(layer_of: Any) -> None:
    recorder = Recorder()
    layer = layer_of(recorder, enable_metrics=False, metrics_interval=0.01)
    fill(layer)
    layer.repository(Measured).get(1)
    layer.stats()
    (ladder,) = layer.caches.ladders()
    assert ladder.l2 is layer._parts.l2
    assert not [thread for thread in threading.enumerate() if thread.name == "datalayer-metrics"]
    layer.close()
    assert (dict(recorder.counts), recorder.latencies, recorder.ages) == ({}, [], [])


def test_a_forked_child_tells_what_it_did_itself(layer_of: Any) -> None:
    recorder = Recorder()
    layer = layer_of(recorder, redis=None)
    fill(layer)
    measured = layer.repository(Measured)
    measured.get(1)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        recorder.counts.clear()
        measured.get(1), measured.get(1)
        running = [thread.name for thread in threading.enumerate()]
        layer.close()
        theirs.send((dict(recorder.counts), running))

    process = context.Process(target=child)
    process.start()
    assert ours.poll(30)
    counts, running = ours.recv()
    process.join(10)
    assert counts["hit", "l1", "Measured"] == 1
    assert counts["miss", "l1", "Measured"] == 1
    assert running.count("datalayer-metrics") == 1
    layer.stats()
    assert recorder.counts["hit", "l3", "Measured"] == 1, "the parent tells its own"

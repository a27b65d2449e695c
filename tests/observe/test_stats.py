"""Counters, statistics, health and recorders."""

from __future__ import annotations

import json
import threading
from dataclasses import FrozenInstanceError

import pytest

from datalayer.contracts.observe import MetricsRecorder
from datalayer.observe.health import Health, TierHealth
from datalayer.observe.metrics import NullRecorder
from datalayer.observe.statements import QueryStats
from datalayer.observe.stats import Counters, ModelStats, Stats, TierStats, total_by_tier

PLAYER = ModelStats(
    tiers={
        "l1": TierStats(hits=3, misses=1, fills=1, entries=1, bytes=100),
        "l2": TierStats(hits=0, misses=1, rejected_fills=1, decode_errors={"schema": 1}),
    }
)
ITEM = ModelStats(tiers={"l2": TierStats(hits=4, errors=2, evictions=1, decode_errors={"schema": 2, "mac": 1})})


def test_models_tell_hits_and_misses_by_tier():
    assert PLAYER.hits == {"l1": 3, "l2": 0}
    assert PLAYER.misses == {"l1": 1, "l2": 1}


def test_a_tiers_total_is_the_sum_over_the_models():
    assert total_by_tier([PLAYER, ITEM]) == {
        "l1": TierStats(hits=3, misses=1, fills=1, entries=1, bytes=100),
        "l2": TierStats(
            hits=4, misses=1, rejected_fills=1, errors=2, evictions=1, decode_errors={"schema": 3, "mac": 1}
        ),
    }
    assert total_by_tier([]) == {}


def test_the_hit_ratio_is_of_all_look_ups_and_nothing_before_the_first():
    assert TierStats(hits=3, misses=1).hit_ratio == 0.75
    assert TierStats().hit_ratio is None


def test_statistics_become_plain_values():
    stats = Stats(
        gets=7,
        sets=1,
        l1_entries=1,
        tiers=total_by_tier([PLAYER]),
        models={"Player": PLAYER},
        statements=3,
        slow_statements=1,
        queries=(QueryStats(statement="SELECT ?", calls=2, total=1.0, max=0.75, slow=1),),
    )
    plain = json.loads(json.dumps(stats.to_dict()))
    assert {k: v for k, v in plain.items() if isinstance(v, int)} == {
        "gets": 7,
        "sets": 1,
        "deletes": 0,
        "errors": 0,
        "l1_entries": 1,
        "dirty_count": 0,
        "statements": 3,
        "slow_statements": 1,
    }
    assert plain["queries"] == [
        {"statement": "SELECT ?", "calls": 2, "total": 1.0, "mean": 0.5, "max": 0.75, "slow": 1, "errors": 0}
    ]
    assert plain["models"]["Player"]["tiers"]["l1"]["hit_ratio"] == 0.75
    assert plain["tiers"]["l2"]["decode_errors"] == {"schema": 1}
    assert Stats().to_dict() == {
        **dict.fromkeys(("gets", "sets", "deletes", "errors", "l1_entries", "dirty_count"), 0),
        **dict.fromkeys(("statements", "slow_statements"), 0),
        "tiers": {},
        "models": {},
        "queries": [],
    }


def test_a_snapshot_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Stats().gets = 1  # type: ignore[misc]


def test_counters_count_and_their_snapshot_stays():
    counters = Counters()
    counters.add("hook_errors")
    counters.add("dropped", 3)
    before = counters.snapshot()
    counters.add("dropped", 2)
    assert before == {"hook_errors": 1, "dropped": 3}
    assert counters.snapshot() == {"hook_errors": 1, "dropped": 5}
    counters.reset_after_fork()
    assert counters.snapshot() == {}


def test_counters_lose_nothing_between_threads():
    counters = Counters()
    threads = [threading.Thread(target=lambda: [counters.add("n") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counters.snapshot() == {"n": 8000}


def test_health_becomes_plain_values():
    health = Health(
        ok=False,
        status="degraded",
        tiers={"l2": TierHealth(ok=False, detail="breaker open"), "l3": TierHealth(True, "", 0.5)},
    )
    assert json.loads(json.dumps(health.to_dict())) == {
        "ok": False,
        "status": "degraded",
        "tiers": {
            "l2": {"ok": False, "detail": "breaker open", "latency_ms": None},
            "l3": {"ok": True, "detail": "", "latency_ms": 0.5},
        },
    }


def test_the_null_recorder_takes_everything_the_contract_names():
    recorder: MetricsRecorder = NullRecorder()
    assert isinstance(recorder, MetricsRecorder)
    recorder.hit("l1", "Player")
    recorder.miss("l2", "Player", 7)
    recorder.latency("l3", "get", 0.001)
    recorder.age("l1", "Player", 2.0)
    recorder.error("l2", "timeout")
    recorder.evicted("l1", "Player", 2)

"""The circuit breaker: closed, open, and one probe at a time."""

from __future__ import annotations

from datalayer.tiers.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(2, 1.0, Clock())
    assert not breaker.failure()
    breaker.success()
    assert not breaker.failure()
    assert breaker.failure()
    assert not breaker.allow()


def test_one_caller_probes_and_its_success_closes_it() -> None:
    clock = Clock()
    breaker = Breaker(1, 1.0, clock)
    breaker.failure()
    clock.now = 1.3
    assert breaker.allow()
    assert not breaker.allow()
    breaker.success()
    assert breaker.allow()
    assert not breaker.open


def test_a_probe_that_fails_leaves_it_open() -> None:
    clock = Clock()
    breaker = Breaker(1, 1.0, clock)
    breaker.failure()
    clock.now = 1.3
    assert breaker.allow()
    assert not breaker.failure()
    assert not breaker.allow()

"""A metrics recorder that keeps what it was told."""

from __future__ import annotations

import threading
from collections import Counter


class Recorder:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.latencies: list[tuple[str, str, float]] = []
        self.ages: list[tuple[str, str, float]] = []
        self._lock = threading.Lock()

    def hit(self, tier: str, model: str, count: int = 1) -> None:
        self._add("hit", tier, model, count=count)

    def miss(self, tier: str, model: str, count: int = 1) -> None:
        self._add("miss", tier, model, count=count)

    def evicted(self, tier: str, model: str, count: int = 1) -> None:
        self._add("evicted", tier, model, count=count)

    def error(self, tier: str, kind: str) -> None:
        self._add("error", tier, kind)

    def latency(self, tier: str, operation: str, seconds: float) -> None:
        self.latencies.append((tier, operation, seconds))

    def age(self, tier: str, model: str, seconds: float) -> None:
        self.ages.append((tier, model, seconds))

    def operations(self, tier: str) -> set[str]:
        return {operation for name, operation, _ in self.latencies if name == tier}

    def _add(self, *name: str, count: int = 1) -> None:
        with self._lock:
            self.counts[name] += count

"""What has happened so far, in numbers: live counters, and the snapshot that ``layer.stats()`` returns."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from .statements import QueryStats


@dataclass(frozen=True, kw_only=True, slots=True)
class TierStats:
    """One tier, of one model or of all. ``rejected_fills``: somebody wrote in between, so the row was not stored.
    ``decode_errors``: entries that counted as a miss, by reason. ``entries`` and ``bytes`` are what is held now.
    ``stale``: hits after the entry's end, while the database was away."""

    hits: int = 0
    misses: int = 0
    fills: int = 0
    rejected_fills: int = 0
    evictions: int = 0
    errors: int = 0
    entries: int = 0
    bytes: int = 0
    stale: int = 0
    decode_errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def hit_ratio(self) -> float | None:
        """Hits of all look-ups, from 0 to 1; None before the first one."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def __add__(self, other: Self) -> Self:
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return type(self)(**numbers, decode_errors=dict(Counter(self.decode_errors) + Counter(other.decode_errors)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "decode_errors": dict(self.decode_errors), "hit_ratio": self.hit_ratio}


_NUMBERS = ("hits", "misses", "fills", "rejected_fills", "evictions", "errors", "entries", "bytes", "stale")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStats:
    """One model, by tier (``"l1"``, ``"l2"``, ``"l3"``)."""

    tiers: Mapping[str, TierStats] = field(default_factory=dict)

    @property
    def hits(self) -> dict[str, int]:
        """Hits by tier."""
        return {name: tier.hits for name, tier in self.tiers.items()}

    @property
    def misses(self) -> dict[str, int]:
        """Misses by tier."""
        return {name: tier.misses for name, tier in self.tiers.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"tiers": _plain(self.tiers)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """A snapshot of a layer since its start. Counters that different threads turn are read one after the other, so sums
    may differ by what happened meanwhile. ``dirty_count``: queued writes that the database does not have yet.
    ``statements`` and ``slow_statements`` are SQL statements of this process; ``queries`` the ten that took most."""

    gets: int = 0
    sets: int = 0
    deletes: int = 0
    errors: int = 0
    l1_entries: int = 0
    dirty_count: int = 0
    statements: int = 0
    slow_statements: int = 0
    tiers: Mapping[str, TierStats] = field(default_factory=dict)
    models: Mapping[str, ModelStats] = field(default_factory=dict)
    queries: tuple[QueryStats, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        totals = {name: getattr(self, name) for name in _TOTALS}
        queries = [query.to_dict() for query in self.queries]
        return {**totals, "tiers": _plain(self.tiers), "models": _plain(self.models), "queries": queries}


_TOTALS = ("gets", "sets", "deletes", "errors", "l1_entries", "dirty_count", "statements", "slow_statements")


def total_by_tier(models: Iterable[ModelStats]) -> dict[str, TierStats]:
    """Each tier's sum over all models."""
    sums: dict[str, TierStats] = {}
    for model in models:
        for name, tier in model.tiers.items():
            sums[name] = sums.get(name, TierStats()) + tier
    return sums


def _plain(parts: Mapping[str, TierStats] | Mapping[str, ModelStats]) -> dict[str, Any]:
    return {name: part.to_dict() for name, part in parts.items()}


class Counters:
    """Named counters. Thread-safe. ``add`` takes a lock (about 0.2 µs): count hot things elsewhere and add them up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, int] = {}

    def add(self, name: str, n: int = 1) -> None:
        """Count ``n`` more of ``name``."""
        with self._lock:
            self._values[name] = self._values.get(name, 0) + n

    def snapshot(self) -> dict[str, int]:
        """All counters as they are at one instant."""
        with self._lock:
            return dict(self._values)

    def reset_after_fork(self) -> None:
        """In the child: start from zero, under a lock that nobody in the parent can be holding."""
        self._lock = threading.Lock()
        self._values = {}

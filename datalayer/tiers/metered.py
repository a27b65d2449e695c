"""A shared tier that tells a recorder how long its calls took, and how old the values were that it gave out.

Only put in front of a tier where there is a recorder: without one nothing is measured, and nothing paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from ..contracts.observe import MetricsRecorder
from ..contracts.tier import Fill, Found, Key, Lease, Leave, Met, SharedTier


class MeteredTier:
    """The shared tier as one model sees it; see :class:`datalayer.contracts.tier.SharedTier`.

    The age of a value is told as ``life``, the seconds that a value of this model has, less what it has left: it is
    right where all processes give the model the same life. Values of queued writes have no age. A call that a
    breaker refuses is reported with the little time that took.
    """

    def __init__(self, tier: SharedTier, recorder: MetricsRecorder, model: str, life: float) -> None:
        self._tier = tier
        self._recorder = recorder
        self._model = model
        self._life = life
        self.enabled = tier.enabled

    @property
    def round_trips(self) -> int:
        return self._tier.round_trips

    def get(self, key: Key) -> Found | None:
        began = perf_counter()
        found = self._tier.get(key)
        self._took("get", began)
        if found is not None:
            self._served(found)
        return found

    def same(self, key: Key, prefix: bytes) -> bool:
        began = perf_counter()
        same = self._tier.same(key, prefix)
        self._took("validate", began)
        return same

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Found]:
        began = perf_counter()
        found = self._tier.get_many(keys)
        self._took("get_many", began)
        for value in found.values():
            self._served(value)
        return found

    def lease(self, key: Key) -> Leave:
        began = perf_counter()
        leave = self._tier.lease(key)
        self._took("lease", began)
        return leave

    def lease_many(self, keys: Sequence[Key]) -> dict[Key, Leave]:
        began = perf_counter()
        leaves = self._tier.lease_many(keys)
        self._took("lease_many", began)
        return leaves

    def fill(self, key: Key, lease: Lease, entry: bytes, ttl: float) -> None:
        began = perf_counter()
        self._tier.fill(key, lease, entry, ttl)
        self._took("fill", began)

    def fill_many(self, fills: Sequence[Fill]) -> None:
        began = perf_counter()
        self._tier.fill_many(fills)
        self._took("fill_many", began)

    def release(self, key: Key, lease: Lease) -> None:
        self._tier.release(key, lease)

    def extend(self, key: Key, found: Found, entry: bytes, ttl: float) -> None:
        began = perf_counter()
        self._tier.extend(key, found, entry, ttl)
        self._took("fill", began)

    def resolve(self, key: Key, met: Met, entry: bytes | None, ttl: float) -> None:
        began = perf_counter()
        self._tier.resolve(key, met, entry, ttl)
        self._took("resolve", began)

    def discard(self, key: Key, found: Found) -> None:
        began = perf_counter()
        self._tier.discard(key, found)
        self._took("delete", began)

    def matching(self, space: str, glob: str) -> set[str] | None:
        began = perf_counter()
        found = self._tier.matching(space, glob)
        self._took("scan", began)
        return found

    def ping(self) -> bool:
        return self._tier.ping()

    def reset_after_fork(self) -> None:
        self._tier.reset_after_fork()

    def close(self) -> None:
        self._tier.close()

    def _took(self, operation: str, began: float) -> None:
        self._recorder.latency("l2", operation, perf_counter() - began)

    def _served(self, found: Found) -> None:
        if found.entry and not found.queued:
            self._recorder.age("l2", self._model, max(0.0, self._life - found.ttl))

"""Where measurements go: the contract of a metrics backend."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class MetricsRecorder(Protocol):
    """Takes what the tiers measure. Thread-safe, quick, and never raises: it runs in the middle of reads.

    ``tier`` is ``"l1"``, ``"l2"`` or ``"l3"``, ``model`` the name of a mapped class. Batches report once with a count.
    Latencies and the ages of values of L2 are told as they happen, in the thread of the read; the others in sums, every
    ``metrics_interval`` seconds, by a thread of the layer's.
    """

    def hit(self, tier: str, model: str, count: int = 1) -> None:
        """The tier had the row."""

    def miss(self, tier: str, model: str, count: int = 1) -> None:
        """The tier was asked and had nothing usable."""

    def latency(self, tier: str, operation: str, seconds: float) -> None:
        """One call to the tier took that long; ``operation`` is ``"get"``, ``"fill"``, ``"delete"`` ..."""

    def age(self, tier: str, model: str, seconds: float) -> None:
        """A row was served that the tier has held for that long. Of L1 a sample is told."""

    def error(self, tier: str, kind: str) -> None:
        """Something failed; ``kind`` is a stable word such as ``"timeout"`` or ``"decode_mac"``. The tier of what
        belongs to none, such as a hook, is ``"layer"``."""

    def evicted(self, tier: str, model: str, count: int = 1) -> None:
        """The tier dropped rows to make room."""

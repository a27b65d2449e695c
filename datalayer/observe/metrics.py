"""The recorder that is used while nobody listens."""

from __future__ import annotations


class NullRecorder:
    """A :class:`~datalayer.contracts.observe.MetricsRecorder` that forgets everything."""

    __slots__ = ()

    def hit(self, tier: str, model: str, count: int = 1) -> None: ...

    def miss(self, tier: str, model: str, count: int = 1) -> None: ...

    def latency(self, tier: str, operation: str, seconds: float) -> None: ...

    def age(self, tier: str, model: str, seconds: float) -> None: ...

    def error(self, tier: str, kind: str) -> None: ...

    def evicted(self, tier: str, model: str, count: int = 1) -> None: ...

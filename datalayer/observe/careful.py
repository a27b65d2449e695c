"""Stands between the layer and an application's recorder, so that what the recorder raises breaks no read."""

from __future__ import annotations

import logging
from typing import Any

from ..contracts.observe import MetricsRecorder

log = logging.getLogger("datalayer.metrics")


class CarefulRecorder:
    """A :class:`~datalayer.contracts.observe.MetricsRecorder` that never raises. As thread-safe as what it wraps.

    ``failures`` counts the exceptions that it kept to itself; the first one is logged.
    """

    def __init__(self, recorder: MetricsRecorder) -> None:
        self._recorder = recorder
        self.failures = 0

    def hit(self, tier: str, model: str, count: int = 1) -> None:
        self._tell("hit", tier, model, count)

    def miss(self, tier: str, model: str, count: int = 1) -> None:
        self._tell("miss", tier, model, count)

    def latency(self, tier: str, operation: str, seconds: float) -> None:
        self._tell("latency", tier, operation, seconds)

    def age(self, tier: str, model: str, seconds: float) -> None:
        self._tell("age", tier, model, seconds)

    def error(self, tier: str, kind: str) -> None:
        self._tell("error", tier, kind)

    def evicted(self, tier: str, model: str, count: int = 1) -> None:
        self._tell("evicted", tier, model, count)

    def _tell(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._recorder, name)(*arguments)
        except Exception as error:
            self.failures += 1
            if self.failures == 1:
                kind, raised = type(self._recorder).__name__, type(error).__name__
                log.exception("the metrics recorder %s raised %s in %s(); it will be told on", kind, raised, name)

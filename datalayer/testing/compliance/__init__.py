"""Suites that check an implementation against its contract. They know the contracts only.

A test of a new engine is three lines for pytest::

    class TestMyStore(StoreCompliance, ExpiringCompliance):
        def make_store(self, place, clock):
            return MyStore(place / "my.db", clock=clock)
"""

from __future__ import annotations

from .clock import ManualClock
from .stores import (
    DurableCompliance,
    ExpiringCompliance,
    ObservableCompliance,
    ScannableCompliance,
    SnapshotsCompliance,
    StoreCompliance,
    StreamingCompliance,
    TransactionalCompliance,
    VersionedCompliance,
)

__all__ = [
    "DurableCompliance",
    "ExpiringCompliance",
    "ManualClock",
    "ObservableCompliance",
    "ScannableCompliance",
    "SnapshotsCompliance",
    "StoreCompliance",
    "StreamingCompliance",
    "TransactionalCompliance",
    "VersionedCompliance",
]

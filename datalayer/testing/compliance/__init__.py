"""Suites that check an implementation against its contract, one module a contract. They know the contracts only.

A test of a new engine is three lines for pytest::

    class TestMyStore(StoreCompliance, ExpiringCompliance):
        def make_store(self, place, clock):
            return MyStore(place / "my.db", clock=clock)
"""

from __future__ import annotations

from .clock import ManualClock
from .durable import DurableCompliance
from .engine import EngineCompliance
from .expiring import ExpiringCompliance
from .multistore import MultiStoreCompliance
from .observable import ObservableCompliance
from .provider import ProviderCompliance
from .scannable import ScannableCompliance
from .snapshots import SnapshotsCompliance
from .store import StoreCompliance
from .streaming import StreamingCompliance
from .transactional import TransactionalCompliance
from .versioned import VersionedCompliance

__all__ = [
    "DurableCompliance",
    "EngineCompliance",
    "ExpiringCompliance",
    "ManualClock",
    "MultiStoreCompliance",
    "ObservableCompliance",
    "ProviderCompliance",
    "ScannableCompliance",
    "SnapshotsCompliance",
    "StoreCompliance",
    "StreamingCompliance",
    "TransactionalCompliance",
    "VersionedCompliance",
]

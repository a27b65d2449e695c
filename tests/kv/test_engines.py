"""Every engine keeps every rule of the contracts that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from stores import quick_sqlite

from datalayer.kv import FileStore, MemoryStore, Overlay, SqlStore
from datalayer.testing.compliance import (
    DurableCompliance,
    ExpiringCompliance,
    ManualClock,
    ObservableCompliance,
    ScannableCompliance,
    SnapshotsCompliance,
    StoreCompliance,
    StreamingCompliance,
    TransactionalCompliance,
    VersionedCompliance,
)


class Basics(StoreCompliance, ScannableCompliance, ExpiringCompliance, TransactionalCompliance):
    """What all engines here can do."""


class TestMemory(Basics, VersionedCompliance, SnapshotsCompliance, ObservableCompliance):
    def make_store(self, place: Path, clock: ManualClock) -> MemoryStore:
        return MemoryStore(clock=clock)


class TestMemoryThatIsBounded(Basics):
    def make_store(self, place: Path, clock: ManualClock) -> MemoryStore:
        return MemoryStore(clock=clock, max_entries=5000, max_bytes=12_000_000, full="evict")


class TestSqlite(Basics, DurableCompliance, ObservableCompliance):
    def make_store(self, place: Path, clock: ManualClock) -> SqlStore:
        return SqlStore(quick_sqlite(f"sqlite:///{place / 'kv.db'}", poolclass=sa.pool.NullPool), clock=clock)


@pytest.fixture(scope="module")
def database(pg_module_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(pg_module_url)
    yield engine
    engine.dispose()


class TestPostgres(Basics):
    @pytest.fixture
    def store(self, database: sa.Engine, key_prefix: str, clock: ManualClock) -> Iterator[Any]:
        store = SqlStore(database, table=key_prefix, clock=clock)
        yield store
        store.close()


class TestOverlay(Basics):
    def make_store(self, place: Path, clock: ManualClock) -> Overlay:
        return Overlay(MemoryStore(clock=clock))


class TestFile(
    Basics, VersionedCompliance, SnapshotsCompliance, StreamingCompliance, ObservableCompliance, DurableCompliance
):
    def make_store(self, place: Path, clock: ManualClock) -> FileStore:
        return FileStore(place / "kv", clock=clock, sync=False)


class TestFileThatWaitsForTheMedium(
    TransactionalCompliance, VersionedCompliance, StreamingCompliance, DurableCompliance
):
    """What costs few writes: the engine is the same, the disk takes its time."""

    def make_store(self, place: Path, clock: ManualClock) -> FileStore:
        return FileStore(place / "kv", clock=clock)

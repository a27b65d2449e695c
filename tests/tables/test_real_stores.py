"""Tables on the library's own key/value stores keep the rules of providers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import quick_sqlite

from datalayer.contracts.provider import Provider
from datalayer.tables import Layers, MemoryProvider, StoreProvider, Tables
from datalayer.testing.compliance.provider import ProviderCompliance

kv: Any = pytest.importorskip("datalayer.kv", reason="this build of the library has no key/value stores")


class TestMemoryStore(ProviderCompliance):
    def make(self) -> Provider:
        return StoreProvider(kv.MemoryStore())


class TestFileStore(ProviderCompliance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store"

    def make(self) -> Provider:
        return StoreProvider(kv.FileStore(self.path, sync=False))


class TestSqlStore(ProviderCompliance):
    @pytest.fixture(autouse=True)
    def _database(self, sqlite_url: str) -> Iterator[None]:
        self.engine = quick_sqlite(sqlite_url)
        yield
        self.engine.dispose()

    def make(self) -> Provider:
        return StoreProvider(kv.SqlStore(self.engine))


class TestLayersOverAStore(ProviderCompliance):
    def make(self) -> Provider:
        return Layers(("L1", MemoryProvider()), ("persistent", kv.MemoryStore()))


def test_a_table_survives_the_process_in_a_file(tmp_path: Path) -> None:
    for turn, expected in enumerate([None, "0", "1"]):
        layers = Layers(("L1", MemoryProvider()), ("persistent", kv.FileStore(tmp_path / "store")))
        with Tables(layers) as tables:
            table = tables.table("t", str)
            assert table.get("k") == expected
            table.set("k", str(turn))

"""Engines by name, stores by name: the registry, the factory and several stores under one roof."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from datalayer.contracts.store import (
    Engine,
    Expiring,
    Scannable,
    Snapshots,
    Store,
    Streaming,
    Transactional,
    Versioned,
    abilities_of,
)
from datalayer.errors import AlreadyExistsError, ConfigError, EncodeError, StoreError
from datalayer.kv import ENGINES, Engines, FileStore, MemoryStore, MultiStore, SqlStore, StoreEngine, open_store
from datalayer.testing.compliance import EngineCompliance, MultiStoreCompliance


class TestMemoryEngine(EngineCompliance):
    def make_engine(self) -> Engine:
        return ENGINES.engine("memory")


class TestFileEngine(EngineCompliance):
    def make_engine(self) -> Engine:
        return ENGINES.engine("file")

    def options(self, place: Path, name: str) -> dict[str, Any]:
        return {"path": place / name, "sync": False}


class TestSqlEngine(EngineCompliance):
    @pytest.fixture(autouse=True)
    def _database(self, sqlite_url: str) -> Iterator[None]:
        self.database = sa.create_engine(sqlite_url)
        yield
        self.database.dispose()

    def make_engine(self) -> Engine:
        return ENGINES.engine("sql")

    def options(self, place: Path, name: str) -> dict[str, Any]:
        return {"database": self.database}


class TestMultiStore(MultiStoreCompliance):
    def make_multistore(self) -> MultiStore:
        return MultiStore()


# -- the registry ------------------------------------------------------------------------------------------------------


def test_an_engine_is_chosen_by_what_its_stores_can_do() -> None:
    assert ENGINES.names() == ["file", "memory", "sql"]
    assert ENGINES.names(Transactional, Scannable, Expiring) == ["file", "memory", "sql"]
    assert ENGINES.names(Versioned, Snapshots) == ["file", "memory"]
    assert ENGINES.names(Streaming) == ["file"]


def test_an_engine_of_ones_own_is_registered_once() -> None:
    engines = Engines()

    def tiny(*, name: str = "tiny", limit: int = 10) -> MemoryStore:
        return MemoryStore(name=name, max_entries=limit)

    engines.register(StoreEngine("tiny", tiny))
    with pytest.raises(AlreadyExistsError, match="tiny"):
        engines.register(StoreEngine("tiny", tiny))
    with closing(engines.open("tiny", "mine", limit=1)) as store:
        store.put(b"a", b"1")
        with pytest.raises(StoreError, match="'mine' is full"):
            store.put(b"b", b"2")
    assert engines.engine("tiny").abilities == abilities_of(MemoryStore)
    assert engines.names(Versioned) == ["tiny"]


def test_a_function_that_says_nothing_of_its_stores_may_be_told() -> None:
    def silent(name):  # type: ignore[no-untyped-def]
        return MemoryStore(name=name)

    assert StoreEngine("silent", silent).abilities == frozenset()
    assert StoreEngine("silent", silent, abilities=[Versioned]).abilities == {Versioned}


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        ("fiel", {}, "did you mean 'file'"),
        ("nonsense", {}, "expected one of file, memory, sql"),
        ("memory", {"max_entires": 1}, "did you mean 'max_entries'"),
        ("memory", {"colour": 1}, "has no option 'colour'"),
        ("memory", {"full": "explode"}, "full"),
        ("memory", {"max_bytes": 0}, "max_bytes"),
        ("file", {"path": "x", "keep_versions": 0}, "keep_versions"),
        ("file", {"path": "x", "damaged": "ignore"}, "damaged"),
    ],
)
def test_what_an_engine_cannot_be_is_refused_with_a_hint(
    engine: str, options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        open_store(engine, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_factory_opens_every_engine_of_ours(tmp_path: Path, sqlite_url: str) -> None:
    database = sa.create_engine(sqlite_url)
    opened: list[tuple[Store, type]] = [
        (open_store("memory"), MemoryStore),
        (open_store("file", "files", path=tmp_path / "kv", sync=False), FileStore),
        (open_store("sql", "mine", database=database), SqlStore),
    ]
    for store, expected in opened:
        assert type(store) is expected
        store.put(b"k", b"v")
        assert store.get(b"k") == b"v"
        store.close()
    assert sa.inspect(database).get_table_names() == ["mine"]
    database.dispose()
    with closing(open_store("sql", "mine", database=sqlite_url)) as again:  # a URL, as settings have it
        assert again.get(b"k") == b"v"


# -- several stores ----------------------------------------------------------------------------------------------------


def test_each_store_may_have_an_engine_of_its_own(tmp_path: Path) -> None:
    with MultiStore() as stores:
        stores.open("sessions", "memory", max_entries=100)
        stores.open("documents", "file", path=tmp_path / "documents", sync=False)
        stores.store("documents").put(b"k", b"v")
        assert stores.names() == ["documents", "sessions"]
        assert repr(stores) == "<MultiStore documents, sessions>"
    with closing(FileStore(tmp_path / "documents")) as again:
        assert again.get(b"k") == b"v"


def test_a_store_that_cannot_be_opened_leaves_its_name_free(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with MultiStore() as stores:
        with pytest.raises(StoreError, match=r"photo\.jpg"):
            stores.open("documents", "file", path=tmp_path)
        assert stores.names() == []
        stores.open("documents", "memory")


def test_stores_may_be_opened_from_settings_all_or_none(tmp_path: Path) -> None:
    settings = {
        "sessions": {"engine": "memory", "max_entries": 100},
        "documents": {"engine": "file", "path": tmp_path / "documents", "sync": False},
    }
    with MultiStore.from_config(settings) as stores:
        assert stores.names() == ["documents", "sessions"]
        assert isinstance(stores.store("documents"), FileStore)
    with pytest.raises(ConfigError, match="store 'broken'"):
        MultiStore.from_config({**settings, "broken": {"engine": "nonsense"}})
    FileStore(tmp_path / "documents").close()  # it was closed again: nobody holds its lock


@pytest.mark.parametrize("settings", [{"a": "memory"}, {"a": {}}, {"a": {"engine": 5}}, ["a"], {"a": {1: 2}}])
def test_settings_that_name_no_store_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match="store"):
        MultiStore.from_config(settings)


def test_errors_name_the_store_the_key_and_what_to_do(tmp_path: Path) -> None:
    with closing(MemoryStore(name="sessions", max_bytes=10)) as store:
        with pytest.raises(StoreError, match=r"store 'sessions' is full: it holds 0 keys .* delete something"):
            store.put(b"k", b"v" * 100)
        with pytest.raises(EncodeError, match=r"a key is a 'str'; expected bytes \(a str needs \.encode\(\)\)"):
            store.get("k")  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match="a key has 0 bytes; expected 1 to 1024"):
            store.put(b"", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=str(tmp_path / "file")) as caught:
        FileStore(tmp_path / "file")
    assert isinstance(caught.value.__cause__, OSError)


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["memory", "file"])
def test_a_store_tells_its_whole_life(engine: str, tmp_path: Path) -> None:
    store: Any = open_store(engine, "mine", **({"path": tmp_path / "kv", "sync": False} if engine == "file" else {}))
    heard: list[tuple[str, str, tuple[bytes, ...]]] = []
    store.subscribe(lambda event: heard.append((event.kind, event.store, event.keys)))
    store.put(b"a", b"1")
    store.put(b"a", b"2")
    store.restore(b"a", store.versions(b"a")[0])
    with store.begin() as transaction:
        transaction.put(b"b", b"1")
        transaction.delete(b"a")
    store.delete(b"b")
    store.close()
    store.close()
    assert [kind for kind, _, _ in heard] == ["put", "put", "restore", "commit", "delete", "close"]
    assert {name for _, name, _ in heard} == {"mine"}
    assert set(heard[3][2]) == {b"a", b"b"}


def test_no_value_is_part_of_an_event(tmp_path: Path) -> None:
    heard: list[str] = []
    with closing(MemoryStore()) as store:
        store.subscribe(lambda event: heard.append(repr(event)))
        store.put(b"k", b"hunter2")
        with store.begin() as transaction:
            transaction.put(b"k", b"hunter2")
    assert "hunter2" not in "".join(heard)

"""The names that others write their code against, and no more than the package says."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from datalayer import kv
from datalayer.kv import FileStore, MemoryStore, Overlay, SqlStore

SETTLED = {
    "put": ["key", "value", "ttl"],
    "get": ["key"],
    "delete": ["key"],
    "exists": ["key"],
    "scan": ["prefix"],
    "close": [],
    "begin": [],
}
VERSIONED = {"get": ["key", "version"], "versions": ["key"], "restore": ["key", "version"]}


def parameters(method: Any) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name != "self"]


@pytest.mark.parametrize("store", [MemoryStore, FileStore, SqlStore])
def test_stores_have_the_settled_methods(store: type) -> None:
    names = SETTLED if store is SqlStore else SETTLED | VERSIONED
    assert {name: parameters(getattr(store, name)) for name in names} == names
    assert inspect.signature(store.put).parameters["ttl"].default is None  # type: ignore[attr-defined]
    assert inspect.signature(store.scan).parameters["prefix"].default == b""  # type: ignore[attr-defined]


def test_stores_are_made_as_settled() -> None:
    MemoryStore().close()
    kv.MultiStore().close()
    assert parameters(FileStore)[0] == "path"
    assert parameters(SqlStore)[0] == "engine"


def test_transactions_have_the_settled_methods() -> None:
    transaction = Overlay(MemoryStore()).begin()
    for name in ("put", "get", "delete", "commit", "rollback"):
        assert parameters(getattr(transaction, name)) == SETTLED.get(name, [])


def test_what_is_public_is_what_is_said() -> None:
    modules = {name for name, value in vars(kv).items() if inspect.ismodule(value)}
    public = {name for name in vars(kv) if not name.startswith("_")} - modules - {"annotations"}
    assert public == set(kv.__all__)

"""The names that others write their code against, and no more than the package says."""

from __future__ import annotations

import inspect
from typing import Any

import datalayer
from datalayer import tables

SETTLED = {
    "get": ["key", "default"],
    "set": ["key", "value", "ttl"],
    "delete": ["key"],
    "exists": ["key"],
    "get_many": ["keys"],
    "set_many": ["values", "ttl"],
    "delete_many": ["keys"],
    "keys": ["pattern"],
    "ttl": ["key"],
    "clear": ["pattern"],
}


def parameters(method: Any) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name != "self"]


def test_tables_have_the_settled_methods() -> None:
    assert {name: parameters(getattr(tables.Table, name)) for name in SETTLED} == SETTLED


def test_the_service_has_the_settled_functions() -> None:
    assert parameters(tables.configure)[:3] == ["provider", "key_prefix", "default_ttl"]
    assert parameters(tables.table)[:2] == ["name", "of"]
    assert parameters(tables.native) == ["of"]
    assert parameters(tables.swap_provider)[0] == "provider"
    assert callable(tables.configure_from_env)


def test_providers_are_made_as_settled() -> None:
    tables.MemoryProvider().close()
    assert parameters(tables.RedisProvider)[0] == "url"
    assert parameters(tables.MemcachedProvider)[0] == "servers"
    assert parameters(tables.StoreProvider)[0] == "store"
    assert datalayer.Layers is tables.Layers


def test_what_is_public_is_what_is_said() -> None:
    for name in tables.__all__:
        assert getattr(tables, name) is not None
    modules = {name for name, value in vars(tables).items() if inspect.ismodule(value)}
    public = {name for name in vars(tables) if not name.startswith("_")} - modules
    assert public - {"annotations", "Any", "TYPE_CHECKING"} <= set(tables.__all__)

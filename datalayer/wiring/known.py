"""What a layer knows of its models and their tables before anybody reads them."""

from __future__ import annotations

from typing import Any

from ..models.registry import Registry
from ..models.schema import schema_of
from ..session.caches import Caches


class Discovery:
    """Makes the ladders of every model known, so that a write of a row that was never read here is told as well."""

    def __init__(self, registry: Registry, caches: Caches) -> None:
        self._registry = registry
        self._caches = caches
        self._seen = -1

    def __call__(self) -> None:
        size = self._registry.size()
        if size != self._seen:
            for mapper in self._registry.usable():
                self._caches.prospect(schema_of(mapper))
            self._seen = size


def table_names(registry: Registry) -> set[str]:
    return {table.fullname for metadata in registry.watched for table in metadata.tables.values()}


def key_types(registry: Registry) -> Any:
    """Table name -> Python type of its single primary key column, as mapped classes have it."""
    known: dict[str, type | None] = {}

    def key_type(table: str) -> type | None:
        if table not in known:
            known[table] = _find_key_type(registry, table)
        return known[table]

    return key_type


def _find_key_type(registry: Registry, name: str) -> type | None:
    for metadata in registry.watched:
        table = metadata.tables.get(name)
        if table is not None and len(table.primary_key.columns) == 1:
            try:
                kind = next(iter(table.primary_key.columns)).type.python_type
            except NotImplementedError:
                return None
            return kind if isinstance(kind, type) else None
    return None

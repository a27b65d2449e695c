"""Which tables the database itself changes when rows are deleted or keys are updated: the foreign key actions.

Models often leave ``ondelete`` out while the database has it, so the declared graph is joined with the real one, which
is read once over the connection that is about to commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

import sqlalchemy as sa

log = logging.getLogger("datalayer.session")

_ACTIONS = frozenset(("CASCADE", "SET NULL", "SET DEFAULT"))

_POSTGRES = """
SELECT cn.nspname, c.relname, pn.nspname, p.relname, k.confdeltype::text, k.confupdtype::text
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
"""

_SQLITE = """
SELECT m.name, f."table", f.on_delete, f.on_update FROM sqlite_master m, pragma_foreign_key_list(m.name) f
WHERE m.type = 'table'
"""


class Edge(NamedTuple):
    """A foreign key with an action: rows of ``child`` change when rows of ``parent`` do."""

    child: str
    parent: str
    on_delete: bool
    on_update: bool


class Catalog:
    """The foreign key actions of one database. Thread-safe; the read costs one statement, once."""

    def __init__(self, metadatas: Callable[[], Iterable[sa.MetaData]]) -> None:
        self._metadatas = metadatas
        self._lock = threading.Lock()
        self._reflected: list[Edge] | None = None
        #: Told when the schema may have changed.
        self.listeners: list[Callable[[], None]] = []

    def forget(self) -> None:
        """The schema changed: read it again at the next need."""
        self._reflected = None
        for listener in self.listeners:
            listener()

    def affected(self, connection: sa.Connection, deleted: Iterable[str], rekeyed: Iterable[str]) -> set[str] | None:
        """Tables that the database changes by itself, or None when it cannot say."""
        edges = self._edges(connection)
        if edges is None:
            return None
        out = _closure(edges, deleted, delete=True)
        return out | _closure(edges, {*rekeyed}, delete=False)

    def _edges(self, connection: sa.Connection) -> list[Edge] | None:
        with self._lock:
            if self._reflected is None:
                try:
                    self._reflected = list(_reflect(connection))
                except Exception:
                    log.warning(
                        "foreign keys could not be read; this commit invalidates every cached row", exc_info=True
                    )
                    return None
            reflected = self._reflected
        return reflected + [edge for metadata in self._metadatas() for edge in _declared(metadata)]


def _closure(edges: list[Edge], start: Iterable[str], *, delete: bool) -> set[str]:
    out: set[str] = set()
    todo = [*start]
    while todo:
        parent = todo.pop()
        for edge in edges:
            acts = edge.on_delete if delete else edge.on_update
            if acts and edge.parent == parent and edge.child not in out:
                out.add(edge.child)
                todo.append(edge.child)
    return out


def _declared(metadata: sa.MetaData) -> Iterator[Edge]:
    for table in metadata.tables.values():
        for constraint in table.foreign_key_constraints:
            if constraint.ondelete or constraint.onupdate:
                parent = constraint.elements[0].target_fullname.rpartition(".")[0]
                yield Edge(table.fullname, parent, _acts(constraint.ondelete), _acts(constraint.onupdate))


def _acts(action: str | None) -> bool:
    return (action or "").upper() in _ACTIONS


def _reflect(connection: sa.Connection) -> Iterator[Edge]:
    """Read the actions over the raw cursor: the application's statement listeners have no part in this."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        for child_schema, child, parent_schema, parent, delete, update in _rows(connection, _POSTGRES):
            for c, p in product((child, f"{child_schema}.{child}"), (parent, f"{parent_schema}.{parent}")):
                yield Edge(c, p, delete in "cnd", update in "cnd")
    elif dialect == "sqlite":
        for child, parent, delete, update in _rows(connection, _SQLITE):
            yield Edge(child, parent, _acts(delete), _acts(update))


def _rows(connection: sa.Connection, sql: str) -> list[Any]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return list(cursor.fetchall())
    finally:
        cursor.close()

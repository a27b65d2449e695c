"""What the catalogue of a live database says beyond what Alembic compares: half-made indexes, unproven constraints,
CHECKs, enum labels, partitioned tables, views."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

import sqlalchemy as sa

from .names import full


class ForeignKey(NamedTuple):
    """A foreign key as it acts, whatever its name is."""

    table: str
    columns: tuple[str, ...]
    referred: str
    ondelete: str
    onupdate: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Read once, before a plan is made. Tables and types are named as the models name them: schema only if given."""

    tables: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    children: Mapping[str, str] = field(default_factory=dict)  # partition -> its parent
    partitioned: frozenset[str] = frozenset()
    invalid_indexes: frozenset[tuple[str, str]] = frozenset()
    indexes: frozenset[tuple[str, str]] = frozenset()
    attached: frozenset[tuple[str, str]] = frozenset()
    unproven: frozenset[tuple[str, str]] = frozenset()
    foreign_keys: frozenset[ForeignKey] = frozenset()  # of SQLite, where reflection overlooks actions
    checks: dict[str, dict[str, str]] = field(default_factory=dict)
    enums: dict[str, list[str]] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()
    schemas: frozenset[str] = frozenset()
    triggers: Mapping[str, frozenset[str]] = field(default_factory=dict)  # ours, by table
    notifier: str | None = None  # the body of the function that they call
    alembic_version: str | None = None
    today: date | None = None

    def partitions_of(self, table: str) -> list[str]:
        """The partitions of a table."""
        return [child for child, parent in self.children.items() if parent == table]


def read_facts(connection: sa.Connection, schemas: set[str | None]) -> Facts:
    """The facts of the tables in these schemas; None is the default schema. A handful of catalogue queries."""
    return (_postgres if connection.dialect.name == "postgresql" else _generic)(connection, schemas)


def _generic(connection: sa.Connection, schemas: set[str | None]) -> Facts:
    inspector, sqlite = sa.inspect(connection), connection.dialect.name == "sqlite"
    tables = {full(name, schema) for schema in schemas for name in inspector.get_table_names(schema)}
    views = {full(name, schema) for schema in schemas for name in inspector.get_view_names(schema)}
    checks: dict[str, dict[str, str]] = {}
    for (schema, table), found in inspector.get_multi_check_constraints().items():
        checks[full(table, schema)] = {str(c["name"] or f"?{i}"): c["sqltext"] for i, c in enumerate(found)}
    return Facts(
        tables=frozenset(tables),
        views=frozenset(views),
        indexes=frozenset(_sqlite_indexes(connection)) if sqlite else frozenset(),
        foreign_keys=frozenset(_sqlite_keys(connection)) if sqlite else frozenset(),
        checks=checks,
        alembic_version=_alembic_version(connection, "alembic_version" in tables),
    )


def _sqlite_indexes(connection: sa.Connection) -> list[tuple[str, str]]:
    # From the master table: reflection leaves out indexes on expressions.
    rows = connection.execute(sa.text("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index'"))
    return [(table, name) for table, name in rows]


def _sqlite_keys(connection: sa.Connection) -> Iterator[ForeignKey]:
    # Reflection finds no name and no action of a key that came with ALTER TABLE ADD COLUMN.
    found: dict[tuple[str, int], list[sa.Row[Any]]] = defaultdict(list)
    for row in connection.execute(sa.text(_SQLITE_KEYS)):
        found[row.name, row.id].append(row)
    for (table, _), parts in found.items():
        first = parts[0]
        yield ForeignKey(table, tuple(part.column for part in parts), first.referred, first.on_delete, first.on_update)


_SQLITE_KEYS = """
SELECT m.name, f.id, f."from" AS "column", f."table" AS referred, f.on_delete, f.on_update
FROM sqlite_master m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table' ORDER BY 1, 2, f.seq"""


def _alembic_version(connection: sa.Connection, there: bool) -> str | None:
    if not there:
        return None
    versions = connection.scalars(sa.text("SELECT version_num FROM alembic_version ORDER BY 1")).all()
    return ", ".join(versions) or None


_CLASSES = """
SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = ANY(:schemas)"""
_CHILDREN = """
SELECT n.nspname, c.relname, m.nspname, p.relname FROM pg_inherits h
JOIN pg_class c ON c.oid = h.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace m ON m.oid = p.relnamespace
WHERE c.relispartition AND c.relkind IN ('r', 'p', 'f')"""
_INDEXES = """
SELECT n.nspname, t.relname, i.relname, x.indisvalid, i.relispartition FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = ANY(:schemas)"""
_CONSTRAINTS = """
SELECT n.nspname, t.relname, k.conname, k.contype, k.convalidated, pg_get_constraintdef(k.oid) FROM pg_constraint k
JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE k.contype IN ('c', 'f') AND n.nspname = ANY(:schemas)"""
_ENUMS = """
SELECT n.nspname, t.typname, array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_type t
JOIN pg_enum e ON e.enumtypid = t.oid JOIN pg_namespace n ON n.oid = t.typnamespace GROUP BY 1, 2"""

_TRIGGERS = r"""
SELECT n.nspname, c.relname, array_agg(t.tgname::text) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname LIKE 'datalayer\_%' AND NOT t.tgisinternal AND n.nspname = ANY(:schemas) GROUP BY 1, 2"""
_NOTIFIER = "SELECT prosrc FROM pg_proc WHERE oid = to_regproc('datalayer_notify')"


def _postgres(connection: sa.Connection, schemas: set[str | None]) -> Facts:
    default = connection.scalar(sa.text("SELECT current_schema()"))
    wanted = {"schemas": sorted({schema or default or "public" for schema in schemas})}

    def named(schema: str, name: str) -> str:
        return full(name, None if schema == default and None in schemas else schema)

    classes = [(named(s, n), kind) for s, n, kind in connection.execute(sa.text(_CLASSES), wanted)]
    children = {named(s, n): named(m, p) for s, n, m, p in connection.execute(sa.text(_CHILDREN))}
    indexes = [(named(s, t), i, ok, sub) for s, t, i, ok, sub in connection.execute(sa.text(_INDEXES), wanted)]
    checks: dict[str, dict[str, str]] = defaultdict(dict)
    unproven = set()
    for schema, table, name, kind, proven, definition in connection.execute(sa.text(_CONSTRAINTS), wanted):
        if not proven:
            unproven.add((named(schema, table), name))
        if kind == "c":
            checks[named(schema, table)][name] = definition
    tables = {name for name, kind in classes if kind in "rpf"}
    return Facts(
        tables=frozenset(tables),
        views=frozenset(name for name, kind in classes if kind in "vm"),
        children=children,
        partitioned=frozenset(name for name, kind in classes if kind == "p"),
        invalid_indexes=frozenset((t, i) for t, i, valid, _ in indexes if not valid),
        indexes=frozenset((t, i) for t, i, _, _ in indexes),
        attached=frozenset((t, i) for t, i, _, attached in indexes if attached),
        unproven=frozenset(unproven),
        checks=dict(checks),
        enums={full(n, None if s == default else s): labels for s, n, labels in connection.execute(sa.text(_ENUMS))},
        schemas=frozenset(connection.scalars(sa.text("SELECT nspname FROM pg_namespace"))),
        extensions=frozenset(connection.scalars(sa.text("SELECT extname FROM pg_extension"))),
        triggers={named(s, t): frozenset(f) for s, t, f in connection.execute(sa.text(_TRIGGERS), wanted)},
        notifier=connection.scalar(sa.text(_NOTIFIER)),
        alembic_version=_alembic_version(connection, "alembic_version" in tables),
        today=connection.scalar(sa.text("SELECT (now() AT TIME ZONE 'UTC')::date")),
    )

"""Look-ups by a unique column: which statements are one, and which key a value leads to.

An index entry (column and value -> primary key) needs no invalidation: the row is then read by its key through the
tiers and must still have the value that was asked for, else the database is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter

from ..crypto.column import BlindMatch
from ..models.copying import own_row
from ..models.schema import KEY_TYPES, Projection, Schema, schema_of
from ..tiers.ladder import Ladder
from ..tiers.needs import Row
from .reads import InSession, execute_raw

if TYPE_CHECKING:
    from .session import Session


class Lookup(NamedTuple):
    """``select(E).where(E.column == value)`` for a unique column of E."""

    schema: Schema
    name: str
    value: Any


def unique_sets(schema: Schema) -> frozenset[frozenset[str]]:
    """The sets of attributes that are unique in the table: declared columns, constraints and full unique indexes."""
    known: frozenset[frozenset[str]] | None = schema.__dict__.get("unique_sets")
    if known is None:
        known = frozenset(_unique_sets(schema)) if schema.cacheable else frozenset()
        schema.__dict__["unique_sets"] = known
    return known


def _unique_sets(schema: Schema) -> Any:
    names = dict(zip(schema.local.columns, schema.local.keys, strict=True))
    for column, key in tuple(names.items()):  # unique digests mean unique values
        if (blind := getattr(column.type, "blind", None)) is not None:
            names[column.table.c[blind]] = key
    for table in {c.table for c in schema.local.columns}:
        constraints: list[Any] = [c.columns for c in table.constraints if isinstance(c, sa.UniqueConstraint)]
        constraints += [(c,) for c in table.columns if c.unique]
        constraints += [i.columns for i in table.indexes if i.unique and _covers_all(i)]
        for columns in constraints:
            if len(columns) and all(c in names for c in columns):
                yield frozenset(names[c] for c in columns)


def _covers_all(index: sa.Index) -> bool:
    """Not a partial index, and on plain columns."""
    partial = any(value is not None for key, value in index.dialect_kwargs.items() if key.endswith("_where"))
    return not partial and all(isinstance(e, sa.Column) for e in index.expressions)


def recognise(statement: Any) -> Lookup | None:
    """The look-up that a statement is, or None. Only the bare shape counts; costs two microseconds."""
    if type(statement) is not sa.Select or len(statement._where_criteria) != 1 or not _bare(statement):
        return None
    criterion = statement._where_criteria[0]
    if type(criterion) is BlindMatch:
        return _recognise_blind(criterion, statement._raw_columns[0])
    if type(criterion) is not BinaryExpression or criterion.operator is not operators.eq:
        return None
    left, right, entity = criterion.left, criterion.right, statement._raw_columns[0]
    if not isinstance(right, BindParameter) or not getattr(entity, "is_selectable", False):
        return None
    mapper: Any = entity._annotations.get("parententity")
    if mapper is None or not mapper.is_mapper or left._annotations.get("parententity") is not mapper:
        return None
    return _lookup(schema_of(cast(Any, mapper)), left._annotations.get("proxy_key"), right)


def _recognise_blind(match: BlindMatch, entity: Any) -> Lookup | None:
    """Equality of an encrypted column with one text: what L1 holds is readable, so the text is what is looked for."""
    column, texts = next(iter(match.clauses)), match.texts
    mapper: Any = getattr(entity, "_annotations", {}).get("parententity")
    if mapper is None or not mapper.is_mapper or column._annotations.get("parententity") is not mapper:
        return None
    schema = schema_of(cast(Any, mapper))
    if len(texts) != 1 or type(texts[0]) is not str or not schema.cacheable:
        return None
    for encrypted, name in zip(schema.local.columns, schema.local.keys, strict=True):
        if getattr(encrypted.type, "blind", None) == column.key and encrypted.table.c[column.key].compare(column):
            return Lookup(schema, name, texts[0]) if frozenset((name,)) in unique_sets(schema) else None
    return None


def _lookup(schema: Schema, name: Any, parameter: BindParameter[Any]) -> Lookup | None:
    if parameter.required or frozenset((name,)) not in unique_sets(schema):
        return None
    value = parameter.effective_value
    return Lookup(schema, name, value) if type(value) in KEY_TYPES else None


def _bare(statement: Any) -> bool:
    return len(statement._raw_columns) == 1 and not (
        statement._with_options
        or statement._setup_joins
        or statement._for_update_arg is not None
        or statement._limit_clause is not None
        or statement._offset_clause is not None
        or statement._fetch_clause is not None
        or statement._group_by_clauses
        or statement._order_by_clauses
        or statement._having_criteria
        or statement._distinct
        or statement._from_obj
        or statement._prefixes
        or statement._suffixes
        or statement._hints
        or statement._statement_hints
        or statement._execution_options
        or statement._independent_ctes
        or statement._correlate
        or statement._correlate_except
    )


def unique_rows(
    session: Session, ladder: Ladder, schema: Schema, asked: Mapping[str, Any], statement: Any
) -> tuple[Projection, list[tuple[Any, ...]]]:
    """The row with these unique values, and the projection it has; ``statement`` asks the database for it."""
    slot = tuple(sorted(asked.items()))
    entry = ladder.lookups.index.get(slot)
    if entry is not None and entry.deadline > ladder.lookups.clock():
        key = entry.value
        row = ladder.read(
            schema, key, InSession(session, schema, schema.statement), local=session._consistency() == "cached"
        )
        if isinstance(row, Row) and _has_values(row, asked):
            return row.projection, [own_row(row.values)]
    glance = ladder.glance()
    rows = [tuple(row) for row in execute_raw(session, schema, statement, {})]
    if len(rows) == 1:
        key = schema.key_of(rows[0])
        ladder.lookups.put(slot, key)
        ladder.near.keep_seen(schema, key, glance, rows[0])
    return schema.full, [own_row(row) for row in rows]


def _has_values(row: Row, asked: Mapping[str, Any]) -> bool:
    keys, values = row.projection.keys, row.values
    return all(
        type(found := values[keys.index(name)]) is type(value) and found == value for name, value in asked.items()
    )

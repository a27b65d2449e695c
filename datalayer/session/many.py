"""Many rows by key into one session: the identity map first, then each tier with the misses of the one above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..models.schema import Schema
from ..tiers.ladder import Ladder
from ..tiers.needs import Row
from .reads import NO_SUCH_ROW, execute_raw, instance_of, listens, may_use_tiers
from .session import Session

_BATCH = 1000


def get_many(session: Session, schema: Schema, ids: Iterable[Any]) -> dict[Any, Any]:
    """The session's instances that exist, by id as given, in the order given."""
    wanted = {id: id if isinstance(id, tuple) else (id,) for id in ids}
    ladder = _usable(session, schema, wanted.values())
    if ladder is None:
        return _selected(session, schema, wanted)
    found: dict[Any, Any] = {}
    missing: dict[Any, tuple[Any, ...]] = {}
    for id, key in wanted.items():
        present = session.identity_map.get(schema.mapper.identity_key_from_primary_key(key))
        if present is None:
            missing[id] = key
        elif isinstance(present, schema.cls):
            found[id] = present
    rows = ladder.read_many(
        schema,
        list(missing.values()),
        lambda keys: _load(session, schema, keys),
        local=session._consistency() == "cached",
    )
    found |= _instances(session, schema, missing, rows)
    return {id: found[id] for id in wanted if id in found}


def _instances(session: Session, schema: Schema, keys: Mapping[Any, Any], rows: Mapping[Any, Row]) -> dict[Any, Any]:
    made = {id: instance_of(session, schema, rows[key]) for id, key in keys.items() if key in rows}
    return {id: instance for id, instance in made.items() if instance is not NO_SUCH_ROW}


def _usable(session: Session, schema: Schema, keys: Iterable[tuple[Any, ...]]) -> Ladder | None:
    caches = session._caches
    if caches is None or caches.closed or session._bypass or session._consistency() == "database" or listens(session):
        return None
    ladder = caches.ladder(schema)
    size = len(schema.mapper.primary_key)
    if ladder is None or any(len(key) != size or schema.key_problem(key) for key in keys):
        return None
    session._autobegin_t()
    session._autoflush()
    return ladder if may_use_tiers(session, schema) else None


def _load(session: Session, schema: Schema, keys: Sequence[tuple[Any, ...]]) -> dict[Any, tuple[Any, ...]]:
    found: dict[Any, tuple[Any, ...]] = {}
    for at in range(0, len(keys), _BATCH):
        statement = schema.statement._clone()
        statement._where_criteria = (_among(schema, keys[at : at + _BATCH]),)
        for row in execute_raw(session, schema, statement, {}):
            found[schema.key_of(tuple(row))] = tuple(row)
    return found


def _among(schema: Schema, keys: Sequence[tuple[Any, ...]]) -> Any:
    columns = schema.mapper.primary_key
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return sa.tuple_(*columns).in_(list(keys))


def _selected(session: Session, schema: Schema, wanted: Mapping[Any, tuple[Any, ...]]) -> dict[Any, Any]:
    """By plain SELECTs, where the tiers may not be used."""
    keys = list(wanted.values())
    columns = [schema.mapper.get_property_by_column(c).class_attribute for c in schema.mapper.primary_key]
    found: dict[Any, Any] = {}
    for at in range(0, len(keys), _BATCH):
        batch = keys[at : at + _BATCH]
        among = columns[0].in_([k[0] for k in batch]) if len(columns) == 1 else sa.tuple_(*columns).in_(batch)
        for instance in session.scalars(sa.select(schema.cls).where(among)):
            found[tuple(schema.mapper.primary_key_from_instance(instance))] = instance
    return {id: found[key] for id, key in wanted.items() if key in found}

"""Rows of one model written by key in one statement a batch: upserts, and deletes that need no unit of work.

Their keys are known before a statement is sent, so the caches forget exactly those. Rows of a statement are in the
order of their keys: two writers of the same rows then wait for each other, and do not meet in a deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper, RelationshipDirection

from ..errors import NotFoundError
from ..models.columns import column_flags, indispensable, utc_now
from ..models.schema import Schema
from ..tiers.upsert import upsert
from .session import Session

Key = tuple[Any, ...]
Values = Mapping[str, Any]

BATCH = 1000

_KNOWN = {"datalayer_keys_known": True}
_FETCH = {**_KNOWN, "synchronize_session": "fetch"}


class Batches:
    """Writes of one model in one session. As thread-safe as the session."""

    def __init__(self, session: Session, schema: Schema) -> None:
        self._session = session
        self._schema = schema
        self._mapper: Mapper[Any] = schema.mapper
        self._keys = [self._mapper.get_property_by_column(c).key for c in self._mapper.primary_key]

    # -- the write set ---------------------------------------------------------------------------------------------

    def connection(self) -> sa.Connection:
        return self._session.connection(bind_arguments={"mapper": self._mapper})

    def touch(self, keys: Iterable[Key], kind: str) -> None:
        """Enter keys into the write set of the transaction. Before the statement: AUTOCOMMIT has no later moment."""
        caches = self._session._caches
        if caches is None:
            return
        written = caches.tracker.open(self.connection())
        count = 0
        for key in keys:
            written.touch(self._schema.space, key, self._schema.tables)
            count += 1
        caches.tracker.counts[kind] += count

    # -- upserts ---------------------------------------------------------------------------------------------------

    def upsert(self, rows: Sequence[Values]) -> list[Any]:
        """Insert or update rows, each given as the attributes to write; the session's instances, in that order.

        Attributes that a row does not have stay as they are, or get their defaults in a new one.
        """
        keys = [tuple(row[name] for name in self._keys) for row in rows]
        found: dict[Key, Any] = {}
        for window in _windows(keys, rows):
            for names, group in window.items():
                missing = indispensable(self._mapper, names)
                if missing:
                    self._update(_sorted(group), missing)
                    continue
                for at in range(0, len(group), BATCH):
                    self._upsert(names, _sorted(group)[at : at + BATCH], found)
        return [found[key] if key in found else self._read(key) for key in keys]

    def _read(self, key: Key) -> Any:
        """A row that the database did not return under the very key: it equals it, or a trigger has moved it."""
        with self._session._to_database():
            return self._session.get(self._mapper, key, populate_existing=True)

    def _update(self, rows: list[tuple[Key, Values]], missing: list[str]) -> None:
        """Rows that cannot be inserted as they are, which the database would say even of those that exist."""
        for key, row in rows:
            values = {name: value for name, value in row.items() if name not in self._keys}
            if not self.compare_and_set(key, values, ()):
                raise NotFoundError(
                    f"{self._mapper.class_.__name__} {key if len(key) > 1 else key[0]!r} does not exist, and cannot be "
                    f"inserted without {', '.join(missing)}"
                )

    def _upsert(self, names: frozenset[str], rows: list[tuple[Key, Values]], found: dict[Key, Any]) -> None:
        completed, once = self._completed(names, [row for _, row in rows])
        self.touch([key for key, _ in rows], "sets")
        statement = upsert(
            self.connection().dialect.name,
            self._mapper.local_table,
            [self._mapper.column_attrs[name].columns[0].key for name in completed[0]],
            once=once,
            version=self._mapper.version_id_col,
            entity=self._mapper,
        )
        options = {**_KNOWN, "populate_existing": True}
        result = self._session.scalars(statement.returning(self._mapper), completed, execution_options=options)
        for instance in result.unique():
            found[tuple(sa.inspect(instance).identity)] = instance

    def _completed(self, names: frozenset[str], rows: list[Values]) -> tuple[list[dict[str, Any]], set[str]]:
        """The rows with the values that the layer sets by itself, and the columns that only an insert may write."""
        now = utc_now(None)
        fill, always, once = {}, {}, set()
        for prop in self._mapper.column_attrs:
            flags = column_flags(prop.columns[0])  # type: ignore[arg-type]
            if flags.auto_now:
                always[prop.key] = now
            if flags.auto_now_add:
                once.add(prop.columns[0].key)
                fill[prop.key] = now
        made = [{**fill, **{k: v for k, v in row.items() if v is not None or k not in fill}, **always} for row in rows]
        return made, once

    # -- deletes ---------------------------------------------------------------------------------------------------

    def delete(self, keys: Sequence[Key]) -> int:
        """Delete the rows under these keys; how many there were."""
        if not _database_deletes(self._mapper):
            return self._delete_objects(keys)
        statement = sa.delete(self._mapper)
        return sum(self._run(statement, batch) for batch in _batches(keys))

    def change(self, keys: Sequence[Key], values: Values, criterion: Any) -> int:
        """Set the same values in the rows under these keys that meet a criterion; how many there were."""
        statement = sa.update(self._mapper).where(criterion).values(**self._stamped(values))
        return sum(self._run(statement, batch) for batch in _batches(keys))

    def _run(self, statement: Any, keys: list[Key]) -> int:
        self.touch(keys, "deletes" if statement.is_delete else "sets")
        pk = self._mapper.primary_key
        criterion = pk[0].in_([key[0] for key in keys]) if len(pk) == 1 else sa.tuple_(*pk).in_(keys)
        statement = statement.where(criterion).returning(*pk)
        return len(self._session.execute(statement, execution_options=_FETCH).all())

    def _stamped(self, values: Values) -> dict[str, Any]:
        """Values of an UPDATE with what the layer sets by itself, and without what only an insert may write."""
        now, made = utc_now(None), dict(values)
        for prop in self._mapper.column_attrs:
            flags = column_flags(prop.columns[0])  # type: ignore[arg-type]
            if flags.auto_now:
                made[prop.key] = now
            elif flags.auto_now_add:
                made.pop(prop.key, None)
        version = self._mapper.version_id_col
        if version is not None:
            name = self._mapper.get_property_by_column(version).key
            made[name] = getattr(self._mapper.class_, name) + 1
        return made

    def _delete_objects(self, keys: Sequence[Key]) -> int:
        """By the unit of work, which knows what else goes with a row."""
        gone = 0
        for batch in _batches(keys):
            pk = self._mapper.primary_key
            criterion = pk[0].in_([key[0] for key in batch]) if len(pk) == 1 else sa.tuple_(*pk).in_(batch)
            for instance in self._session.scalars(sa.select(self._mapper).where(criterion)).unique():
                self._session.delete(instance)
                gone += 1
            self._session.flush()
        return gone

    def compare_and_set(self, key: Key, values: Values, criteria: Sequence[Any]) -> bool:
        """Update one row if it still meets the criteria; whether it did."""
        self.touch([key], "sets")
        attributes = [getattr(self._mapper.class_, name) for name in self._keys]
        same = [attribute == value for attribute, value in zip(attributes, key, strict=True)]
        statement = sa.update(self._mapper).where(*same, *criteria).values(**self._stamped(values))
        result: Any = self._session.execute(statement, execution_options={**_KNOWN, "synchronize_session": False})
        return bool(result.rowcount == 1)


def _windows(keys: Sequence[Key], rows: Sequence[Values]) -> Iterator[dict[frozenset[str], list[tuple[Key, Values]]]]:
    """Rows by the attributes that they have; a key that comes again begins a new window, for the later must win."""
    window: dict[frozenset[str], list[tuple[Key, Values]]] = {}
    seen: set[Key] = set()
    for key, row in zip(keys, rows, strict=True):
        if key in seen:
            yield window
            window, seen = {}, set()
        seen.add(key)
        window.setdefault(frozenset(row), []).append((key, row))
    yield window


def _sorted(rows: list[tuple[Key, Values]]) -> list[tuple[Key, Values]]:
    try:
        return sorted(rows, key=lambda pair: pair[0])
    except TypeError:  # keys without an order stay as they are
        return rows


def _batches(keys: Sequence[Key]) -> Iterator[list[Key]]:
    unique = list(dict.fromkeys(keys))
    for at in range(0, len(unique), BATCH):
        yield unique[at : at + BATCH]


def _database_deletes(mapper: Mapper[Any]) -> bool:
    """Whether a DELETE does all that deleting an object would: nothing in Python cascades, and nobody listens."""
    if mapper.inherits is not None or mapper.polymorphic_on is not None or len(mapper.tables) != 1:
        return False
    if mapper.dispatch.before_delete or mapper.dispatch.after_delete:
        return False
    return all(_leaves_to_database(relationship) for relationship in mapper.relationships)


def _leaves_to_database(relationship: Any) -> bool:
    if relationship.viewonly or relationship.passive_deletes:
        return True
    return relationship.direction is RelationshipDirection.MANYTOONE and not relationship.cascade.delete

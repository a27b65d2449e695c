"""Reads by key outside of any session: what ``layer.repository(Model)`` serves from, compiled per model.

An L1 hit takes no lock, builds no key and looks nothing up by name: the function is a closure over the index of its
model. Whatever is not the plain case (a demand for freshness, a hook, an odd key, a listener that filters rows) leaves
through ``_slow``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..contracts.coherence import ABSENT, Absent
from ..contracts.levels import Consistency
from ..errors import InvalidModelError, UnavailableError
from ..models.copying import own_row
from ..models.schema import Schema
from ..query.depends import Reason
from ..tiers.l3 import Loader, RowReader
from ..tiers.ladder import Ladder
from ..tiers.needs import Row
from .caches import Caches
from .hydrate import compile_from_row, compile_from_template, install_lazy_state, maker
from .lists import listed_rows
from .many import get_many
from .session import Session
from .snapshots import Snapshot, make_snapshot, snapshot_class

if TYPE_CHECKING:
    from ..tiers.stale import Stale

OpenSession = Callable[[], Session]


class Reader:
    """Owned instances and shared snapshots of one model, by key. Thread-safe; every call uses its own connection.

    ``get`` and ``get_snapshot`` are closures made at construction: hold the reader (or the repository) to profit.
    """

    def __init__(self, caches: Caches, schema: Schema, rows: RowReader | None, open_session: OpenSession) -> None:
        self.schema = schema
        self._caches = caches
        self._rows = rows
        self._load = Loader(rows) if rows is not None else None
        self._open = open_session
        self._keys = len(schema.mapper.primary_key)
        self._lazy = rows is not None and install_lazy_state(schema)
        self._snapshots = snapshot_class(schema) if rows is not None else None
        self._from_row: dict[int, Callable[[tuple[Any, ...]], Any]] = {}
        # The class-level listeners of the sessions that this layer opens; truth-tested on every hit.
        self._heard: Any = getattr(open_session().dispatch.do_orm_execute, "parent_listeners", ())
        ladder = caches.prospect(schema) if rows is not None else None
        fast = ladder is not None and ladder.single and self._lazy and self._keys == 1
        self.get: Callable[..., Any] = self._compile_get(ladder) if fast and ladder else self._slow
        self.get_snapshot: Callable[..., Any] = (
            self._compile_snapshot(ladder) if fast and ladder else self._slow_snapshot
        )

    # -- the hit ---------------------------------------------------------------------------------------------------

    def _compile_get(self, ladder: Ladder) -> Callable[..., Any]:
        schema, slow, below = self.schema, self._slow, self._below
        find, now, blocks, heard = ladder.l1.index.get, ladder.l1.clock, self._caches.levels.blocks, self._heard
        kind, cls, new, horizon = schema.key_types[0], schema.cls, maker(schema.cls), ladder.horizon
        absent = ABSENT
        if any(key in schema.mutable for key in schema.local.keys):
            return self._compile_copying_get(ladder)

        def get(id: Any, consistency: Any = None) -> Any:
            until = horizon[0]  # before the entry is found: see Near.look
            try:
                entry = find(id)
            except TypeError:  # unhashable
                return slow(id, consistency)
            if consistency is not None or blocks or heard or id.__class__ is not kind:
                return slow(id, consistency)
            if entry is None or not entry.deadline > now() < until:
                return below(id)
            entry.hits += 1
            template = entry.value
            if template is absent:
                return None
            instance = new(cls)
            instance.__dict__ = template.copy()
            return instance

        return get

    def _compile_copying_get(self, ladder: Ladder) -> Callable[..., Any]:
        """For models with mutable columns: every owner gets copies of them."""
        hydrate, look = compile_from_template(self.schema), self._hit(ladder)
        slow, absent = self._slow, ABSENT

        def get(id: Any, consistency: Any = None) -> Any:
            entry = look(id, consistency)
            if entry is None:
                return slow(id, consistency)
            return None if entry.value is absent else hydrate(entry.value)

        return get

    def _hit(self, ladder: Ladder) -> Callable[[Any, Any], Any]:
        find, now, blocks, heard = ladder.l1.index.get, ladder.l1.clock, self._caches.levels.blocks, self._heard
        kind, horizon = self.schema.key_types[0], ladder.horizon

        def look(id: Any, consistency: Any) -> Any:
            until = horizon[0]  # before the entry is found: see Near.look
            try:
                entry = find(id)
            except TypeError:
                return None
            if entry is None or entry.deadline <= (moment := now()) or until <= moment:
                return None
            if consistency is not None or blocks or heard or type(id) is not kind:
                return None
            entry.hits += 1
            return entry

        return look

    def _compile_snapshot(self, ladder: Ladder) -> Callable[..., Any]:
        slow = self._slow_snapshot
        find, now, blocks, heard = ladder.l1.index.get, ladder.l1.clock, self._caches.levels.blocks, self._heard
        kind, horizon = self.schema.key_types[0], ladder.horizon

        def get_snapshot(id: Any, consistency: Any = None) -> Any:
            until = horizon[0]
            try:
                entry = find(id)
            except TypeError:
                return slow(id, consistency)
            if entry is not None and entry.deadline > (moment := now()) and until > moment and type(id) is kind:
                snapshot = entry.snapshot
                if snapshot is not None and not blocks and not heard and consistency is None:
                    entry.hits += 1
                    return snapshot
            return slow(id, consistency)

        return get_snapshot

    # -- everything else -------------------------------------------------------------------------------------------

    def _level(self, consistency: Consistency | None) -> Consistency:
        if self._caches.closed:
            raise UnavailableError("the layer is closed; open a new DataLayer to read")
        levels = self._caches.levels
        return levels.resolve(consistency)

    def key(self, id: Any) -> tuple[Any, ...] | None:
        """The key as a tuple, or None when SQLAlchemy must make sense of it."""
        key = (id,) if self._keys == 1 and type(id) is not tuple else id
        if type(key) is not tuple or len(key) != self._keys or self.schema.reasons:
            return None
        return None if self.schema.key_problem(key) else key

    def row(self, id: Any, consistency: Consistency | None) -> Row | Absent | None:
        """The row under ``id`` by way of the tiers, ABSENT, or None for "a session must answer"."""
        level = self._level(consistency)
        key = self.key(id)
        if key is None or self._rows is None or self._heard or self._caches.hides_rows_of(self.schema):
            return None
        rows, schema = self._rows, self.schema
        ladder = self._caches.ladder(schema)
        if level == "database" or ladder is None:
            values = rows.one(key)
            return ABSENT if values is None else Row(values, schema.full, "l3")
        assert self._load is not None
        read, stale = partial(ladder.read, schema, key, self._load, local=level == "cached"), self._stale(ladder, level)
        return read() if stale is None else stale.read(ladder, schema, key, read)

    def _stale(self, ladder: Ladder, level: Consistency) -> Stale | None:
        """Who serves rows after their end, where such a read may have them."""
        return self._caches.stale if level == "cached" and not ladder.strict_local else None

    def newest(self, id: Any) -> Row | Absent:
        """The row as the shared tier, what is queued, or the database has it; L1 is passed by."""
        key = self.key(id)
        ladder = self._caches.ladder(self.schema)
        if key is None or ladder is None or self._load is None:
            why = "; ".join(self._caches.reasons(self.schema)) or "its type is another"
            raise InvalidModelError(f"{id!r} is no key that {self.schema.cls.__name__} can be written behind by: {why}")
        return ladder.read_below(self.schema, key, self._load)

    def _below(self, id: Any) -> Any:
        """The plain case, missed in L1."""
        ladder = self._caches.ladder(self.schema)
        if ladder is None or self._load is None or self._caches.closed:
            return self._slow(id)
        ladder.counts["l1_misses"] += 1
        if (stale := self._stale(ladder, "cached")) is None:
            row = ladder.read_below(self.schema, (id,), self._load)
        else:
            row = stale.read(ladder, self.schema, (id,), partial(ladder.read_below, self.schema, (id,), self._load))
        return None if isinstance(row, Absent) else self.owned(row)

    def _slow(self, id: Any, consistency: Consistency | None = None) -> Any:
        row = self.row(id, consistency)
        if row is None:
            return self._by_session(id, consistency)
        return None if isinstance(row, Absent) else self.owned(row)

    def owned(self, row: Row) -> Any:
        """A detached instance of a row that shares nothing mutable with the cache."""
        if not self._lazy:
            return self._hydrated([row])[0]
        hydrate = self._from_row.get(id(row.projection))
        if hydrate is None:
            hydrate = self._from_row[id(row.projection)] = compile_from_row(self.schema, row.projection)
        return hydrate(row.values)

    def _hydrated(self, rows: Sequence[Row]) -> list[Any]:
        """Detached instances by the ORM's own loader, for classes with load events, subclasses and the like."""
        with self._open() as session:
            made = [session._hydrator.instance(self.schema, row.projection, own_row(row.values)) for row in rows]
            session.expunge_all()
        return made

    def _by_session(self, id: Any, consistency: Consistency | None) -> Any:
        with self._open() as session, session._at(consistency):
            found = session.get(self.schema.cls, id)
            session.expunge_all()
            return found

    def _slow_snapshot(self, id: Any, consistency: Consistency | None = None) -> Snapshot | None:
        row = self.row(id, consistency)
        if self._snapshots is None or row is None:
            return self._snapshot_by_session(id, consistency)
        if isinstance(row, Absent):
            return None
        snapshot = make_snapshot(self._snapshots, row.projection.keys, row.values)
        if row.tier == "l1" and row.projection is self.schema.local:
            self._remember(id, snapshot, row)
        return snapshot

    def _remember(self, id: Any, snapshot: Snapshot, row: Row) -> None:
        """Keep the snapshot beside the row it was made of, if that is still the entry's row."""
        ladder = self._caches.ladder(self.schema)
        entry = ladder.l1.index.get(id) if ladder is not None and ladder.single else None
        if entry is not None and entry.value is not ABSENT and tuple(entry.value.values()) == row.values:
            entry.snapshot = snapshot

    def _snapshot_by_session(self, id: Any, consistency: Consistency | None) -> Snapshot | None:
        found = self._by_session(id, consistency)
        if found is None:
            return None
        if self._snapshots is None:
            raise InvalidModelError(
                f"{self.schema.cls.__qualname__} has no snapshots: {'; '.join(self.schema.reasons)}; use get()"
            )
        keys = self.schema.full.keys
        return make_snapshot(self._snapshots, keys, tuple(found.__dict__.get(key) for key in keys))

    # -- many ------------------------------------------------------------------------------------------------------

    def get_many(self, ids: Iterable[Any], consistency: Consistency | None = None) -> dict[Any, Any]:
        """The instances that exist, by id, in the order asked. One batch per tier."""
        wanted = list(dict.fromkeys(ids))
        level = self._level(consistency)
        keys = self._keys_of(wanted)
        rows = self._rows
        ladder = self._caches.ladder(self.schema) if rows is not None else None
        if rows is None or ladder is None or self._heard or level == "database" or None in keys.values():
            return self._many_by_session(wanted, consistency)
        if self._caches.hides_rows_of(self.schema):
            return self._many_by_session(wanted, consistency)
        wanted_keys: list[Any] = list(keys.values())
        read = partial(ladder.read_many, self.schema, wanted_keys, rows.many, local=level == "cached")
        stale = self._stale(ladder, level)
        found = read() if stale is None else stale.read_many(ladder, self.schema, wanted_keys, read)
        present = [(id, found[key]) for id, key in keys.items() if key in found]
        if self._lazy:
            owned = self.owned
            return {id: owned(row) for id, row in present}
        made = self._hydrated([row for _, row in present])
        return {id: instance for (id, _), instance in zip(present, made, strict=True) if instance is not None}

    def listed(self, statement: Any, ttl: float | None, consistency: Consistency | None) -> list[Any] | None:
        """Instances of a SELECT's rows by way of its cached result; None for "a session must answer"."""
        level, caches, rows = self._level(consistency), self._caches, self._rows
        ladder = caches.ladder(self.schema) if rows is not None else None
        if rows is None or ladder is None or self._heard or level == "database" or not self._lazy:
            return None
        if caches.hides_rows_of(self.schema):
            return None
        query = caches.results.query(statement, self.schema, ladder)
        if isinstance(query, Reason):
            return None

        def run() -> list[tuple[Any, ...]]:
            with self._open() as session:
                return [tuple(row) for row in session.execute(query.keys)]

        def fetch(keys: list[tuple[Any, ...]]) -> dict[Any, Any]:
            distinct = list(dict.fromkeys(keys))
            found = ladder.read_many(self.schema, distinct, rows.many, local=level == "cached")
            owned = self.owned
            return {key: owned(found[key]) for key in distinct if key in found}

        return listed_rows(caches.results, query, level, ttl, run, fetch)

    def _keys_of(self, ids: list[Any]) -> dict[Any, tuple[Any, ...] | None]:
        if self._keys == 1 and not self.schema.reasons:
            kind = self.schema.key_types[0]
            if all(type(id) is kind for id in ids):
                return {id: (id,) for id in ids}
        return {id: self.key(id) for id in ids}

    def _many_by_session(self, ids: list[Any], consistency: Consistency | None) -> dict[Any, Any]:
        with self._open() as session, session._at(consistency):
            found = get_many(session, self.schema, ids)
            session.expunge_all()
            return found

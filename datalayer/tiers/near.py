"""The near cache of one space: what L1 keeps of rows, in which form, until when, and what of that may be served.

L1 holds a template of an instance's ``__dict__`` for each key; where a row has several shapes or scopes, it holds all
of them under the key, so that they die together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Unpack

from ..contracts.coherence import ABSENT, Absent, Change
from ..contracts.tier import Keeping, Put
from ..models.schema import Schema
from .l1 import L1, Entry, estimate_size
from .needs import Gate, Lives, Row
from .packing import Scope


class Near:
    """L1 and its guard. Thread-safe.

    ``horizon`` is the moment up to which news from other processes are complete; ``single``: a key has one row;
    ``waits``: writers wait until no memory serves what they replace, so reads may be strict in L1.
    """

    def __init__(
        self,
        l1: L1,
        guard: Gate,
        *,
        lives: Lives,
        horizon: list[float],
        scope: Scope | None,
        single: bool,
        waits: bool,
    ) -> None:
        self.l1 = l1
        self.guard = guard
        self.horizon = horizon
        self.single = single
        self._lives = lives
        self._scope = scope
        self._waits = waits

    # -- serving ---------------------------------------------------------------------------------------------------

    def look(self, schema: Schema, key: tuple[Any, ...]) -> Row | Absent | None:
        """What L1 holds for a key: a row, ABSENT, or None for "do not know". Lock-free."""
        # First until when, then what: news that end in between must not vouch for what was found before them.
        horizon = self.horizon[0]
        entry = self.l1.index.get(key[0] if len(key) == 1 else key)
        if entry is None:
            return None
        now = self.l1.clock()
        if entry.deadline <= now or horizon <= now:
            return None
        return self.served(schema, entry)

    def look_many(
        self, schema: Schema, keys: Iterable[tuple[Any, ...]]
    ) -> tuple[dict[tuple[Any, ...], Row], list[tuple[Any, ...]]]:
        """As :meth:`look` for many: the rows that L1 has, and the keys of which it knows nothing."""
        rows: dict[tuple[Any, ...], Row] = {}
        missing: list[tuple[Any, ...]] = []
        horizon, find, now = self.horizon[0], self.l1.index.get, self.l1.clock()
        for key in keys:
            entry = find(key[0] if len(key) == 1 else key)
            found = self.served(schema, entry) if entry is not None and entry.deadline > now < horizon else None
            if found is None:
                missing.append(key)
            elif isinstance(found, Row):
                rows[key] = found
        return rows, missing

    def served(self, schema: Schema, entry: Entry) -> Row | Absent | None:
        """What an entry holds of a shape, in the scope of this moment."""
        value: Any = entry.value if self.single else entry.value.get(self._variant(schema))
        if value is None:
            return None
        entry.hits += 1
        if isinstance(value, Absent):
            return value
        values: tuple[Any, ...] = tuple(value.values()) if self.single else value
        return Row(values, schema.local, "l1")

    # -- keeping ---------------------------------------------------------------------------------------------------

    def keep(self, schema: Schema, name: Hashable, ticket: Any, values: Any, **how: Unpack[Keeping]) -> None:
        """Put a row's values, or ABSENT, if nothing has happened to the key since the ticket was taken."""
        if self._lives.use_l1:
            value = self._stored(schema, name, values)
            if not self.single:
                how["max_life"] = self._shortest(name, how.get("max_life"))
            how["size"] = self._size(value)
            self.guard.put(name, ticket, value, **how)

    def keep_loaded(
        self, schema: Schema, name: Hashable, ticket: Any, values: tuple[Any, ...] | Absent, until: float = inf
    ) -> None:
        """As :meth:`keep` for what the database has, or has just been told, in the order of ``schema.full``."""
        if isinstance(values, Absent):
            self.keep(schema, name, ticket, ABSENT, ttl=self._lives.negative, until=until)
        else:
            self.keep(schema, name, ticket, schema.local.pick(values), max_life=self._lives.l2, until=until)

    def keep_written(self, schema: Schema, key: tuple[Any, ...], ticket: Any, values: tuple[Any, ...] | Absent) -> None:
        """What a write has just left, if nothing else happened to the key since the ticket was taken before it."""
        if ticket is None or not self._lives.use_l1:
            self.guard.finished(name_of(key))
        else:
            self.keep_loaded(schema, name_of(key), ticket, values)

    def keep_many(
        self,
        schema: Schema,
        tickets: Any,
        keys: Sequence[tuple[Any, ...]],
        rows: Mapping[Any, Row],
        lives: Mapping[Any, float],
        until: float,
    ) -> None:
        """A batch: rows for as long as ``lives`` says that L2 has them, what has no row for the negative life."""
        if not self._lives.use_l1:
            return
        puts: list[Put] = []
        single, sized, life, names = self.single, self.l1.max_bytes, self._lives.l2, schema.local.keys
        of_full, of_shared, find, left = schema.local.pick, schema.local_of_shared, rows.get, lives.get
        for key in keys:
            name = key[0] if len(key) == 1 else key
            row = find(key)
            value: Any
            if row is None:
                value, most = ABSENT, left(key, self._lives.negative)
            else:
                value, most = (of_shared if row.tier == "l2" else of_full)(row.values), left(key, life)
                if single:
                    value = dict(zip(names, value, strict=False))
            if not single:
                value = self._stored(schema, name, value)
                most = self._shortest(name, most) or most
            puts.append((name, value, estimate_size(value) if sized else 0, most))
        self.guard.put_many(tickets, puts, until)

    def glance(self) -> tuple[Any, float] | None:
        """Leave to keep a row whose key is not known yet, for :meth:`keep_seen`. To be taken before it is read."""
        began, glance = self.l1.clock(), self.guard.glance()
        return None if glance is None or not self._lives.use_l1 else (glance, began)

    def keep_seen(
        self, schema: Schema, key: tuple[Any, ...], glance: tuple[Any, float] | None, values: tuple[Any, ...]
    ) -> None:
        """Put a row into L1 whose key was not known before it was read."""
        name = name_of(key)
        if glance is None:
            self.guard.finished(name)
            return
        seen, began = glance
        value = self._stored(schema, name, schema.local.pick(values))
        until = self.until_beside(began)
        self.guard.put_seen(name, seen, value, size=self._size(value), max_life=self._lives.l2, until=until)

    def until_beside(self, began: float) -> float:
        """Until when L1 may serve what was read beside the shared tier.

        Its writer's mark may have been announced before the read began, so nothing will tell when it commits.
        """
        if self._lives.beside is None:
            return inf
        return 0.0 if self._waits else began + self._lives.beside

    # -- writers' rows ---------------------------------------------------------------------------------------------

    def reserve(self, schema: Schema, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> Any:
        """Leave for the writer of these full rows, whose marks stand on them, to put them by :meth:`end`."""
        values = {name_of(key): self._stored(schema, name_of(key), schema.local.pick(row)) for key, row in rows.items()}
        return self.guard.reserve(values), values

    def end(self, change: Change, kept: Any) -> None:
        tickets, values = kept
        life = self._lives.l2
        puts = [(name, tickets[name], value, self._size(value), life) for name, value in values.items()]
        self.guard.end(change, puts)

    # -- forms -----------------------------------------------------------------------------------------------------

    def _stored(self, schema: Schema, name: Hashable, values: Any) -> Any:
        """The form in which L1 keeps a row: a template of ``__dict__``, or one row per shape and scope."""
        if self.single:
            return values if values is ABSENT else dict(zip(schema.local.keys, values, strict=True))
        entry = self.l1.index.get(name)
        return {**(entry.value if entry is not None else {}), self._variant(schema): values}

    def _shortest(self, name: Hashable, max_life: float | None) -> float | None:
        """An entry of several rows lives no longer than the shortest-lived of them."""
        entry = self.l1.index.get(name)
        left = entry.deadline - self.l1.clock() if entry is not None else None
        return min((life for life in (left, max_life) if life is not None), default=None)

    def _size(self, value: Any) -> int:
        return estimate_size(value) if self.l1.max_bytes else 0

    def _variant(self, schema: Schema) -> Hashable:
        return schema if self._scope is None else (schema, self._scope())


def name_of(key: tuple[Any, ...]) -> Hashable:
    """A key as L1 has it."""
    return key[0] if len(key) == 1 else key


def key_of(name: Any) -> tuple[Any, ...]:
    """The key of a name in L1."""
    return name if isinstance(name, tuple) else (name,)

"""The ladders of one layer, made at the first read of each root class, and the reasons why a class has none."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from ..contracts.coherence import WriteSet
from ..contracts.levels import Levels
from ..models.schema import Schema
from ..tiers.ladder import Ladder
from .results import Results
from .writes import WriteTracker

if TYPE_CHECKING:
    from ..tiers.stale import Stale
    from ..tiers.within import Within


class Caches:
    """What a session needs of its layer. Thread-safe.

    ``forget`` drops what a write set names from every tier; ``make`` builds the ladder of a root
    class; ``member`` says whether a class belongs to the layer at all; ``row_security`` whether PostgreSQL hides rows
    of a table by role (None: there is no such table yet). ``results`` are those of cached queries. ``failures`` counts
    errors that nobody was told of; ``watching`` frees a driver's connection that gets no answer; ``within`` reads rows
    in transactions, where the driver can; ``scoped``: all rows are cached for one scope each; ``stale`` serves old
    rows while the database is away, if that is wanted.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        tracker: WriteTracker,
        forget: Callable[[WriteSet], None],
        levels: Levels,
        make: Callable[[Schema], Ladder],
        member: Callable[[object], bool],
        row_security: Callable[[sa.Table], bool | None],
        page_secret: Callable[[], bytes],
        failures: Counter[str],
        watching: Callable[[Any], AbstractContextManager[None]],
        results: Results,
    ) -> None:
        self.engine = engine
        self.tracker = tracker
        self.forget = forget
        self.levels = levels
        self.page_secret = page_secret
        self.failures = failures
        self.watching = watching
        self.results = results
        self.closed = False
        self.within: Within | None = None
        self.stale: Stale | None = None
        self.scoped = False
        self._make = make
        self._member = member
        self._row_security_of = row_security
        self._lock = threading.RLock()
        self._ladders: dict[type[Any], Ladder] = {}
        self._known: dict[Schema, Ladder | None] = {}
        self._secured: dict[str, bool] = {}
        self._hiding: dict[Schema, bool] = {}

    def ladder(self, schema: Schema) -> Ladder | None:
        """The ladder of a shape, or None when its rows are not cached. A dict look-up after the first time."""
        try:
            return self._known[schema]
        except KeyError:
            return self._learn(schema)

    def _learn(self, schema: Schema) -> Ladder | None:
        reasons = self.reasons(schema)
        with self._lock:
            if schema in self._known:
                return self._known[schema]
            ladder = self.prospect(schema) if not reasons else None
            if not reasons or not any(_may_change(reason) for reason in reasons):
                self._known[schema] = ladder
            return ladder

    def prospect(self, schema: Schema) -> Ladder | None:
        """The ladder that a shape will have if the database agrees, without asking it: never filled if it does not."""
        if schema.reasons or not self._member(schema.cls):
            return None
        with self._lock:
            ladder = self._ladders.get(schema.root)
            if ladder is None:
                ladder = self._ladders[schema.root] = self._make(schema)
            return ladder

    def ladders(self) -> list[Ladder]:
        with self._lock:
            return list(self._ladders.values())

    def reasons(self, schema: Schema) -> tuple[str, ...]:
        """Why rows of this shape are not cached by this layer; empty when they are."""
        if schema.reasons:
            return schema.reasons
        if not self._member(schema.cls):
            return (_NOT_MEMBER,)
        if self.engine.dialect.name == "postgresql" and schema.policy.cache_scope is None and not self.scoped:
            return tuple(self._row_security(schema))
        return ()

    def _row_security(self, schema: Schema) -> list[str]:
        found = []
        for table in schema.mapper.tables:
            secured = self._is_secured(cast(sa.Table, table))
            if secured is None:
                found.append(f"{_NO_TABLE} {table.fullname}")
            elif secured:
                found.append(
                    f"table {table.fullname} has row-level security and the model has no cache_scope: "
                    "one role could be served another's rows"
                )
        return found

    def _is_secured(self, table: sa.Table) -> bool | None:
        found = self._secured.get(table.fullname)
        if found is None:
            found = self._row_security_of(table)
            if found is not None:
                self._secured[table.fullname] = found
        return found

    def hides_rows(self, table: sa.Table) -> bool:
        """Whether PostgreSQL hides rows of a table by role."""
        return self.engine.dialect.name == "postgresql" and bool(self._is_secured(table))

    def hides_rows_of(self, schema: Schema) -> bool:
        """The same for any table of a shape: its rows depend on what the application's transactions have set."""
        found = self._hiding.get(schema)
        if found is None:
            tables = [cast(sa.Table, table) for table in schema.mapper.tables]
            found = any(map(self.hides_rows, tables))
            if all(table.fullname in self._secured for table in tables):  # one that is missing may come
                self._hiding[schema] = found
        return found

    def forget_catalog(self) -> None:
        """The schema of the database changed: look again at what depended on it."""
        self.results.forget_plans()
        with self._lock:
            self._secured.clear()
            self._known.clear()
            self._hiding.clear()

    def forget_everything(self) -> None:
        """Drop the ladders themselves, for processes that map classes anew all the time, as test suites do."""
        with self._lock:
            for ladder in self._ladders.values():
                ladder.clear_local()
            self._ladders.clear()
            self._known.clear()
            self._secured.clear()
            self._hiding.clear()


_NOT_MEMBER = "its class is not registered with this layer"
_NO_TABLE = "the database has no table"


def _may_change(reason: str) -> bool:
    return reason is _NOT_MEMBER or reason.startswith(_NO_TABLE)

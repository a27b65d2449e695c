"""Cached query results: the keys of the rows that a SELECT returned, kept while nothing that it depends on changes.

A result lies in this process (L1) and in Redis (L2), each under the tags of what it depends on: its tables, or the
values that it asks declared columns for. Only the keys are kept; the rows come through the tiers like any others.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol

import msgpack
import sqlalchemy as sa

from ..codecs.entry import EntryCodec, Section
from ..codecs.row import compile_row
from ..contracts.codec import Codec
from ..contracts.levels import Consistency
from ..contracts.results import SharedResults
from ..errors import DecodeError, EncodeError
from ..models.schema import Schema
from ..query.depends import Plan, Reason, digest_of, plan
from ..tiers.l1 import L1
from ..tiers.ladder import Ladder
from ..tiers.needs import Single

Keys = list[tuple[Any, ...]]

_PLANS = 2000


class Tickets(Protocol):
    """What results need of the coherence room: see :class:`datalayer.coherence.tags.Tags`."""

    def ticket(self, tags: Sequence[str]) -> Any: ...

    def holds(self, tags: Sequence[str], ticket: Any) -> bool: ...


class Namer(NamedTuple):
    """How tags are spelled: see :mod:`datalayer.coherence.touched`."""

    table: Callable[[str], str]
    vague: Callable[[str], str]
    value: Callable[[str, str, Any], str]


class Query(NamedTuple):
    """A statement that is ready to be looked up. ``keys``: the SELECT of the primary keys."""

    digest: str
    tags: tuple[str, ...]
    keys: sa.Select[Any]
    schema: Schema
    ladder: Ladder


class Listed(NamedTuple):
    """The keys of a result, and the generations of its tags from before it was read, if the shared tier has them."""

    keys: Keys
    guards: bytes | None


class _Kept(NamedTuple):
    keys: Keys
    ticket: Any


class Results:
    """The cached results of one layer. Thread-safe. ``counts``: hits by tier, misses, and statements without a plan.

    ``known``: the metadata whose tables are watched; ``secured``: whether PostgreSQL hides rows of a table by role.
    What is kept here may be served up to ``horizon``, and for ``beside`` seconds at most (None: no limit) if it was
    read without a look at the marks of other processes.
    """

    def __init__(
        self,
        *,
        l1: L1,
        tags: Tickets,
        namer: Namer,
        shared: SharedResults | None,
        horizon: list[float],
        beside: float | None,
        entries: EntryCodec,
        codec: Codec,
        secret: Callable[[], bytes],
        dialect: Any,
        known: Callable[[], Iterable[sa.MetaData]],
        secured: Callable[[str], bool],
        flights: Single,
    ) -> None:
        self.l1 = l1
        self.counts: Counter[str] = Counter()
        self._tags = tags
        self._namer = namer
        self._shared = shared
        self._horizon = horizon
        self._beside = beside
        self._entries = entries
        self._codec = codec
        self._secret = secret
        self._dialect = dialect
        self._known = known
        self._secured = secured
        self._flights = flights
        self._lock = threading.Lock()
        self._plans: OrderedDict[Any, Plan | Reason] = OrderedDict()
        self._codecs: dict[Schema, Any] = {}

    # -- what is asked ---------------------------------------------------------------------------------------------

    def query(self, statement: sa.Select[Any], schema: Schema, ladder: Ladder) -> Query | Reason:
        """The statement as something to look up, or why its result is not cached."""
        made = self._plan(statement, schema)
        if isinstance(made, Reason):
            self.counts["unplanned"] += 1
            return made
        scope = ladder.scope() if ladder.scope is not None else None
        fingerprint = self._codec_of(schema).fingerprint
        digest = digest_of(made, fingerprint=fingerprint, scope=scope, secret=self._secret())
        return Query(digest, self._tags_of(made), made.keys, schema, ladder)

    def _plan(self, statement: sa.Select[Any], schema: Schema) -> Plan | Reason:
        """The plan, remembered under what SQLAlchemy caches compiled statements by, and the parameters' values."""
        cached: Any = statement._generate_cache_key()
        name = None
        if cached is not None:
            values = [(type(p.value), p.effective_value) for p in cached.bindparams]
            name = schema, cached.key, repr(values)
            if (known := self._plans.get(name)) is not None:
                return known
        made = self._planned(statement, schema)
        if name is not None:
            with self._lock:
                self._plans[name] = made
                while len(self._plans) > _PLANS:
                    self._plans.popitem(last=False)
        return made

    def _planned(self, statement: sa.Select[Any], schema: Schema) -> Plan | Reason:
        made = plan(statement, schema, self._dialect, self._known())
        if isinstance(made, Plan) and schema.policy.cache_scope is None:
            hidden = [table for table in made.tables if self._secured(table)]
            if hidden:
                return Reason(f"row-level security hides rows of {', '.join(hidden)}")
        return made

    def _tags_of(self, made: Plan) -> tuple[str, ...]:
        if not made.values:
            return tuple(self._namer.table(table) for table in made.tables)
        table, column, value = made.values[0]
        return self._namer.value(table, column, value), self._namer.vague(table)

    # -- reading ---------------------------------------------------------------------------------------------------

    def listed(self, query: Query, level: Consistency, run: Callable[[], Keys], ttl: float) -> Listed:
        """The keys of the rows, in the statement's order; ``run`` asks the database and is called at most once."""
        if level == "cached" and (kept := self._look(query)) is not None:
            self.counts["l1_hits"] += 1
            return Listed(kept, None)
        if not self._flights.lead(query.digest):
            if level == "cached" and (kept := self._look(query)) is not None:
                self.counts["l1_hits"] += 1
                return Listed(kept, None)
            return self._below(query, run, ttl)
        try:
            return self._below(query, run, ttl)
        finally:
            self._flights.land(query.digest)

    def _below(self, query: Query, run: Callable[[], Keys], ttl: float) -> Listed:
        began, ticket = self.l1.clock(), self._tags.ticket(query.tags)
        shared = self._shared if query.ladder.use_l2 else None
        recalled = shared.recall(query.digest, query.tags) if shared is not None else None
        if recalled is not None and recalled.entry is not None:
            found = self._decode(query, recalled.entry)
            if found is not None:
                self.counts["l2_hits"] += 1
                self._keep(query, ticket, found, min(ttl, recalled.ttl))
                return Listed(found, recalled.guards)
        self.counts["misses"] += 1
        found = run()
        if shared is not None and recalled is not None and recalled.guards is not None:
            if recalled.settled:  # else a transaction may be running that has not marked what it wrote
                self._store(shared, query, recalled.guards, found, ttl)
                self._keep(query, ticket, found, ttl)
        elif shared is None:
            until = inf if self._beside is None else 0.0 if query.ladder.strict_local else began + self._beside
            self._keep(query, ticket, found, ttl, until)
        return Listed(found, recalled.guards if recalled is not None else None)

    def unchanged(self, query: Query, listed: Listed) -> bool:
        """Whether the shared tier vouches that nothing that the query depends on has changed since it was listed."""
        return (
            listed.guards is not None and self._shared is not None and self._shared.unchanged(query.tags, listed.guards)
        )

    def _look(self, query: Query) -> Keys | None:
        horizon = self._horizon[0]  # before the entry is found: see Near.look
        entry = self.l1.index.get(query.digest)
        if entry is None:
            return None
        now = self.l1.clock()
        if entry.deadline <= now or horizon <= now or not self._tags.holds(query.tags, entry.value.ticket):
            return None
        entry.hits += 1
        keys: Keys = entry.value.keys
        return keys

    def _keep(self, query: Query, ticket: Any, keys: Keys, ttl: float, until: float = inf) -> None:
        if ticket is not None and query.ladder.use_l1 and self._tags.holds(query.tags, ticket):
            size = 100 + 80 * len(keys)
            with self.l1.lock:
                self.l1.put(query.digest, _Kept(keys, ticket), max_life=ttl, size=size, until=until)

    def _store(self, shared: SharedResults, query: Query, guards: bytes, keys: Keys, ttl: float) -> None:
        codec = self._codec_of(query.schema)
        try:
            body = msgpack.packb([codec.encode(key) for key in keys])
            entry = self._entries.pack([Section(codec.fingerprint, b"", body)], query.digest.encode())
        except EncodeError:
            self.counts["unencodable"] += 1
            return
        shared.store(query.digest, query.tags, guards, entry, ttl)

    def _decode(self, query: Query, entry: bytes) -> Keys | None:
        codec = self._codec_of(query.schema)
        try:
            body = self._entries.find(entry, query.digest.encode(), codec.fingerprint)
            if body is None:
                return None
            keys = msgpack.unpackb(body, strict_map_key=True)
            return [codec.decode(key) for key in keys]
        except (DecodeError, ValueError, TypeError):
            self.counts["undecodable"] += 1
            return None

    def _codec_of(self, schema: Schema) -> Any:
        codec = self._codecs.get(schema)
        if codec is None:
            fields = {field.name: field for field in schema.fields}
            codec = self._codecs[schema] = compile_row([fields[name] for name in schema.key_names], self._codec)
        return codec

    def forget_plans(self) -> None:
        """The schema changed: look at every statement again."""
        with self._lock:
            self._plans.clear()

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self.l1.reset_after_fork()
        self._flights.reset_after_fork()

"""The stairs of one space: how a row is looked for in L1, then L2, then the database, and put back on the way up.

A value climbs only while the guard still honours the ticket that was taken before the first tier below L1 was asked;
L2 has its own token for the same purpose. A row is put under its *own* key, and a value that comes from L2 is served
only if it is the row that was asked for. What L1 keeps is ``near``'s business, what values look like ``packing``'s,
and what is queued ``overlays``'.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Any, NamedTuple
from urllib.parse import quote

from ..codecs.entry import EntryCodec
from ..contracts.codec import Codec
from ..contracts.coherence import ABSENT, Absent, Change
from ..contracts.fence import parse_record
from ..contracts.keys import parse_key
from ..contracts.pauses import point
from ..contracts.tier import Busy, Found, Key, Lease, Leave, Met, SharedTier
from ..models.schema import Schema
from .batch import Batch
from .l1 import L1
from .near import Near, key_of, name_of
from .needs import FOREVER, Gate, KeyText, Lives, Load, LoadMany, Merge, Nobody, Row, Single
from .overlays import Overlays
from .packing import Packing, Scope, Sealing

#: Rows whose entry is larger than this many bytes are validated instead of fetched again by strict reads.
LARGE = 1024

#: After so many misses in a row the shared tier is taken to be empty: a lease, which also finds values, is asked for at
#: once, and saves the look before it.
_COLD = 32

#: Seconds between looks at a key that somebody else is filling; a quarter of a second in all.
_PATIENCE = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


class Quest(NamedTuple):
    """One read below L1: the row that is wanted, its name in L1 with the ticket to put it there, its address in L2, and
    who asks the database."""

    schema: Schema
    key: tuple[Any, ...]
    name: Hashable
    ticket: Any
    address: Key
    load: Load


class Ladder:
    """The tiers of one root class. Thread-safe.

    ``lookups`` maps unique values to keys; its entries are hints, checked against the row, and never invalidated.

    ``scope`` (a callable) splits the space into separate caches by what it returns at the moment of the read; all
    scopes of a row live and die together. ``eager``: a writer leaves its rows in L1.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        l1: L1,
        lookups: L1,
        l2: SharedTier,
        guard: Gate,
        codec: Codec,
        entries: EntryCodec,
        lives: Lives,
        key_text: KeyText,
        scope: Scope | None = None,
        prefix: str | None = None,
        horizon: list[float] = FOREVER,
        flights: Single | None = None,
        sealing: Sealing = lambda _schema: None,
        eager: bool = False,
    ) -> None:
        family = schema.mapper.base_mapper.self_and_descendants
        self.schema = schema
        self.eager = eager
        self.root = schema.root
        self.base_table = schema.space
        self.tables = frozenset(t.fullname for m in family for t in m.tables if hasattr(t, "fullname"))
        self.space = quote(prefix or schema.space, safe="-_.")
        self.l1 = l1
        self.lookups = lookups
        self.l2 = l2
        self.guard = guard
        self.scope = scope
        self.single = scope is None and not schema.polymorphic
        self.lives = lives
        self.use_l1, self.use_l2 = lives.use_l1, lives.use_l2
        self.shares = lives.use_l2 and l2.enabled
        self.strict_local = schema.policy.commit_wait
        self.horizon = horizon
        self.flights = flights or Nobody()
        self.wait: Callable[[float], None] = time.sleep
        self.counts: Counter[str] = Counter()
        self.packing = Packing(
            self.space, key_text, codec, entries, scope=scope, sealing=sealing, counts=self.counts, discard=l2.discard
        )
        self.near = Near(
            l1, guard, lives=lives, horizon=horizon, scope=scope, single=self.single, waits=self.strict_local
        )
        self.overlays = Overlays(self.packing, l2 if self.shares else None, self.counts)
        self._key_text = key_text
        self._key_types = schema.key_types
        self._misses = 0

    # -- one row ---------------------------------------------------------------------------------------------------

    def read(self, schema: Schema, key: tuple[Any, ...], load: Load, *, local: bool = True) -> Row | Absent:
        """The row under ``key``; ``load`` asks the database and is called at most once.

        ``local=False`` is strict: L1 answers only after the shared tier, or a writer that waits, vouched for it.
        Errors of ``load`` come through; a tier's never do.
        """
        if local or self.strict_local:
            if (found := self.near.look(schema, key)) is not None:
                return found
            self.counts["l1_misses"] += 1
        elif (found := self._validated(schema, key)) is not None:
            return found
        return self.read_below(schema, key, load)

    def _validated(self, schema: Schema, key: tuple[Any, ...]) -> Row | Absent | None:
        """What L1 holds, if the shared tier still has that very value. Only asked for rows that are large."""
        entry = self.l1.index.get(name_of(key))
        if entry is None or entry.prefix is None or not self.single or entry.deadline <= self.l1.clock():
            return None
        if not self.l2.same(self.packing.address(key), entry.prefix):
            return None
        self.counts["l1_validated"] += 1
        return self.near.served(schema, entry)

    def read_below(self, schema: Schema, key: tuple[Any, ...], load: Load) -> Row | Absent:
        """As :meth:`read` for a key that L1 does not have."""
        name: Hashable = key[0] if len(key) == 1 else key
        quest = Quest(schema, key, name, self.guard.ticket(name), Key(self.space, self._key_text(key)), load)
        if quest.ticket is None:
            return self._bypassed(quest)
        if not self.shares:
            return self._alone(quest)
        found = None if self.cold else self.l2.get(quest.address)
        if found is not None and (row := self._hit(quest, found)) is not None:
            return row
        return self._miss(quest, found)

    def _hit(self, quest: Quest, found: Found) -> Row | Absent | None:
        """The row of a usable value, kept in L1 on its way; None when the value says nothing about this shape."""
        schema, key, name, ticket, address, _ = quest
        self._misses = 0
        if not found.entry:
            self.counts["l2_hits"] += 1
            self.near.keep(schema, name, ticket, ABSENT, max_life=min(found.ttl, self.lives.negative))
            return ABSENT
        row = self.packing.unpack(schema, key, address, found)
        if row is not None:
            self.counts["l2_hits"] += 1
            prefix = found.prefix if len(found.entry) > LARGE else None
            values = schema.local_of_shared(row.values)
            self.near.keep(schema, name, ticket, values, max_life=found.ttl, prefix=prefix)
        return row

    def _bypassed(self, quest: Quest) -> Row | Absent:
        """The row from the database, while a transaction of this process that wrote it is being committed."""
        self.counts["bypassed"] += 1
        row = self._past_caches(quest)
        self.guard.finished(quest.name)  # see _beside; the writer's own row may be older by now, too
        return row

    def _alone(self, quest: Quest) -> Row | Absent:
        """A miss of a layer, or a model, without a shared tier: the first thread asks, the others look again.

        Not if other processes write: the first one's row may be older than the others' reads, which may be strict.
        """
        if self.flights.lead(quest.name):
            try:
                return self._read_alone(quest)
            finally:
                self.flights.land(quest.name)
        if self.lives.beside is None and (found := self.near.look(quest.schema, quest.key)) is not None:
            return found
        return self._read_alone(quest._replace(ticket=self.guard.ticket(quest.name)))

    def _read_alone(self, quest: Quest) -> Row | Absent:
        until = self.near.until_beside(self.l1.clock())
        return self._kept(quest, self._past_caches(quest), until)

    def _past_caches(self, quest: Quest) -> Row | Absent:
        """What is queued for the key, else what the database has; nothing is kept on the way."""
        if (row := self.overlays.find(quest.schema, quest.key)) is not None:
            return row
        return self._loaded(quest.schema, quest.load(quest.key))

    def _miss(self, quest: Quest, found: Found | None) -> Row | Absent:
        """One thread of this process, and one process of all, asks the database; the others wait for its fill."""
        if found is not None:  # of another shape: it is extended, and nobody else would do the same
            self.counts["l2_misses"] += 1
            return self._extended(quest, found)
        if self.flights.lead(quest.name):
            try:
                return self._leave(quest)
            finally:
                self.flights.land(quest.name)
        quest = quest._replace(ticket=self.guard.ticket(quest.name))
        if quest.ticket is None:
            return self._bypassed(quest)
        again = self.l2.get(quest.address)
        if again is not None and (row := self._hit(quest, again)) is not None:
            return row
        return self._leave(quest)

    def _leave(self, quest: Quest) -> Row | Absent:
        """The row by the leave that the shared tier gives, once nobody else is filling it."""
        leave = self._asked(quest.address)
        if isinstance(leave, Found) and (row := self._hit(quest, leave)) is not None:
            return row
        self.counts["l2_misses"] += 1
        if (row := self.overlays.own(quest.schema, quest.key, leave)) is not None:
            self.guard.finished(quest.name)
            return row
        if isinstance(leave, Lease):
            self._misses += 1
            return self._filled(quest, leave)
        return self._extended(quest, leave) if isinstance(leave, Found) else self._beside(quest, leave)

    def _asked(self, address: Key) -> Leave:
        leave = self.l2.lease(address)
        for pause in _PATIENCE:
            if not isinstance(leave, Busy):
                break
            self.wait(pause)
            leave = self.l2.lease(address)
        return leave

    def _extended(self, quest: Quest, found: Found) -> Row | Absent:
        """The row where a value does not have it in this shape; a queued write that cannot be read is waited for."""
        if not found.queued:
            return self._filled(quest, Merge(found))
        self.overlays.settle(quest.key)
        return self._beside(quest, None)

    def _beside(self, quest: Quest, leave: Leave) -> Row | Absent:
        """The row from the database where it may not be kept; if the writers have ended, that is told."""
        if isinstance(leave, Met) and leave.record is not None and quest.load.proves and self.single:
            row = self._proved(quest, leave)
        else:
            row = self._loaded(quest.schema, quest.load(quest.key))
        # After the row is read, not before: what began in between may be older, and would be kept.
        self.guard.finished(quest.name)
        return row

    def _proved(self, quest: Quest, met: Met) -> Row | Absent:
        """Read the row and, in the same snapshot, whether the writers that marked it have ended."""
        assert met.record is not None
        _, xids = parse_record(met.record.partition(b" ")[0])
        finished, values = quest.load.proved(quest.key, xids)
        loaded = self._loaded(quest.schema, values)
        if finished:
            entry = self.packing.pack(quest.schema, quest.address, loaded.values) if isinstance(loaded, Row) else None
            self.l2.resolve(quest.address, met, entry, self.lives.l2)
        return loaded

    def _filled(self, quest: Quest, lease: Lease | Merge) -> Row | Absent:
        schema, key, _, _, address, load = quest
        try:
            point("read.after_lease")
            loaded = self._loaded(schema, load(key))
            point("read.after_db")
        except BaseException:
            if isinstance(lease, Lease):
                self.l2.release(address, lease)
            raise
        if isinstance(loaded, Row):
            if schema.key_of(loaded.values) == key:
                self.fill(schema, address, lease, loaded.values)
        elif isinstance(lease, Lease) and self.lives.negative:
            self.l2.fill(address, lease, b"", self.lives.negative)
        return self._kept(quest, loaded)

    def fill(self, schema: Schema, address: Key, lease: Lease | Merge, values: tuple[Any, ...]) -> None:
        """Give the shared tier a full row, or its shape of a row that is there."""
        beside = lease.found if isinstance(lease, Merge) else None
        entry = self.packing.pack(schema, address, values, beside)
        if entry is None:
            return
        self.counts["l2_fills"] += 1
        if isinstance(lease, Merge):
            self.l2.extend(address, lease.found, entry, self.lives.l2)
        else:
            self.l2.fill(address, lease, entry, self.lives.l2)

    def _kept(self, quest: Quest, loaded: Row | Absent, until: float = inf) -> Row | Absent:
        """Put what the database said into L1, to be served up to ``until``, if the ticket is still good."""
        if quest.ticket is not None:
            point("read.before_l1_put")
            if not isinstance(loaded, Row):
                self.near.keep_loaded(quest.schema, quest.name, quest.ticket, ABSENT, until)
            elif quest.schema.key_of(loaded.values) == quest.key:
                self.near.keep_loaded(quest.schema, quest.name, quest.ticket, loaded.values, until)
        return loaded

    def _loaded(self, schema: Schema, values: tuple[Any, ...] | None) -> Row | Absent:
        self.counts["l3_reads"] += 1
        return ABSENT if values is None else Row(values, schema.full, "l3")

    def glance(self) -> tuple[Any, float] | None:
        """Leave to keep a row by ``near`` that is looked for by something else than its key.

        None where what is queued for the key, once it is known, may be newer than what the database says.
        """
        return self.near.glance() if self.overlays.backlog is None else None

    # -- many ------------------------------------------------------------------------------------------------------

    def read_many(
        self, schema: Schema, keys: Sequence[tuple[Any, ...]], load: LoadMany, *, local: bool = True
    ) -> dict[tuple[Any, ...], Row]:
        """The rows that exist among ``keys``: each tier gets the misses of the one above, in one batch."""
        rows: dict[tuple[Any, ...], Row] = {}
        missing = keys
        if local or self.strict_local:
            rows, missing = self.near.look_many(schema, keys)
            self.counts["l1_misses"] += len(missing)
        if missing:
            batch = Batch(self, schema, missing)
            batch.read(load)
            rows.update(batch.rows)
        return rows

    @property
    def cold(self) -> bool:
        """Whether the shared tier is taken to be empty."""
        return self._misses >= _COLD

    def asked(self, *, hits: int, misses: int, granted: int) -> None:
        """What became of keys that the shared tier was asked for, and how many leases it gave."""
        self._misses = 0 if hits else self._misses + granted
        self.counts["l2_hits"] += hits
        self.counts["l2_misses"] += misses

    # -- all -------------------------------------------------------------------------------------------------------

    def matching(self, pattern: str) -> frozenset[tuple[Any, ...]] | None:
        """The keys in L1 and L2 whose text matches a glob, with or without ``"<space>:"`` before it.

        None when they cannot be told: there are too many to look at, or their text does not give them back.
        """
        glob = pattern.removeprefix(f"{self.space}:")
        names = (name for name in list(self.l1.index) if fnmatchcase(self._key_text(key_of(name)), glob))
        ids = self.l2.matching(self.space, glob)
        keys = [parse_key(id, self._key_types) for id in ids] if ids is not None else [None]
        return None if None in keys else frozenset([*map(key_of, names), *filter(None, keys)])

    def clear_local(self) -> None:
        with self.l1.lock:
            self.l1.clear()
        with self.lookups.lock:
            self.lookups.clear()

    def reset_after_fork(self) -> None:
        """In the child: no lock of the parent's is believed, and nothing that it cached."""
        self.l1.reset_after_fork()
        self.lookups.reset_after_fork()
        self.guard.reset_after_fork()
        self.flights.reset_after_fork()

    # -- coherence: see datalayer.contracts.coherence.Space --------------------------------------------------------

    def begin(self, change: Change) -> None:
        self.guard.begin(change)

    def end(self, change: Change, kept: Any = None) -> None:
        if kept is None:
            self.guard.end(change)
        else:
            self.near.end(change, kept)

    @property
    def leaves_rows(self) -> bool:
        """Whether there is a cache for a writer to leave its rows in."""
        return self.scope is None and ((self.use_l1 and self.eager) or self.shares)

    def keep(self, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> Any:
        """``rows`` are full rows of the root class."""
        if not (self.use_l1 and self.single and self.eager):
            return None
        return self.near.reserve(self.schema, rows)

    def entries(self, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> dict[str, tuple[bytes, float]]:
        if not self.use_l2:
            return {}
        packed = {key: self.packing.pack_row(self.schema, key, row) for key, row in rows.items()}
        return {
            f"{self.space}:{self._key_text(key)}": (entry, self.lives.l2)
            for key, entry in packed.items()
            if entry is not None
        }

    def heard(self, id: str) -> None:
        key = parse_key(id, self._key_types)
        if key is None:
            self.guard.drop_all()
        else:
            self.guard.drop_key(name_of(key))

    def heard_whole(self) -> None:
        self.guard.drop_all()

    def heard_births(self) -> None:
        self.guard.drop_absent()

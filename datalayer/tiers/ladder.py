"""The stairs of one space: how a row is looked for in L1, then L2, then the database, and put back on the way up.

A value climbs only while the guard still honours the ticket that was taken before the first tier below L1 was asked;
L2 has its own token for the same purpose. A row is put under its *own* key, and a value that comes from L2 is served
only if it is the row that was asked for.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Any, NamedTuple
from urllib.parse import quote

from ..codecs.entry import EntryCodec, Section
from ..codecs.row import adapt, compile_row
from ..contracts.cipher import RowSealing
from ..contracts.codec import Codec
from ..contracts.coherence import ABSENT, Absent, Change
from ..contracts.fence import parse_record
from ..contracts.keys import parse_key
from ..contracts.pauses import point
from ..contracts.tier import Busy, Fill, Found, Key, Lease, Met, Queued, SharedTier
from ..errors import DecodeError, EncodeError
from ..models.schema import Schema
from .l1 import L1, estimate_size
from .needs import FOREVER, Backlog, Gate, KeyText, Lives, Load, LoadMany, Nobody, Row, Single

#: Rows whose entry is larger than this many bytes are validated instead of fetched again by strict reads.
LARGE = 1024

#: How the prefix of a queued write begins.
_OVERLAY = b"O"

#: How a row without a frame begins; a frame begins with "D".
_BARE = b"\x00"

#: After so many misses in a row the shared tier is taken to be empty: a lease, which also finds values, is asked for at
#: once, and saves the look before it.
_COLD = 32

#: Seconds between looks at a key that somebody else is filling; a quarter of a second in all.
_PATIENCE = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


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
        scope: Callable[[], str | None] | None = None,
        prefix: str | None = None,
        horizon: list[float] = FOREVER,
        flights: Single | None = None,
        sealing: Callable[[Schema], RowSealing | None] = lambda _schema: None,
        eager: bool = False,
    ) -> None:
        family = schema.mapper.base_mapper.self_and_descendants
        self.schema = schema
        self.eager = eager
        self.root = schema.root
        self.base_table = schema.space
        self.tables = frozenset(t.fullname for m in family for t in m.tables if hasattr(t, "fullname"))
        self.l1 = l1
        self.lookups = lookups
        self.l2 = l2
        self.guard = guard
        self.scope = scope
        self.single = scope is None and not schema.polymorphic
        self.counts: Counter[str] = Counter()
        self._codec = codec
        self._sealing = sealing
        self._entries = entries
        self._lives = lives
        self._key_text = key_text
        self._key_types = schema.key_types
        self.use_l1, self.use_l2, self.life = lives.use_l1, lives.use_l2, lives.l2
        self.strict_local = schema.policy.commit_wait
        self.space = quote(prefix or schema.space, safe="-_.")
        self.horizon = horizon
        self.flights = flights or Nobody()
        self.wait: Callable[[float], None] = time.sleep
        self.backlog: Backlog | None = None
        self._rows: dict[Schema, tuple[Any, bytes, int]] = {}
        self._misses = 0

    # -- reading ---------------------------------------------------------------------------------------------------

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
        return self._in_entry(schema, entry)

    def _in_entry(self, schema: Schema, entry: Any) -> Row | Absent | None:
        value: Any = entry.value if self.single else entry.value.get(self._variant(schema))
        if value is None:
            return None
        entry.hits += 1
        if isinstance(value, Absent):
            return value
        values: tuple[Any, ...] = tuple(value.values()) if self.single else value
        return Row(values, schema.local, "l1")

    def read(self, schema: Schema, key: tuple[Any, ...], load: Load, *, local: bool = True) -> Row | Absent:
        """The row under ``key``; ``load`` asks the database and is called at most once.

        ``local=False`` is strict: L1 answers only after the shared tier, or a writer that waits, vouched for it.
        Errors of ``load`` come through; a tier's never do.
        """
        if local or self.strict_local:
            if (found := self.look(schema, key)) is not None:
                return found
            self.counts["l1_misses"] += 1
        elif (found := self._validated(schema, key)) is not None:
            return found
        return self.read_below(schema, key, load)

    def _validated(self, schema: Schema, key: tuple[Any, ...]) -> Row | Absent | None:
        """What L1 holds, if the shared tier still has that very value. Only asked for rows that are large."""
        entry = self.l1.index.get(_name(key))
        if entry is None or entry.prefix is None or not self.single or entry.deadline <= self.l1.clock():
            return None
        if not self.l2.same(Key(self.space, self._key_text(key)), entry.prefix):
            return None
        self.counts["l1_validated"] += 1
        return self._in_entry(schema, entry)

    def read_below(self, schema: Schema, key: tuple[Any, ...], load: Load) -> Row | Absent:
        """As :meth:`read` for a key that L1 does not have."""
        name: Hashable = key[0] if len(key) == 1 else key
        ticket = self.guard.ticket(name)
        if ticket is None:
            return self._bypassed(schema, key, name, load)
        if not (self.use_l2 and self.l2.enabled):
            return self._alone(schema, key, name, ticket, load)
        address = Key(self.space, self._key_text(key))
        found = self.l2.get(address) if self._misses < _COLD else None
        if found is not None and (row := self._hit(schema, key, name, ticket, address, found)) is not None:
            return row
        return self._miss(schema, key, name, ticket, address, found, load)

    def _hit(
        self, schema: Schema, key: tuple[Any, ...], name: Hashable, ticket: Any, address: Key, found: Found
    ) -> Row | Absent | None:
        """The row of a usable value, kept in L1 on its way; None when the value says nothing about this shape."""
        self._misses = 0
        if not found.entry:
            self.counts["l2_hits"] += 1
            self._keep(schema, name, ticket, ABSENT, max_life=min(found.ttl, self._lives.negative))
            return ABSENT
        row = self._decode(schema, key, address, found)
        if row is not None:
            self.counts["l2_hits"] += 1
            prefix = found.prefix if len(found.entry) > LARGE else None
            values = schema.local_of_shared(row.values)
            self._keep(schema, name, ticket, values, max_life=found.ttl, prefix=prefix)
        return row

    def _bypassed(self, schema: Schema, key: tuple[Any, ...], name: Hashable, load: Load) -> Row | Absent:
        """The row from the database, while a transaction of this process that wrote it is being committed."""
        self.counts["bypassed"] += 1
        row = self._past_caches(schema, key, load)
        self.guard.finished(name)  # see _leave; the writer's own row may be older by now, too
        return row

    def _alone(self, schema: Schema, key: tuple[Any, ...], name: Hashable, ticket: Any, load: Load) -> Row | Absent:
        """A miss of a layer, or a model, without a shared tier: the first thread asks, the others look again.

        Not if other processes write: the first one's row may be older than the others' reads, which may be strict.
        """
        alone, began = self._lives.beside is None, self.l1.clock()
        if not self.flights.lead(name):
            if alone and (found := self.look(schema, key)) is not None:
                return found
            began, ticket = self.l1.clock(), self.guard.ticket(name)
            return self._kept(
                schema, key, name, ticket, self._past_caches(schema, key, load), self._until_beside(began)
            )
        try:
            return self._kept(
                schema, key, name, ticket, self._past_caches(schema, key, load), self._until_beside(began)
            )
        finally:
            self.flights.land(name)

    def _miss(
        self,
        schema: Schema,
        key: tuple[Any, ...],
        name: Hashable,
        ticket: Any,
        address: Key,
        found: Found | None,
        load: Load,
    ) -> Row | Absent:
        """One thread of this process, and one process of all, asks the database; the others wait for its fill."""
        if found is not None:
            self.counts["l2_misses"] += 1
        if found is not None and found.prefix.startswith(_OVERLAY):
            return self._settled(schema, key, name, load)
        if found is not None:  # of another shape: it is extended, and nobody else would do the same
            return self._filled(schema, key, name, ticket, address, _Merge(found), load)
        if self.flights.lead(name):
            try:
                return self._leave(schema, key, name, ticket, address, load)
            finally:
                self.flights.land(name)
        ticket = self.guard.ticket(name)
        if ticket is None:
            return self._bypassed(schema, key, name, load)
        again = self.l2.get(address)
        if again is not None and (row := self._hit(schema, key, name, ticket, address, again)) is not None:
            return row
        return self._leave(schema, key, name, ticket, address, load)

    def _leave(
        self, schema: Schema, key: tuple[Any, ...], name: Hashable, ticket: Any, address: Key, load: Load
    ) -> Row | Absent:
        leave = self.l2.lease(address)
        for pause in _PATIENCE:
            if not isinstance(leave, Busy):
                break
            self.wait(pause)
            leave = self.l2.lease(address)
        if isinstance(leave, Found) and (row := self._hit(schema, key, name, ticket, address, leave)) is not None:
            return row
        self.counts["l2_misses"] += 1
        if self.backlog is not None and (row := self._queued_here(schema, key, leave)) is not None:
            self.guard.finished(name)
            return row
        if isinstance(leave, Lease):
            self._misses += 1
            return self._filled(schema, key, name, ticket, address, leave, load)
        if isinstance(leave, Found):
            if leave.prefix.startswith(_OVERLAY):
                return self._settled(schema, key, name, load)
            return self._filled(schema, key, name, ticket, address, _Merge(leave), load)
        if isinstance(leave, Met) and leave.record is not None and load.proves and self.single:
            row = self._proved(schema, key, address, leave, load)
        else:
            row = self._loaded(schema, load(key))
        # After the row is read, not before: what began in between may be older, and would be kept.
        self.guard.finished(name)
        return row

    def _proved(self, schema: Schema, key: tuple[Any, ...], address: Key, met: Met, load: Load) -> Row | Absent:
        """Read the row and, in the same snapshot, whether the writers that marked it have ended."""
        assert met.record is not None
        _, xids = parse_record(met.record.partition(b" ")[0])
        finished, values = load.proved(key, xids)
        loaded = self._loaded(schema, values)
        if finished and isinstance(loaded, Row):
            self.l2.resolve(address, met, self._encode(schema, address, None, loaded.values), self._lives.l2)
        elif finished:
            self.l2.resolve(address, met, None, self._lives.l2)
        return loaded

    def _filled(
        self,
        schema: Schema,
        key: tuple[Any, ...],
        name: Hashable,
        ticket: Any,
        address: Key,
        lease: Any,
        load: Load,
    ) -> Row | Absent:
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
                self._fill(schema, address, lease, loaded.values)
        elif isinstance(lease, Lease) and self._lives.negative:
            self.l2.fill(address, lease, b"", self._lives.negative)
        return self._kept(schema, key, name, ticket, loaded)

    def _kept(
        self,
        schema: Schema,
        key: tuple[Any, ...],
        name: Hashable,
        ticket: Any,
        loaded: Row | Absent,
        until: float = inf,
    ) -> Row | Absent:
        """Put what the database said into L1, to be served up to ``until``, if the ticket is still good."""
        if ticket is not None:
            point("read.before_l1_put")
            if not isinstance(loaded, Row):
                self._keep(schema, name, ticket, ABSENT, ttl=self._lives.negative, until=until)
            elif schema.key_of(loaded.values) == key:
                values = schema.local.pick(loaded.values)
                self._keep(schema, name, ticket, values, max_life=self._lives.l2, until=until)
        return loaded

    def _loaded(self, schema: Schema, values: tuple[Any, ...] | None) -> Row | Absent:
        self.counts["l3_reads"] += 1
        return ABSENT if values is None else Row(values, schema.full, "l3")

    def encode_row(self, schema: Schema, key: tuple[Any, ...], values: tuple[Any, ...]) -> bytes | None:
        """A row as the shared tier and journals hold it; None when it cannot be encoded, or is too large."""
        return self._encode(schema, Key(self.space, self._key_text(key)), None, values)

    def encode_bare(self, schema: Schema, values: tuple[Any, ...]) -> bytes:
        """A row of any size, for this process only. EncodeError if it cannot be exact."""
        codec, _, _ = self._rows.get(schema) or self._row_codec(schema)
        return _BARE + bytes(codec.encode(schema.shared.pick(values)))

    def decode_row(self, schema: Schema, key: tuple[Any, ...], entry: bytes) -> tuple[Any, ...] | None:
        """What :meth:`encode_row` made, here or in another release; None for another row or a shape that does not fit.

        DecodeError for bytes that are damaged, or encrypted with a key that is not in the ring.
        """
        codec, _, _ = self._rows.get(schema) or self._row_codec(schema)
        if entry.startswith(_BARE):
            bare: tuple[Any, ...] = codec.decode(entry[1:])
            return bare
        address = Key(self.space, self._key_text(key))
        values = self._decode_any(codec, address, Found(entry, 0.0, _OVERLAY))
        return values if values is not None and schema.shared_key_of(values) == key else None

    def keep_written(self, schema: Schema, key: tuple[Any, ...], ticket: Any, values: tuple[Any, ...] | Absent) -> None:
        """What a write has just left, if nothing else happened to the key since the ticket was taken before it."""
        name = _name(key)
        if ticket is None or not self.use_l1:
            self.guard.finished(name)
        elif isinstance(values, Absent):
            self._keep(schema, name, ticket, ABSENT, ttl=self._lives.negative)
        else:
            self._keep(schema, name, ticket, schema.local.pick(values), max_life=self._lives.l2)

    # -- queued writes ---------------------------------------------------------------------------------------------

    def _past_caches(self, schema: Schema, key: tuple[Any, ...], load: Load) -> Row | Absent:
        """What is queued for the key, else what the database has; nothing is kept on the way."""
        if self.backlog is not None and (row := self._queued(schema, key)) is not None:
            return row
        return self._loaded(schema, load(key))

    def _queued(self, schema: Schema, key: tuple[Any, ...]) -> Row | Absent | None:
        if not (self.use_l2 and self.l2.enabled):
            return self._queued_here(schema, key, None)
        address = Key(self.space, self._key_text(key))
        leave = self.l2.lease(address)
        if not isinstance(leave, Found):
            return self._queued_here(schema, key, leave)
        if not leave.prefix.startswith(_OVERLAY):
            return None
        row = self._decode(schema, key, address, leave) if leave.entry else ABSENT
        if row is None:
            self._wait_for(key)
        return row

    def _queued_here(self, schema: Schema, key: tuple[Any, ...], leave: Any) -> Row | Absent | None:
        """What this process has queued itself, unless the shared tier vouches that nothing is."""
        if isinstance(leave, Queued):
            self._wait_for(key)
        if self.backlog is None or isinstance(leave, Queued | Found):
            return None
        values = self.backlog.newest(key, vouched=leave is not None)
        return Row(values, schema.full, "queued") if isinstance(values, tuple) else values

    def _settled(self, schema: Schema, key: tuple[Any, ...], name: Hashable, load: Load) -> Row | Absent:
        """The row once the database has a queued write that cannot be read here."""
        self._wait_for(key)
        self.guard.finished(name)
        return self._loaded(schema, load(key))

    def _wait_for(self, key: tuple[Any, ...]) -> None:
        self.counts["settled"] += 1
        if self.backlog is not None:
            self.backlog.settle(key)

    def _queued_many(self, schema: Schema, missing: Sequence[Any], free: Sequence[Any], found: _Batch) -> None:
        """As :meth:`_queued` for what a batch is still missing; such rows are not kept."""
        certain = frozenset(free)
        for key in missing:
            if key in found.rows or key in found.lives:
                continue
            # Where a lease was refused the reason must be known: it is asked for again, alone.
            lease = found.leases[key][1] if key in certain and key in found.leases else None
            if isinstance(lease, _Merge) and lease.found.prefix.startswith(_OVERLAY):
                self._wait_for(key)
                row = None
            else:
                row = self._queued(schema, key) if lease is None else self._queued_here(schema, key, lease)
                if row is None:
                    continue
            found.leases.pop(key, None)
            if row is None:
                continue
            if isinstance(row, Row):
                found.rows[key] = row
            else:
                found.gone.add(key)

    # -- many ------------------------------------------------------------------------------------------------------

    def read_many(
        self, schema: Schema, keys: Sequence[tuple[Any, ...]], load: LoadMany, *, local: bool = True
    ) -> dict[tuple[Any, ...], Row]:
        """The rows that exist among ``keys``: each tier gets the misses of the one above, in one batch."""
        rows: dict[tuple[Any, ...], Row] = {}
        missing: list[tuple[Any, ...]] = []
        if local or self.strict_local:
            for key in keys:
                found = self.look(schema, key)
                if isinstance(found, Row):
                    rows[key] = found
                elif found is None:
                    missing.append(key)
            self.counts["l1_misses"] += len(missing)
        else:
            missing = list(keys)
        if missing:
            self._read_many_below(schema, missing, load, rows)
        return rows

    def _read_many_below(
        self, schema: Schema, missing: list[tuple[Any, ...]], load: LoadMany, rows: dict[Any, Row]
    ) -> None:
        began, tickets = self.l1.clock(), self.guard.tickets()
        names = {_name(key): key for key in missing}
        free = [names[name] for name in self.guard.free(list(names))] if tickets is not None else []
        keep: Sequence[tuple[Any, ...]] = free
        lives: dict[tuple[Any, ...], float] = {}
        leases: dict[tuple[Any, ...], tuple[Key, Any]] = {}
        gone: set[Any] = set()
        if free and self.use_l2 and self.l2.enabled:
            leases = self._ask_shared_many(schema, free, rows, lives)
        if self.backlog is not None:
            self._queued_many(schema, missing, free, _Batch(rows, lives, leases, gone))
        if free and self.use_l2 and self.l2.enabled:
            keep = [key for key in free if key in lives or key in leases]
        asked = [key for key in missing if key not in rows and key not in lives and key not in gone]
        if asked:
            try:
                loaded = load(asked)
            except BaseException:
                for address, lease in leases.values():
                    if isinstance(lease, Lease):
                        self.l2.release(address, lease)
                raise
            self.counts["l3_reads"] += len(asked)
            full = schema.full
            for key, values in loaded.items():
                rows[key] = Row(values, full, "l3")
            if leases:
                self._fill_many(schema, leases, loaded)
        for key in set(missing).difference(keep):  # after they are read: see _leave and _bypassed
            self.guard.finished(_name(key))
        if self.use_l1 and tickets is not None:
            until = inf if self.use_l2 and self.l2.enabled else self._until_beside(began)
            self.guard.put_many(tickets, self._puts(schema, keep, rows, lives), until)

    def _ask_shared_many(
        self, schema: Schema, keys: list[tuple[Any, ...]], rows: dict[Any, Row], lives: dict[Any, float]
    ) -> dict[Any, tuple[Key, Any]]:
        """Rows that L2 has and their lives (a life without a row: known not to exist); leave to fill the others."""
        space, text = self.space, self._key_text
        addresses = {Key(space, text(key)): key for key in keys}
        merges: dict[tuple[Any, ...], tuple[Key, Any]] = {}
        if self._misses < _COLD:
            self._decode_many(schema, addresses, self.l2.get_many(list(addresses)), rows, lives, merges)
        leases: dict[tuple[Any, ...], tuple[Key, Any]] = {}
        absent = [address for address, key in addresses.items() if key not in lives and key not in merges]
        if absent:
            granted = self.l2.lease_many(absent)
            late = {address: leave for address, leave in granted.items() if isinstance(leave, Found)}
            self._decode_many(schema, addresses, late, rows, lives, merges)
            leases = {addresses[a]: (a, lease) for a, lease in granted.items() if isinstance(lease, Lease)}
        self._misses = 0 if lives else self._misses + len(leases)
        self.counts["l2_hits"] += len(lives)
        self.counts["l2_misses"] += len(keys) - len(lives)
        return merges | leases

    def _decode_many(
        self,
        schema: Schema,
        addresses: Mapping[Key, tuple[Any, ...]],
        found: Mapping[Key, Found],
        rows: dict[Any, Row],
        lives: dict[Any, float],
        merges: dict[Any, tuple[Key, Any]],
    ) -> None:
        decode = self._decode
        for address, value in found.items():
            key = addresses[address]
            if not value.entry:
                lives[key] = min(value.ttl, self._lives.negative)
                continue
            row = decode(schema, key, address, value)
            if row is None:
                merges[key] = (address, _Merge(value))
            else:
                rows[key], lives[key] = row, value.ttl

    def _fill_many(self, schema: Schema, leases: Mapping[Any, tuple[Key, Any]], loaded: Mapping[Any, Any]) -> None:
        fills: list[Fill] = []
        for key, (address, lease) in leases.items():
            values = loaded.get(key)
            if isinstance(lease, _Merge):
                if values is not None:
                    self._fill(schema, address, lease, values)
            elif values is None:
                if self._lives.negative:
                    fills.append(Fill(address, lease, b"", self._lives.negative))
            elif (entry := self._encode(schema, address, lease, values)) is not None:
                self.counts["l2_fills"] += 1
                fills.append(Fill(address, lease, entry, self._lives.l2))
        self.l2.fill_many(fills)

    def _puts(
        self, schema: Schema, keys: Sequence[tuple[Any, ...]], rows: Mapping[Any, Row], lives: Mapping[Any, float]
    ) -> list[tuple[Hashable, Any, int, float | None]]:
        """What L1 is to keep of a batch: rows for as long as L2 has them, absences for the negative life."""
        puts: list[tuple[Hashable, Any, int, float | None]] = []
        single, life, names = self.single, self._lives.l2, schema.local.keys
        of_full, of_shared = schema.local.pick, schema.local_of_shared
        for key in keys:
            name = key[0] if len(key) == 1 else key
            row = rows.get(key)
            values: Any
            if row is None:
                values, most = ABSENT, lives.get(key, self._lives.negative)
            else:
                values, most = (of_shared if row.tier == "l2" else of_full)(row.values), lives.get(key, life)
            if single:
                value: Any = values if row is None else dict(zip(names, values, strict=False))
            else:
                value = self._stored(schema, name, values)
                most = self._shortest(name, most) or most
            puts.append((name, value, self._size(value) if self.l1.max_bytes else 0, most))
        return puts

    # -- L1 values -------------------------------------------------------------------------------------------------

    def _keep(
        self,
        schema: Schema,
        name: Hashable,
        ticket: Any,
        values: Any,
        *,
        ttl: float | None = None,
        max_life: float | None = None,
        prefix: bytes | None = None,
        until: float = inf,
    ) -> None:
        if self.use_l1:
            value = self._stored(schema, name, values)
            if not self.single:
                max_life = self._shortest(name, max_life)
            size = self._size(value) if self.l1.max_bytes else 0
            self.guard.put(name, ticket, value, ttl=ttl, size=size, max_life=max_life, prefix=prefix, until=until)

    def glance(self) -> tuple[Any, float] | None:
        """Leave to keep a row whose key is not known yet, for :meth:`keep_seen`. To be taken before it is read."""
        began, glance = self.l1.clock(), self.guard.glance()
        return None if glance is None else (glance, began)

    def keep_seen(
        self, schema: Schema, key: tuple[Any, ...], glance: tuple[Any, float] | None, values: tuple[Any, ...]
    ) -> None:
        """Put a row into L1 whose key was not known before it was read."""
        if not self.use_l1 or glance is None or self.backlog is not None:
            self.guard.finished(_name(key))
            return
        seen, began = glance
        value, life = self._stored(schema, _name(key), schema.local.pick(values)), self._lives.l2
        until = self._until_beside(began)
        self.guard.put_seen(_name(key), seen, value, size=self._size(value), max_life=life, until=until)

    def _until_beside(self, began: float) -> float:
        """Until when L1 may serve what was read beside the shared tier.

        Its writer's mark may have been announced before the read began, so nothing will tell when it commits.
        """
        if self._lives.beside is None:
            return inf
        return 0.0 if self.strict_local else began + self._lives.beside

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
        return schema if self.scope is None else (schema, self.scope())

    # -- L2 values -------------------------------------------------------------------------------------------------

    def _row_codec(self, schema: Schema) -> tuple[Any, bytes, int]:
        """The row codec of a shape, and how a plain entry of it begins (empty: every entry must be looked into)."""
        codec = compile_row(schema.fields, self._codec, self._sealing(schema))
        plain = self.scope is None and not self._entries.signed
        start = self._entries.start(codec.fingerprint, codec.shape) if plain else b""
        made = self._rows[schema] = codec, start, len(codec.shape)
        return made

    def _fingerprint(self, codec: Any) -> bytes:
        if self.scope is None:
            return bytes(codec.fingerprint)
        return scoped_fingerprint(codec.fingerprint, self.scope())

    def _decode(self, schema: Schema, key: tuple[Any, ...], address: Key, found: Found) -> Row | None:
        codec, start, shape_size = self._rows.get(schema) or self._row_codec(schema)
        try:
            body = self._entries.body(found.entry, start, shape_size) if start else None
            values = self._decode_any(codec, address, found) if body is None else codec.decode(body)
        except DecodeError as error:
            self.counts["decode_" + getattr(error, "reason", "row")] += 1
            self.l2.discard(address, found)
            return None
        if values is None or schema.shared_key_of(values) != key:
            return None
        return Row(values, schema.shared, "l2")

    def _decode_any(self, codec: Any, address: Key, found: Found) -> tuple[Any, ...] | None:
        body = self._entries.find(found.entry, _context(address), self._fingerprint(codec))
        return codec.decode(body) if body is not None else self._adapted(codec, address, found)

    def _adapted(self, codec: Any, address: Key, found: Found) -> tuple[Any, ...] | None:
        if self.scope is not None:
            return None  # a section of another fingerprint may be another tenant's
        for section in self._entries.unpack(found.entry, _context(address)):
            values = adapt(section.shape, section.body, codec)
            if values is not None:
                return values
        return None

    def _fill(self, schema: Schema, address: Key, lease: Any, values: tuple[Any, ...]) -> None:
        entry = self._encode(schema, address, lease, values)
        if entry is not None:
            self.counts["l2_fills"] += 1
            if isinstance(lease, _Merge):
                self.l2.extend(address, lease.found, entry, self._lives.l2)
            else:
                self.l2.fill(address, lease, entry, self._lives.l2)

    def _encode(self, schema: Schema, address: Key, lease: Any, values: tuple[Any, ...]) -> bytes | None:
        codec, _, _ = self._rows.get(schema) or self._row_codec(schema)
        try:
            section = Section(self._fingerprint(codec), codec.shape, codec.encode(schema.shared.pick(values)))
            if isinstance(lease, _Merge):
                return self._entries.add(lease.found.entry, _context(address), section)
            return self._entries.pack([section], _context(address))
        except (EncodeError, DecodeError) as error:
            self.counts["unencodable_" + getattr(error, "reason", "row")] += 1
            return None

    def matching(self, pattern: str) -> frozenset[tuple[Any, ...]] | None:
        """The keys in L1 and L2 whose text matches a glob, with or without ``"<space>:"`` before it.

        None when they cannot be told: there are too many to look at, or their text does not give them back.
        """
        glob = pattern.removeprefix(f"{self.space}:")
        names = (name for name in list(self.l1.index) if fnmatchcase(self._key_text(_tuple(name)), glob))
        ids = self.l2.matching(self.space, glob)
        keys = [parse_key(id, self._key_types) for id in ids] if ids is not None else [None]
        return None if None in keys else frozenset([*map(_tuple, names), *filter(None, keys)])

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

    # -- coherence -------------------------------------------------------------------------------------------------

    def begin(self, change: Change) -> None:
        self.guard.begin(change)

    def end(self, change: Change, kept: Any = None) -> None:
        if kept is None:
            self.guard.end(change)
            return
        tickets, values = kept
        puts = [(name, tickets[name], value, self._size(value), self.life) for name, value in values.items()]
        self.guard.end(change, puts)

    @property
    def leaves_rows(self) -> bool:
        """Whether there is a cache for a writer to leave its rows in."""
        return self.scope is None and ((self.use_l1 and self.eager) or (self.use_l2 and self.l2.enabled))

    def keep(self, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> Any:
        """See :class:`~datalayer.contracts.coherence.Space`; ``rows`` are full rows of the root class."""
        if not (self.use_l1 and self.single and self.eager):
            return None
        schema = self.schema
        values = {_name(key): self._stored(schema, _name(key), schema.local.pick(row)) for key, row in rows.items()}
        return self.guard.reserve(values), values

    def entries(self, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> dict[str, tuple[bytes, float]]:
        if not self.use_l2:
            return {}
        found = {}
        for key, row in rows.items():
            address = Key(self.space, self._key_text(key))
            if (entry := self._encode(self.schema, address, None, row)) is not None:
                found[f"{address.space}:{address.id}"] = entry, self.life
        return found

    def heard(self, id: str) -> None:
        """Another process is writing, or has written, the row whose key has this text."""
        key = parse_key(id, self._key_types)
        if key is None:
            self.guard.drop_all()
        else:
            self.guard.drop_key(_name(key))

    def heard_whole(self) -> None:
        """Another process changes rows that it does not name."""
        self.guard.drop_all()

    def heard_births(self) -> None:
        """Another process makes rows that it does not name."""
        self.guard.drop_absent()


class _Batch(NamedTuple):
    """What is known of the keys of a batch: rows, lives, leave to fill, and the keys whose rows are to be deleted."""

    rows: dict[Any, Row]
    lives: dict[Any, float]
    leases: dict[Any, Any]
    gone: set[Any]


class _Merge:
    """Leave to add a section to a value of another shape, given by that very value."""

    __slots__ = ("found",)

    def __init__(self, found: Found) -> None:
        self.found = found


def _name(key: tuple[Any, ...]) -> Hashable:
    return key[0] if len(key) == 1 else key


def _tuple(name: Any) -> tuple[Any, ...]:
    return name if isinstance(name, tuple) else (name,)


def _context(address: Key) -> bytes:
    return f"{address.space}:{address.id}".encode("utf-8", "surrogatepass")


def scoped_fingerprint(fingerprint: bytes, scope: str | None) -> bytes:
    """A shape's fingerprint within one scope, so that tenants share a key but never a value."""
    text = b"-" if scope is None else b"+" + scope.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(fingerprint + text, digest_size=8).digest()

"""The stairs of one space: how a row is looked for in L1, then L2, then the database, and put back on the way up.

A value climbs only while the guard still honours the ticket that was taken before the first tier below L1 was asked;
L2 has its own token for the same purpose. A row is put under its *own* key, and a value that comes from L2 is served
only if it is the row that was asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol

from ..codecs.entry import EntryCodec, Section
from ..codecs.row import adapt, compile_row
from ..contracts.cipher import RowSealing
from ..contracts.codec import Codec
from ..contracts.coherence import ABSENT, Absent, Change, Outcome
from ..contracts.tier import Found, Key, Lease, SharedTier
from ..errors import DecodeError, EncodeError
from ..models.schema import Projection, Schema
from .l1 import L1, estimate_size

KeyText = Callable[[tuple[Any, ...]], str]


class Row(NamedTuple):
    """A row on its way to the caller: values in the order of ``projection``, and the tier that had it.

    The values belong to the tier: copy what is mutable before handing it out.
    """

    values: tuple[Any, ...]
    projection: Projection
    tier: str


class Gate(Protocol):
    """What the ladder needs of the coherence room: see :class:`datalayer.coherence.guard.Guard`."""

    refused: int

    def ticket(self, key: Hashable) -> Any | None: ...

    def put(
        self,
        key: Hashable,
        ticket: Any,
        value: Any,
        *,
        ttl: float | None = None,
        size: int = 0,
        max_life: float | None = None,
    ) -> bool: ...

    def tickets(self) -> Any | None: ...

    def free(self, keys: Sequence[Hashable]) -> Sequence[Hashable]: ...

    def put_many(self, tickets: Any, puts: Sequence[tuple[Hashable, Any, int, float | None]]) -> None: ...

    def glance(self) -> int | None: ...

    def put_seen(
        self, key: Hashable, glance: int, value: Any, *, size: int = 0, max_life: float | None = None
    ) -> bool: ...

    def begin(self, change: Change) -> None: ...

    def end(self, change: Change) -> None: ...

    def reset_after_fork(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Lives:
    """How long values live, in seconds, and whether each tier takes part."""

    l2: float
    negative: float
    use_l1: bool = True
    use_l2: bool = True


class Ladder:
    """The tiers of one root class. Thread-safe.

    ``lookups`` maps unique values to keys; its entries are hints, checked against the row, and never invalidated.

    ``scope`` (a callable) splits the space into separate caches by what it returns at the moment of the read; all
    scopes of a row live and die together.
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
        sealing: Callable[[Schema], RowSealing | None] = lambda _schema: None,
    ) -> None:
        family = schema.mapper.base_mapper.self_and_descendants
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
        self._space = prefix or schema.space
        self._rows: dict[Schema, Any] = {}

    # -- reading ---------------------------------------------------------------------------------------------------

    def look(self, schema: Schema, key: tuple[Any, ...]) -> Row | Absent | None:
        """What L1 holds for a key: a row, ABSENT, or None for "do not know". Lock-free."""
        entry = self.l1.index.get(key[0] if len(key) == 1 else key)
        if entry is None or entry.deadline <= self.l1.clock():
            return None
        value: Any = entry.value if self.single else entry.value.get(self._variant(schema))
        if value is None:
            return None
        entry.hits += 1
        if isinstance(value, Absent):
            return value
        values: tuple[Any, ...] = tuple(value.values()) if self.single else value
        return Row(values, schema.local, "l1")

    def read(
        self,
        schema: Schema,
        key: tuple[Any, ...],
        load: Callable[[], tuple[Any, ...] | None],
        *,
        local: bool = True,
    ) -> Row | Absent:
        """The row under ``key``; ``load`` asks the database and is called at most once.

        ``local=False`` passes L1 by (and still fills it). Errors of ``load`` come through; a tier's never do.
        """
        if local and (found := self.look(schema, key)) is not None:
            return found
        name: Hashable = key[0] if len(key) == 1 else key
        ticket = self.guard.ticket(name)
        self.counts["l1_misses"] += local
        if ticket is None:
            self.counts["bypassed"] += 1
            return self._loaded(schema, load())
        return self._read_below(schema, key, name, ticket, load)

    def _read_below(
        self, schema: Schema, key: tuple[Any, ...], name: Hashable, ticket: Any, load: Callable[[], Any]
    ) -> Row | Absent:
        shared, lease, address = None, None, None
        if self._lives.use_l2 and self.l2.enabled:
            address = Key(self._space, self._key_text(key))
            shared, lease = self._ask_shared(schema, key, address)
        if shared is not None:
            row, life = shared
            self._keep(schema, name, ticket, schema.local_of_shared(row.values), max_life=life)
            return row
        loaded = self._loaded(schema, load())
        if not isinstance(loaded, Row):
            self._keep(schema, name, ticket, ABSENT, ttl=self._lives.negative)
        elif schema.key_of(loaded.values) == key:
            if address is not None and lease is not None:
                self._fill(schema, address, lease, loaded.values)
            self._keep(schema, name, ticket, schema.local.pick(loaded.values), max_life=self._lives.l2)
        return loaded

    def _ask_shared(self, schema: Schema, key: tuple[Any, ...], address: Key) -> tuple[tuple[Row, float] | None, Any]:
        """(row and remaining life, None) for a hit, (None, lease or None) for a miss."""
        found: Found | Lease | None = self.l2.get(address)
        if found is None:
            found = self.l2.lease(address)
        if not isinstance(found, Found):
            self.counts["l2_misses"] += 1
            return None, found
        row = self._decode(schema, key, address, found)
        if row is None:
            self.counts["l2_misses"] += 1
            return None, _Merge(found)
        self.counts["l2_hits"] += 1
        return (row, found.ttl), None

    def _loaded(self, schema: Schema, values: tuple[Any, ...] | None) -> Row | Absent:
        self.counts["l3_reads"] += 1
        return ABSENT if values is None else Row(values, schema.full, "l3")

    # -- many ------------------------------------------------------------------------------------------------------

    def read_many(
        self,
        schema: Schema,
        keys: Sequence[tuple[Any, ...]],
        load: Callable[[Sequence[tuple[Any, ...]]], Mapping[tuple[Any, ...], tuple[Any, ...]]],
        *,
        local: bool = True,
    ) -> dict[tuple[Any, ...], Row]:
        """The rows that exist among ``keys``: each tier gets the misses of the one above, in one batch."""
        rows: dict[tuple[Any, ...], Row] = {}
        missing: list[tuple[Any, ...]] = []
        for key in keys:
            found = self.look(schema, key) if local else None
            if isinstance(found, Row):
                rows[key] = found
            elif found is None:
                missing.append(key)
        if missing:
            self.counts["l1_misses"] += len(missing) if local else 0
            self._read_many_below(schema, missing, load, rows)
        return rows

    def _read_many_below(self, schema: Schema, missing: list[tuple[Any, ...]], load: Any, rows: dict[Any, Row]) -> None:
        tickets = self.guard.tickets()
        names = {_name(key): key for key in missing}
        free = [names[name] for name in self.guard.free(list(names))] if tickets is not None else []
        lives: dict[tuple[Any, ...], float] = {}
        leases: dict[tuple[Any, ...], tuple[Key, Any]] = {}
        if free and self._lives.use_l2 and self.l2.enabled:
            lives, leases = self._ask_shared_many(schema, free, rows)
        asked = [key for key in missing if key not in rows]
        if asked:
            loaded = load(asked)
            self.counts["l3_reads"] += len(asked)
            full = schema.full
            for key, values in loaded.items():
                rows[key] = Row(values, full, "l3")
            if leases:
                self._fill_many(schema, leases, loaded)
        if free and self._lives.use_l1:
            self.guard.put_many(tickets, self._puts(schema, free, rows, lives))

    def _ask_shared_many(self, schema: Schema, keys: list[tuple[Any, ...]], rows: dict[Any, Row]) -> Any:
        addresses = {key: Key(self._space, self._key_text(key)) for key in keys}
        found = self.l2.get_many(list(addresses.values())) if addresses else {}
        lives: dict[tuple[Any, ...], float] = {}
        merges: dict[tuple[Any, ...], tuple[Key, Any]] = {}
        for key, address in addresses.items():
            value = found.get(address)
            if value is None:
                continue
            row = self._decode(schema, key, address, value)
            if row is None:
                merges[key] = (address, _Merge(value))
            else:
                rows[key], lives[key] = row, value.ttl
        absent = {addresses[key]: key for key in keys if key not in rows and key not in merges}
        self.counts["l2_hits"] += len(lives)
        self.counts["l2_misses"] += len(keys) - len(lives)
        granted = self.l2.lease_many(list(absent)) if absent else {}
        return lives, merges | {absent[address]: (address, lease) for address, lease in granted.items()}

    def _fill_many(self, schema: Schema, leases: Mapping[Any, tuple[Key, Any]], loaded: Mapping[Any, Any]) -> None:
        fills: dict[Key, tuple[Lease, bytes]] = {}
        for key, values in loaded.items():
            if key in leases:
                address, lease = leases[key]
                entry = self._encode(schema, address, lease, values)
                if entry is not None:
                    fills[address] = (_plain(lease), entry)
        if fills:
            self.counts["l2_fills"] += len(fills)
            self.l2.fill_many(fills, self._lives.l2)

    def _puts(
        self, schema: Schema, keys: Sequence[tuple[Any, ...]], rows: Mapping[Any, Row], lives: Mapping[Any, float]
    ) -> list[tuple[Hashable, Any, int, float | None]]:
        """What L1 is to keep of a batch: rows for as long as L2 has them, absences for the negative life."""
        puts: list[tuple[Hashable, Any, int, float | None]] = []
        single, life, local, names = self.single, self._lives.l2, schema.local, schema.local.keys
        of_full, of_shared = local.pick, schema.local_of_shared
        for key in keys:
            name = key[0] if len(key) == 1 else key
            row = rows.get(key)
            values: Any = ABSENT if row is None else (of_shared if row.tier == "l2" else of_full)(row.values)
            most = self._lives.negative if row is None else lives.get(key, life)
            if single:
                value = values if row is None else dict(zip(names, values, strict=False))
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
    ) -> None:
        if self._lives.use_l1:
            value = self._stored(schema, name, values)
            if not self.single:
                max_life = self._shortest(name, max_life)
            self.guard.put(name, ticket, value, ttl=ttl, size=self._size(value), max_life=max_life)

    def keep_seen(self, schema: Schema, key: tuple[Any, ...], glance: int | None, values: tuple[Any, ...]) -> None:
        """Put a row into L1 whose key was not known before it was read."""
        if self._lives.use_l1 and glance is not None:
            value = self._stored(schema, _name(key), schema.local.pick(values))
            self.guard.put_seen(_name(key), glance, value, size=self._size(value), max_life=self._lives.l2)

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

    def _row_codec(self, schema: Schema) -> Any:
        codec = self._rows.get(schema)
        if codec is None:
            codec = self._rows[schema] = compile_row(schema.fields, self._codec, self._sealing(schema))
        return codec

    def _fingerprint(self, codec: Any) -> bytes:
        if self.scope is None:
            return bytes(codec.fingerprint)
        return scoped_fingerprint(codec.fingerprint, self.scope())

    def _decode(self, schema: Schema, key: tuple[Any, ...], address: Key, found: Found) -> Row | None:
        codec = self._row_codec(schema)
        try:
            body = self._entries.find(found.entry, _context(address), self._fingerprint(codec))
            values = codec.decode(body) if body is not None else self._adapted(codec, address, found)
        except DecodeError as error:
            self.counts["decode_" + getattr(error, "reason", "row")] += 1
            self.l2.delete([address])
            return None
        if values is None or schema.shared_key_of(values) != key:
            return None
        return Row(values, schema.shared, "l2")

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
            self.l2.fill(address, _plain(lease), entry, self._lives.l2)

    def _encode(self, schema: Schema, address: Key, lease: Any, values: tuple[Any, ...]) -> bytes | None:
        codec = self._row_codec(schema)
        try:
            section = Section(self._fingerprint(codec), codec.shape, codec.encode(schema.shared.pick(values)))
            if isinstance(lease, _Merge):
                return self._entries.add(lease.found.entry, _context(address), section)
            return self._entries.pack([section], _context(address))
        except (EncodeError, DecodeError) as error:
            self.counts["unencodable_" + getattr(error, "reason", "row")] += 1
            return None

    def forget_matching(self, pattern: str) -> int:
        """Drop the rows whose key text matches a glob, with or without ``"<space>:"`` before it.

        L2 forgets the whole space, which is more than was asked and never less.
        """
        glob = pattern.removeprefix(f"{self._space}:")
        keys = {name for name in list(self.l1.index) if fnmatchcase(self._key_text(_tuple(name)), glob)}
        change = Change(keys=frozenset(keys))
        self.guard.begin(change)
        if self._lives.use_l2:
            self.l2.bump([self._space])
        self.guard.end(change)
        return len(keys)

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

    # -- coherence -------------------------------------------------------------------------------------------------

    def begin(self, change: Change) -> None:
        self.guard.begin(change)

    def end(self, change: Change, outcome: Outcome) -> None:
        """After COMMIT: L2 forgets first, then L1 may be filled again."""
        if outcome is Outcome.COMMITTED and self._lives.use_l2:
            if change.whole:
                self.l2.bump([self._space])
            elif change.keys:
                self.l2.delete([Key(self._space, self._key_text(_tuple(name))) for name in change.keys])
        self.guard.end(change)


class _Merge:
    """Leave to add a section to a value of another shape, given by that very value."""

    __slots__ = ("found",)

    def __init__(self, found: Found) -> None:
        self.found = found


def _plain(lease: Any) -> Lease:
    if isinstance(lease, _Merge):
        prefix = lease.found.prefix
        return Lease(prefix, prefix.split(b"|")[2].decode())
    assert isinstance(lease, Lease)
    return lease


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

"""One read of many keys: each tier gets the misses of the one above, in one batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from ..contracts.tier import Fill, Found, Key, Lease
from ..models.schema import Schema
from .near import name_of
from .needs import LoadMany, Merge, Row

if TYPE_CHECKING:
    from .ladder import Ladder

Keys = Sequence[tuple[Any, ...]]


class Batch:
    """What is known of the keys that L1 does not have. For one thread, once.

    ``lives``: the seconds that L2 has left for a key (a life without a row: known not to exist); ``leases``: leave to
    fill; ``gone``: keys whose rows are queued to be deleted.
    """

    def __init__(self, ladder: Ladder, schema: Schema, missing: Keys) -> None:
        self.rows: dict[Any, Row] = {}
        self._ladder = ladder
        self._schema = schema
        self._missing = missing
        self._lives: dict[Any, float] = {}
        self._leases: dict[Any, tuple[Key, Lease | Merge]] = {}
        self._gone: set[Any] = set()

    def read(self, load: LoadMany) -> None:
        """Find ``rows``. Errors of ``load`` come through; a tier's never do."""
        near, guard = self._ladder.near, self._ladder.guard
        began, tickets = near.l1.clock(), guard.tickets()
        names = {name_of(key): key for key in self._missing}
        free = [names[name] for name in guard.free(list(names))] if tickets is not None else []
        shared = bool(free and self._ladder.shares)
        if shared:
            self._ask_shared(free)
        if self._ladder.overlays.backlog is not None:
            self._ask_queued(frozenset(free))
        keep = [key for key in free if key in self._lives or key in self._leases] if shared else free
        self._ask_database(load)
        for key in set(self._missing).difference(keep):  # after they are read: see Ladder._beside and _bypassed
            guard.finished(name_of(key))
        if tickets is not None:
            until = inf if self._ladder.shares else near.until_beside(began)
            near.keep_many(self._schema, tickets, keep, self.rows, self._lives, until)

    def _ask_shared(self, keys: Keys) -> None:
        ladder, addresses = self._ladder, self._ladder.packing.addresses(keys)
        if not ladder.cold:
            self._unpack(addresses, ladder.l2.get_many(list(addresses)))
        absent = [at for at, key in addresses.items() if key not in self._lives and key not in self._leases]
        granted = 0
        if absent:
            leaves = ladder.l2.lease_many(absent)
            self._unpack(addresses, {at: leave for at, leave in leaves.items() if isinstance(leave, Found)})
            leases = {addresses[at]: (at, leave) for at, leave in leaves.items() if isinstance(leave, Lease)}
            self._leases.update(leases)
            granted = len(leases)
        ladder.asked(hits=len(self._lives), misses=len(keys) - len(self._lives), granted=granted)

    def _unpack(self, addresses: Mapping[Key, tuple[Any, ...]], found: Mapping[Key, Found]) -> None:
        rows, lives, negative = self.rows, self._lives, self._ladder.lives.negative
        for key, address, value, row in self._ladder.packing.unpack_many(self._schema, addresses, found):
            if not value.entry:
                lives[key] = min(value.ttl, negative)
            elif row is None:
                self._leases[key] = (address, Merge(value))
            else:
                rows[key], lives[key] = row, value.ttl

    def _ask_queued(self, free: Collection[Any]) -> None:
        """What is queued of the rows that are still missing; it is not kept."""
        for key in self._missing:
            if key not in self.rows and key not in self._lives:
                self._ask_queue(key, self._leases[key][1] if key in free and key in self._leases else None)

    def _ask_queue(self, key: tuple[Any, ...], lease: Lease | Merge | None) -> None:
        overlays, schema = self._ladder.overlays, self._schema
        if isinstance(lease, Merge) and lease.found.queued:
            overlays.settle(key)
            del self._leases[key]
            return
        # Where a lease was refused the reason must be known: it is asked for again, alone.
        row = overlays.find(schema, key) if lease is None else overlays.own(schema, key, lease)
        if row is None:
            return
        self._leases.pop(key, None)
        if isinstance(row, Row):
            self.rows[key] = row
        else:
            self._gone.add(key)

    def _ask_database(self, load: LoadMany) -> None:
        rows, lives, gone = self.rows, self._lives, self._gone
        asked = [key for key in self._missing if key not in rows and key not in lives and key not in gone]
        if not asked:
            return
        try:
            loaded = load(asked)
        except BaseException:
            for address, lease in self._leases.values():
                if isinstance(lease, Lease):
                    self._ladder.l2.release(address, lease)
            raise
        self._ladder.counts["l3_reads"] += len(asked)
        full = self._schema.full
        self.rows.update({key: Row(values, full, "l3") for key, values in loaded.items()})
        if self._leases:
            self._fill(loaded)

    def _fill(self, loaded: Mapping[Any, tuple[Any, ...]]) -> None:
        ladder, lives, fills = self._ladder, self._ladder.lives, []
        for key, (address, lease) in self._leases.items():
            values = loaded.get(key)
            if isinstance(lease, Merge):
                if values is not None:
                    ladder.fill(self._schema, address, lease, values)
            elif values is None:
                if lives.negative:
                    fills.append(Fill(address, lease, b"", lives.negative))
            elif (entry := ladder.packing.pack(self._schema, address, values)) is not None:
                ladder.counts["l2_fills"] += 1
                fills.append(Fill(address, lease, entry, lives.l2))
        ladder.l2.fill_many(fills)

"""``layer.crypto``: which keys a database's values are under, whether they decrypt, and bringing them under one key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..contracts.keys import parse_key
from ..errors import ConfigError
from .aead import key_id_of
from .keyring import FORMAT
from .rotate import Problem, Progress, Resume, Rotated, Rotation, RotationReport, unreadable
from .rows import row_name
from .scan import RawRow, RawTable
from .vault import Vault

Callback = Callable[[Progress], object]

_PREFIX = re.compile(rf"{FORMAT}\.([A-Za-z0-9_-]{{1,64}})\.[A-Za-z0-9_-]{{8,}}")
_PREFIX_LENGTH = len(FORMAT) + 1 + 64 + 1 + 38
_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class ColumnStatus:
    """How many values of a column are under which key. ``readable`` are not encrypted, ``empty`` are NULL.

    ``stale_digests``: values whose blind index is missing or under another key than the active one.
    """

    table: str
    column: str
    keys: Mapping[str, int]
    readable: int
    empty: int
    stale_digests: int

    def under_other_keys(self, active: str) -> int:
        """Values that ``rotate`` would write anew, but for digests."""
        return self.readable + sum(n for key_id, n in self.keys.items() if key_id != active)


@dataclass(frozen=True, slots=True)
class CryptoStatus:
    """The keys in use. ``ok``: every value is under the active key."""

    active: str
    ring: tuple[str, ...]
    columns: tuple[ColumnStatus, ...]

    @property
    def ok(self) -> bool:
        return not any(c.under_other_keys(self.active) or c.stale_digests for c in self.columns)

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys that values are under, and that the ring lacks."""
        return tuple(sorted({key_id for c in self.columns for key_id in c.keys} - {*self.ring}))

    def to_dict(self) -> dict[str, Any]:
        columns = {
            f"{c.table}.{c.column}": {
                "keys": dict(c.keys),
                "readable": c.readable,
                "empty": c.empty,
                "stale_digests": c.stale_digests,
            }
            for c in self.columns
        }
        return {
            "active": self.active,
            "ring": [*self.ring],
            "missing": [*self.missing],
            "ok": self.ok,
            "columns": columns,
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What decrypts. ``problems`` are the first twenty; ``failed`` counts them all."""

    checked: int
    failed: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        problems = [
            {
                "table": p.table,
                "column": p.column,
                "key": [str(v) for v in p.key],
                "key_id": p.key_id,
                "reason": p.reason,
            }
            for p in self.problems
        ]
        return {"checked": self.checked, "failed": self.failed, "ok": self.ok, "problems": problems}


class Crypto:
    """The encrypted columns of a layer's models. Thread-safe; every call reads its tables in batches.

    ``tables`` are those with encrypted columns, ``forget`` drops tables from every cache.
    """

    def __init__(
        self,
        engine: sa.Engine,
        vault: Vault | None,
        tables: Callable[[], Iterable[sa.Table]],
        forget: Callable[[set[str]], object],
    ) -> None:
        self._engine = engine
        self._vault = vault
        self._tables = tables
        self._forget = forget

    def rotate(
        self,
        *tables: str,
        batch_size: int = 500,
        passes: int = 5,
        progress: Callback | None = None,
    ) -> RotationReport:
        """Encrypt every value anew that is not under the active key; digests, too. Run it again to continue.

        ``tables`` by name, all by default. Safe beside writers, and beside another rotation. Afterwards the shared
        cache forgets the tables: what it holds is under the old key. ConfigError without keys.
        """
        vault, active = self._keys()
        done: list[Rotated] = []
        for table in self._chosen(tables):
            done.append(Rotation(self._engine, table, vault, batch_size=batch_size).run(progress, passes=passes))
            if done[-1].rotated:
                self._forget({table.name})
        return RotationReport(active, tuple(done))

    def status(
        self,
        *tables: str,
        batch_size: int = 5000,
        progress: Callback | None = None,
        after: Resume | None = None,
    ) -> CryptoStatus:
        """Which keys the values are under. Reads the beginnings of all of them; decrypts nothing.

        ``after`` as for :meth:`verify`.
        """
        vault, active = self._keys()
        assert vault.keyring is not None
        columns = []
        for table in self._chosen(tables):
            tally = _Tally(table, active)
            self._walk(table, batch_size, progress, after, tally.add, longest=_PREFIX_LENGTH)
            columns += tally.columns()
        return CryptoStatus(active, vault.keyring.ids, tuple(columns))

    def verify(
        self,
        *tables: str,
        batch_size: int = 1000,
        progress: Callback | None = None,
        after: Resume | None = None,
    ) -> VerifyReport:
        """Decrypt every value and compute every digest again; writes nothing.

        ``after``: a key for a table's name, from the last progress of a run that was interrupted.
        """
        vault, _ = self._keys()
        check = _Check(vault)
        for table in self._chosen(tables):
            self._walk(table, batch_size, progress, after, lambda row, t=table: check.add(t, row))  # type: ignore[misc]
        return VerifyReport(check.checked, check.failed, tuple(check.problems))

    def resume(self, position: str) -> Resume:
        """What ``after`` takes, from the ``position`` of a progress. ConfigError for anything else."""
        name, colon, text = position.partition(":")
        if not colon:
            raise ConfigError(f"{position!r} is no position; expected TABLE:KEY, as an interrupted run has told it")
        (table,) = self._chosen((name,))
        key = parse_key(text, table.key_types)
        if key is None:
            raise ConfigError(f"{text!r} is no key of {name}, which has {len(table.keys)} primary key column(s)")
        return {name: key}

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables with encrypted columns, in the order in which every call goes through them."""
        return tuple(table.name for table in self._chosen(()))

    def _walk(
        self,
        table: RawTable,
        size: int,
        progress: Callback | None,
        after: Resume | None,
        each: Callable[[RawRow], object],
        longest: int | None = None,
    ) -> None:
        total, done = (table.count(self._engine) if progress is not None else 0), 0
        for batch in table.rows(self._engine, size=size, after=(after or {}).get(table.name), longest=longest):
            for row in batch:
                each(row)
            done += len(batch)
            if progress is not None:
                progress(Progress(table.name, done, total, batch[-1].key))

    def _keys(self) -> tuple[Vault, str]:
        if self._vault is None or self._vault.keyring is None:
            raise ConfigError("no encryption key is configured; give the layer its encryption_keys")
        return self._vault, self._vault.keyring.active

    def _chosen(self, names: tuple[str, ...]) -> list[RawTable]:
        known = {table.fullname: table for table in self._tables()}
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{name!r} is no table with encrypted columns; there are {', '.join(known) or 'none'}"
                )
        return [RawTable(known[name]) for name in names or sorted(known)]

    def __repr__(self) -> str:
        return f"<Crypto {self._vault!r}>"


class _Tally:
    """Counts key ids, column by column."""

    def __init__(self, table: RawTable, active: str) -> None:
        self._table = table
        self._active = active
        self._keys: list[Counter[str | None]] = [Counter() for _ in table.columns]
        self._empty: Counter[int] = Counter()
        self._stale: Counter[int] = Counter()

    def add(self, row: RawRow) -> None:
        digests = iter(row.digests)
        for i, (column, text) in enumerate(zip(self._table.columns, row.texts, strict=True)):
            digest = next(digests) if column.blind is not None else None
            if text is None:
                self._empty[i] += 1
                continue
            found = _PREFIX.match(text)
            self._keys[i][found.group(1) if found else None] += 1
            if column.blind is not None and not (digest or "").startswith(self._active + "."):
                self._stale[i] += 1

    def columns(self) -> list[ColumnStatus]:
        made = []
        for i, column in enumerate(self._table.columns):
            keys = {key_id: n for key_id, n in sorted(self._keys[i].items(), key=str) if key_id is not None}
            readable = self._keys[i][None]
            made.append(
                ColumnStatus(self._table.name, column.place.column, keys, readable, self._empty[i], self._stale[i])
            )
        return made


class _Check:
    """Decrypts, and notes what does not."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.checked = self.failed = 0
        self.problems: list[Problem] = []

    def add(self, table: RawTable, row: RawRow) -> None:
        name = row_name(row.key) if any(c.by_row for c in table.columns) else b""
        digests = iter(row.digests)
        for column, text in zip(table.columns, row.texts, strict=True):
            digest = next(digests) if column.blind is not None else None
            if text is None:
                continue
            self.checked += 1
            reason = unreadable(self._vault, column, text, name)
            if reason is None and column.blind is not None:
                plain = self._vault.cipher(column.place).open(text, name if column.by_row else b"")
                if digest not in self._vault.digests(column.place).every(plain):
                    reason = (
                        "its blind index does not belong to it; rotate() does not repair that, writing it again does"
                    )
                del plain
            if reason is not None:
                self._note(table, column.place.column, row.key, key_id_of(text), reason)

    def _note(self, table: RawTable, column: str, key: Any, key_id: str | None, reason: str) -> None:
        self.failed += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(table.name, column, key, key_id, reason))

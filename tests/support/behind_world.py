"""A small world of queued writes for the kill test: models, a writer that runs in a process of its own, a checker.

The writer notes every call before it is made and after it has returned, each note in one unbuffered write, so that what
was acknowledged is known whenever it is killed. ``CLOCK_MONOTONIC`` is one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, DataLayer, WriteMode

KEYS = 40
OWNERS = 15
TALLIES = 5
POISON = -1


class Base(DeclarativeBase):
    __cache__ = CachePolicy(write_mode=WriteMode.BEHIND)


class Item(Base):
    __tablename__ = "wb_items"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[str]


class Owner(Base):
    __tablename__ = "wb_owners"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[str]


class Pet(Base):
    __tablename__ = "wb_pets"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner_id: Mapped[int] = mapped_column(ForeignKey("wb_owners.id"))
    value: Mapped[str]


class Tally(Base):
    __tablename__ = "wb_tallies"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    total: Mapped[int]


class Fussy(Base):
    """The database refuses negative numbers."""

    __tablename__ = "wb_fussy"
    __table_args__ = (sa.CheckConstraint("number >= 0", name="ck_fussy"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    value: Mapped[str]


class Notes:
    """What one writer did, in a file that survives it."""

    def __init__(self, path: Path, who: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._who = who
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"{self._who}.{self._count}"

    def submit(self, ops: list[tuple[str, str, int, str]]) -> None:
        """Operations (name, table, key, what they leave) that are about to be called."""
        self._write([["s", *op, time.monotonic()] for op in ops])

    def acknowledge(self, ops: list[tuple[str, str, int, str]]) -> None:
        moment = time.monotonic()
        self._write([["a", op[0], moment] for op in ops])

    def _write(self, rows: list[Any]) -> None:
        os.write(self._file, "".join(json.dumps(row) + "\n" for row in rows).encode())


def open_layer(url: str, redis: str | None, options: dict[str, Any]) -> DataLayer:
    return DataLayer(url, redis=redis, models=Base, **options)


def writer(url: str, redis: str | None, options: dict[str, Any], notes: Path, who: str, seed: str) -> None:
    """Write until killed."""
    rng, log = random.Random(seed), Notes(notes, who)
    layer = open_layer(url, redis, options)
    repositories = {model.__name__: layer.repository(model) for model in (Item, Owner, Pet, Tally, Fussy)}
    while True:
        ops, call = choose(rng, log, repositories)
        log.submit(ops)
        try:
            call()
        except Exception as error:  # it may have happened or not: not acknowledged
            print(who, type(error).__name__, str(error)[:100], file=sys.stderr, flush=True)
            time.sleep(0.02)
            continue
        log.acknowledge(ops)


def choose(rng: random.Random, log: Notes, of: dict[str, Any]) -> tuple[list[tuple[str, str, int, str]], Any]:
    kind = rng.random()
    if kind < 0.35:
        ops = [(log.name(), "Item", rng.randrange(KEYS), "") for _ in range(1)]
        items = [Item(id=key, value=name) for name, _, key, _ in ops]
        return [(n, t, k, n) for n, t, k, _ in ops], lambda: of["Item"].set_many(items)
    if kind < 0.5:
        keys = rng.sample(range(KEYS), 8)
        ops = [(log.name(), "Item", key, "") for key in keys]
        items = [Item(id=key, value=name) for name, _, key, _ in ops]
        return [(n, t, k, n) for n, t, k, _ in ops], lambda: of["Item"].set_many(items)
    if kind < 0.58:
        key = rng.randrange(KEYS)
        return [(log.name(), "Item", key, "")], lambda: of["Item"].delete(key)
    if kind < 0.80:
        key = rng.randrange(TALLIES)
        return [(log.name(), "Tally", key, "+1")], lambda: of["Tally"].increment(key, total=1)
    if kind < 0.95:
        return family(rng, log, of)
    key, name, bad = rng.randrange(KEYS), log.name(), rng.random() < 0.3
    fussy = Fussy(id=key, number=POISON if bad else 1, value=name)
    return [(name, "Fussy", key, "poison" if bad else name)], lambda: of["Fussy"].set(fussy)


def family(rng: random.Random, log: Notes, of: dict[str, Any]) -> tuple[list[tuple[str, str, int, str]], Any]:
    """A parent and its child, in the one order that foreign keys allow."""
    key = rng.randrange(OWNERS)
    first, second = log.name(), log.name()

    def call() -> None:
        of["Owner"].set(Owner(id=key, value=first))
        of["Pet"].set(Pet(id=key, owner_id=key, value=second))

    return [(first, "Owner", key, first), (second, "Pet", key, second)], call


# -- checking --------------------------------------------------------------------------------------------------------


@dataclass
class Op:
    name: str
    leaves: str
    submitted: float
    acknowledged: float | None = None

    @property
    def end(self) -> float:
        return math.inf if self.acknowledged is None else self.acknowledged


class History:
    """Everything that was noted."""

    def __init__(self, notes: list[Path]) -> None:
        self.ops: dict[tuple[str, int], list[Op]] = defaultdict(list)
        known: dict[str, Op] = {}
        for path in notes:
            for line in path.read_text().splitlines():
                try:
                    kind, name, *rest = json.loads(line)
                except ValueError:
                    continue  # the last line of one who was killed while writing it
                if kind == "s":
                    table, key, leaves, at = rest
                    known[name] = Op(name, leaves, at)
                    self.ops[table, key].append(known[name])
                else:
                    known[name].acknowledged = rest[0]
        self.acknowledged = sum(op.acknowledged is not None for op in known.values())

    def problems(self, rows: dict[tuple[str, int], Any]) -> list[str]:
        """What the rows in the database, by table and key, should not be."""
        found = []
        for (table, key), ops in self.ops.items():
            if table == "Tally":
                found += _miscounted(key, ops, rows.get((table, key)))
            else:
                ops = [op for op in ops if op.leaves != "poison"]
                found += _out_of_order(table, key, ops, rows.get((table, key), ""))
        return found


def _miscounted(key: int, ops: list[Op], total: Any) -> list[str]:
    sure = sum(op.acknowledged is not None for op in ops)
    if total is None or not sure <= total <= len(ops):
        return [f"Tally {key} is {total}, expected {sure} to {len(ops)}"]
    return []


def _out_of_order(table: str, key: int, ops: list[Op], value: str) -> list[str]:
    """The last value must be one that nothing acknowledged came after."""
    candidates = [op for op in ops if op.leaves == value]
    if not value:
        candidates.append(Op("nothing", "", -math.inf, -math.inf))
    latest = max((op.submitted for op in ops if op.acknowledged is not None), default=-math.inf)
    if any(latest <= op.end for op in candidates):
        return []
    newer = [op.name for op in ops if op.acknowledged is not None and op.submitted == latest]
    return [f"{table} {key} is {value or 'absent'}, but {newer} was acknowledged after that had been"]


def rows_of(layer: DataLayer) -> dict[tuple[str, int], Any]:
    """What the database itself says."""
    found: dict[tuple[str, int], Any] = {}
    with layer.engine.connect() as connection:
        for model in (Item, Owner, Pet, Fussy):
            for key, value in connection.execute(sa.select(model.id, model.value)):
                found[model.__name__, key] = value
        for key, total in connection.execute(sa.select(Tally.id, Tally.total)):
            found["Tally", key] = total
    return found


def shown_by(layer: DataLayer) -> dict[tuple[str, int], Any]:
    """What reads by key say."""
    found: dict[tuple[str, int], Any] = {}
    for model, count in ((Item, KEYS), (Owner, OWNERS), (Pet, OWNERS), (Fussy, KEYS)):
        for key, row in layer.repository(model).get_many(range(count)).items():
            found[model.__name__, key] = row.value
    for key, row in layer.repository(Tally).get_many(range(TALLIES)).items():
        found["Tally", key] = row.total
    return found


def summary(history: History) -> Counter[str]:
    return Counter(
        {table: sum(len(ops) for (t, _), ops in history.ops.items() if t == table) for table, _ in history.ops}
    )


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    writer(given["url"], given["redis"], given["options"], Path(given["notes"]), given["who"], given["seed"])

"""What one encrypted column costs, as a ratio to the same model without it, and how fast keys are rotated."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import DataLayer, column

Report = Callable[[str, str, str], None]

COUNT = 500
ROTATED = 20_000
OLD, NEW = {"k1": bytes(32)}, {"k2": bytes(range(32))}


class Base(DeclarativeBase):
    pass


class TenColumns:
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    city: Mapped[str] = mapped_column(String(100))
    age: Mapped[int]
    parent_id: Mapped[int | None]
    score: Mapped[float]
    active: Mapped[bool]
    created_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    updated_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))


class Bare(TenColumns, Base):
    __tablename__ = "bench_bare"
    email: Mapped[str] = column()


class Sealed(TenColumns, Base):
    __tablename__ = "bench_sealed"
    email: Mapped[str] = column(encrypted=True)


class Found(TenColumns, Base):
    __tablename__ = "bench_found"
    email: Mapped[str] = column(encrypted=True, blind_index=True, unique=True)


class Bound(TenColumns, Base):
    __tablename__ = "bench_bound"
    email: Mapped[str] = column(encrypted=True, bind="row")


KINDS: dict[str, Any] = {"bare": Bare, "sealed": Sealed, "blind index": Found, "bind row": Bound}


@pytest.fixture
def open_layer(place: Any) -> Iterator[Callable[..., DataLayer]]:
    layers: list[DataLayer] = []

    def opened(**options: Any) -> DataLayer:
        layers.append(DataLayer(place.url, models=Base, ttl_jitter=0.0, **{"encryption_keys": NEW, **options}))
        return layers[-1]

    filling = opened()
    Base.metadata.create_all(filling.engine)
    rows = [place.row(i) for i in range(COUNT)]
    with filling.engine.begin() as connection:
        for cls in KINDS.values():
            connection.execute(sa.insert(cls), rows)
    yield opened
    for layer in layers:
        layer.close()
    engine = sa.create_engine(place.url)
    Base.metadata.drop_all(engine)
    engine.dispose()


def _noted(times: Any, report: Report, what: str) -> None:
    for kind in list(KINDS)[1:]:
        report("C1", f"{what}: {kind} / bare", times.ratio(f"{what} {kind}", f"{what} bare"))


def _reads(layer: DataLayer, cls: Any, keys: list[str], before: Callable[[], object]) -> tuple[Callable[[], None], int]:
    get = layer.repository(cls).get

    def run() -> None:
        before()
        for key in keys:
            get(key)

    run()
    return run, len(keys)


def test_the_cost_of_reads(place: Any, times: Any, report: Report, open_layer: Any) -> None:
    keys = place.ids[:COUNT]
    local, shared = open_layer(), open_layer(redis=place.redis_url, key_prefix="crypto")

    def forget(layer: DataLayer) -> Callable[[], None]:
        return lambda: [ladder.clear_local() for ladder in layer.caches.ladders()] and None

    cases = {f"miss {kind}": _reads(local, cls, keys, forget(local)) for kind, cls in KINDS.items()}
    cases |= {f"L2 hit {kind}": _reads(shared, cls, keys, forget(shared)) for kind, cls in KINDS.items()}
    times.run(cases, rounds=9)
    warm = open_layer()
    times.run({f"L1 hit {kind}": _reads(warm, cls, keys, lambda: None) for kind, cls in KINDS.items()}, rounds=15)
    for what in ("L1 hit", "L2 hit", "miss"):
        _noted(times, report, what)
    assert sum(ladder.counts["l2_misses"] for ladder in shared.caches.ladders()) <= COUNT * len(KINDS)


def test_the_cost_of_writes(place: Any, times: Any, report: Report, open_layer: Any) -> None:
    layer = open_layer()
    rows = [place.row(i) for i in range(COUNT)]

    def upserts(cls: Any) -> tuple[Callable[[], None], int]:
        repository = layer.repository(cls)

        def run() -> None:
            for row in rows[:50]:
                repository.set(cls(**row))

        return run, 50

    def inserts(cls: Any) -> tuple[Callable[[], None], int]:
        def run() -> None:
            with layer.engine.begin() as connection:
                connection.execute(sa.delete(cls))
                connection.execute(sa.insert(cls), rows)

        return run, len(rows)

    times.run({f"write, one upsert {kind}": upserts(cls) for kind, cls in KINDS.items()}, rounds=7)
    times.run({f"write, 500 inserts {kind}": inserts(cls) for kind, cls in KINDS.items()}, rounds=7)
    for what in ("write, one upsert", "write, 500 inserts"):
        _noted(times, report, what)


def test_the_cost_of_unique_texts_while_keys_change(place: Any, times: Any, report: Report, open_layer: Any) -> None:
    rows = [place.row(i) for i in range(COUNT)]

    def upserts(layer: DataLayer) -> tuple[Callable[[], None], int]:
        repository = layer.repository(Found)

        def run() -> None:
            for row in rows[:50]:
                repository.set(Found(**row))

        return run, 50

    changing = {"one key": upserts(open_layer()), "two keys": upserts(open_layer(encryption_keys=NEW | OLD))}
    times.run(changing, rounds=7)
    report("C1", "unique upsert: two keys / one key", times.ratio("two keys", "one key"))


def test_the_speed_of_rotation(place: Any, report: Report, open_layer: Any) -> None:
    open_layer()
    with DataLayer(place.url, models=Base, encryption_keys=OLD) as old:
        for cls in KINDS.values():
            rows = [place.row(i) for i in range(ROTATED)]
            with old.engine.begin() as connection:
                connection.execute(sa.delete(cls))
                connection.execute(sa.insert(cls), rows)
    layer = open_layer(encryption_keys=NEW | OLD)
    for kind, cls in list(KINDS.items())[1:]:
        for what, call in (
            ("rotate", layer.crypto.rotate),
            ("status", layer.crypto.status),
            ("verify", layer.crypto.verify),
        ):
            began = time.perf_counter()
            assert call(cls.__tablename__).ok
            speed = ROTATED / (time.perf_counter() - began)
            report("C2", f"{what}: {kind}", f"{speed:10.0f} rows/s")

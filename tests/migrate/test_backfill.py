"""``layer.backfill``: some rows at a time, stopped and gone on with, and nobody reads an old row afterwards."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from migrate_support import rows
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import DataLayer, column
from datalayer.errors import ConfigError
from datalayer.migrate.backfill import _next_size


class Base(DeclarativeBase):
    pass


class Seat(Base):
    __tablename__ = "backfill_seats"
    hall: Mapped[str] = column(primary_key=True)
    number: Mapped[int] = column(primary_key=True)
    name: Mapped[str] = column()
    slug: Mapped[str | None] = column(nullable=True)


@pytest.fixture
def layer(any_url: str):  # type: ignore[no-untyped-def]
    with DataLayer(any_url, models=Base) as made:
        made.migrate()
        made.repository(Seat).set_many(
            Seat(hall=hall, number=i, name=f"{hall}:{i}") for hall in "AB" for i in range(30)
        )
        yield made


def test_a_column_is_filled_from_others_and_reads_see_it(layer: DataLayer) -> None:
    seats = layer.repository(Seat)
    assert seats.get_one(("A", 7)).slug is None  # cached now
    seats.update(("B", 1), slug="own")
    seen: list[tuple[str, int, int]] = []
    filled = layer.backfill(
        Seat.slug, sa.func.lower(Seat.name), batch_size=25, progress=lambda *told: seen.append(told)
    )
    assert filled == 59
    assert [done for _, done, _ in seen] == [25, 50, 60]
    assert seats.get_one(("A", 7)).slug == "a:7"
    assert seats.get_one(("B", 1)).slug == "own"
    assert layer.backfill(Seat.slug, "never") == 0


def test_it_goes_on_where_it_was_stopped(layer: DataLayer) -> None:
    def stop(text: str, done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer.backfill(Seat.slug, "x: 100%", batch_size=10, progress=stop)
    assert rows(layer.engine, "SELECT count(*) FROM backfill_seats WHERE slug IS NOT NULL") == [(20,)]
    assert layer.backfill(Seat.slug, "x: 100%", batch_size=10) == 40
    assert rows(layer.engine, "SELECT DISTINCT slug FROM backfill_seats") == [("x: 100%",)]


@pytest.mark.postgres
def test_several_at_once_fill_each_row_once(pg_url: str) -> None:
    with DataLayer(pg_url, models=Base) as layer:
        layer.migrate()
        layer.repository(Seat).set_many(Seat(hall="A", number=i, name="n") for i in range(200))
        filled: list[int] = []
        threads = [
            threading.Thread(target=lambda: filled.append(layer.backfill(Seat.slug, "s", batch_size=7)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(filled) == 200
    assert len(filled) == 3


def test_what_is_no_column_is_refused(layer: DataLayer) -> None:
    with pytest.raises(ConfigError, match=r"expected Model\.column"):
        layer.backfill("slug", 1)


def test_batches_shrink_where_rows_are_slow_and_grow_back() -> None:
    assert _next_size(500, 0.3, 5000) == 250
    assert _next_size(1, 5.0, 5000) == 1
    assert _next_size(500, 0.01, 5000) == 1000
    assert _next_size(4000, 0.01, 5000) == 5000
    assert _next_size(500, 0.06, 5000) == 500

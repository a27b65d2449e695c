"""An empty shared tier is not looked into before a lease is asked for; one that is not, is."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.testing.servers.cluster import wait_until


class Chilly(Model):
    __tablename__ = "chilly"
    id: Mapped[int] = column(primary_key=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_misses_in_a_row_save_the_look_and_a_hit_brings_it_back(
    pg_url: str, redis_url: str, key_prefix: str, batch: int
) -> None:
    options = {
        "redis": redis_url,
        "key_prefix": key_prefix,
        "models": [Chilly],
        "redis_timeout": 2.0,
        "fence_lease": 10.0,
    }
    with DataLayer(pg_url, **options) as layer, DataLayer(pg_url, **options) as other:  # type: ignore[arg-type]
        Chilly.metadata.create_all(layer.engine, tables=[Chilly.__table__])  # type: ignore[list-item]
        with layer.engine.begin() as connection:
            connection.execute(sa.insert(Chilly), [{"id": i} for i in range(3000)])
        rows, fresh = layer.repository(Chilly), itertools.count()
        ladder = layer.caches.prospect(rows._reader.schema)
        assert ladder is not None

        def cost(ids: list[int] | None = None) -> int:
            ids = ids or [next(fresh) for _ in range(batch)]
            before = layer._parts.l2.round_trips
            found = rows.get_many(ids) if batch > 1 else {ids[0]: rows.get(ids[0])}
            assert list(found) == ids
            return layer._parts.l2.round_trips - before

        wait_until("fills are granted", lambda: cost() and ladder._misses > 0, seconds=60)
        assert cost() == 2, "a look, and a lease"
        while ladder._misses < 32:
            cost()
        assert cost() == 1, "a lease"
        theirs = [2990 + i for i in range(batch)]
        wait_until(
            "it is filled", lambda: other.repository(Chilly).get_many(theirs) and kept(other, theirs), seconds=60
        )
        hits = ladder.counts["l2_hits"]
        assert cost(theirs) == 1
        assert ladder.counts["l2_hits"] - hits == batch
        assert cost() == 2


def kept(layer: DataLayer, ids: list[int]) -> bool:
    """Whether the shared tier has these rows."""
    (ladder,) = layer.caches.ladders()
    before = ladder.counts["l2_hits"]
    layer.repository(Chilly).get_many(ids, consistency="shared")
    return ladder.counts["l2_hits"] - before == len(ids)

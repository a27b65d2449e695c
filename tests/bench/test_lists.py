"""Cached lists of 100 rows beside the ORM's own query, ratios of one interleaved run; call counts are asserted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from datalayer import Q
from datalayer.testing.counting import Statements

Report = Callable[[str, str, str], None]


def test_lists_of_a_hundred_rows(place: Any, times: Any, report: Report) -> None:
    engine = sa.create_engine(place.url)
    layer = place.layer(redis=place.redis_url, ttl_jitter=0.0)
    users, ladder = layer.repository(place.User), None
    query = Q(place.User).where(place.User.age > 30).order_by("id").limit(100)
    statement = sa.select(place.User).where(place.User.age > 30).order_by(place.User.id).limit(100)
    results = layer.caches.results
    while results.counts["l2_hits"] == 0:  # stores are not waited for
        users.search_cached(query)
        results.l1.clear()
    ladder = layer.caches.ladders()[0]

    def orm() -> None:
        with Session(engine) as session:
            assert len(session.scalars(statement).all()) == 100

    def first_tier() -> None:
        assert len(users.search_cached(query)) == 100

    def second_tier() -> None:
        results.l1.clear()
        ladder.l1.clear()
        assert len(users.search_cached(query)) == 100

    with Statements(layer.engine) as statements:
        trips = layer._parts.l2.round_trips
        second_tier()
        assert (statements.taken(), layer._parts.l2.round_trips - trips) == (0, 2)
        first_tier()
        assert (statements.taken(), layer._parts.l2.round_trips - trips) == (0, 2)
        times.run({"orm": (orm, 1), "l1": (first_tier, 1), "l2": (second_tier, 1)}, rounds=60)
        assert statements.taken() == 0
    report("P7", "list of 100 from L1 / the ORM's query     (target < 1)", times.ratio("l1", "orm"))
    report("P7", "list of 100 from L2 / the ORM's query     (target < 1)", times.ratio("l2", "orm"))
    layer.close()
    engine.dispose()

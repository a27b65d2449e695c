"""What it costs that statements are timed, and metrics told, as a ratio to a layer that does neither."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import sqlalchemy as sa

from datalayer import DataLayer
from datalayer.observe.metrics import NullRecorder

Report = Callable[[str, str, str], None]

QUIET: dict[str, Any] = {"slow_query": 0, "query_stats": False}
HITS, READS, QUERIES = 5000, 300, 60


def hits(layer: DataLayer, place: Any) -> Callable[[], None]:
    get, (id, *_) = layer.repository(place.User).get, place.ids

    def run() -> None:
        for _ in range(HITS):
            get(id)

    return run


def reads(layer: DataLayer, place: Any) -> Callable[[], None]:
    get = layer.repository(place.User).get

    def run() -> None:
        for id in place.ids[:READS]:
            get(id, consistency="database")

    return run


def queries(layer: DataLayer, place: Any) -> Callable[[], None]:
    def run() -> None:
        for id in place.ids[:QUERIES]:
            with layer.session() as session:
                session.execute(sa.select(place.User.name).where(place.User.id == id)).all()

    return run


def test_observation_is_cheap(place: Any, times: Any, report: Report) -> None:
    options = {"quiet": QUIET, "default": {}, "metrics": {"metrics": NullRecorder()}}
    with ExitStack() as stack:
        layers = {name: stack.enter_context(place.layer(**given)) for name, given in options.items()}
        kinds = {"L1 hit": (hits, HITS), "driver read": (reads, READS), "session query": (queries, QUERIES)}
        for what, (make, count) in kinds.items():
            times.run({f"{what} {name}": (make(layer, place), count) for name, layer in layers.items()}, rounds=9)
            for name in ("default", "metrics"):
                report("", f"{what}, {name}, to one without", times.ratio(f"{what} {name}", f"{what} quiet"))
    assert times.wall["driver read default"] < times.wall["driver read quiet"] * 1.1

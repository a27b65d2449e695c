"""The session class that SQLAlchemy's own test suite is run with: every engine gets a layer without being asked.

``ORACLE_MODE=cold`` makes every look-up miss, so that each eligible read goes through our own loading and hydration;
``warm`` serves real hits.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import sqlalchemy as sa

from ..layer import DataLayer
from ..session.session import Session

_layers: list[DataLayer] = []
_totals: Counter[str] = Counter()


class OracleSession(Session):
    """``datalayer.Session`` on a layer of its own making, wherever the suite writes ``Session``."""

    def __init__(self, bind: Any = None, **options: Any) -> None:
        engine = _engine_of(bind, options.get("binds"))
        super().__init__(bind, layer=_layer_for(engine) if engine is not None else None, **options)


def _engine_of(bind: Any, binds: Any) -> sa.Engine | None:
    candidates = [bind, *(binds or {}).values()]
    return next((c for c in candidates if type(c) is sa.Engine), None)


def _layer_for(engine: sa.Engine) -> DataLayer:
    layer: DataLayer | None = engine.__dict__.get("_datalayer_oracle")
    if layer is None:
        layer = engine.__dict__["_datalayer_oracle"] = DataLayer(engine=engine)
        _layers.append(layer)
    return layer


def reset() -> None:
    """Forget every cached row and every class: the next test maps new ones to the same names."""
    for layer in _layers:
        _tally(layer)
        layer.caches.forget_everything()


def _tally(layer: DataLayer) -> None:
    for ladder in layer.caches.ladders():
        _totals.update(ladder.counts)
        _totals["l1_hits"] += ladder.l1.hits


def REPORT() -> dict[str, int]:
    """What the layers did since the run began."""
    for layer in _layers:
        _tally(layer)
    return dict(_totals)


if os.environ.get("ORACLE_MODE", "warm") == "cold":
    from ..tiers.near import Near

    Near.look = lambda self, schema, key: None  # type: ignore[method-assign]

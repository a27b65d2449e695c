"""The results of cached queries, as a layer keeps them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from ..codecs.entry import EntryCodec
from ..codecs.registry import codec_named
from ..coherence.flights import Flights
from ..coherence.local import Coherence
from ..coherence.touched import table_tag, vague_tag, value_tag
from ..config.settings import Settings
from ..contracts.clock import Clock
from ..models.policy import CachePolicy
from ..models.registry import Registry
from ..session.results import Namer, Results
from ..tiers.needs import FOREVER
from .keys import result_secret
from .ladders import beside, make_l1
from .shared import Shared


def make_results(
    settings: Settings,
    engine: sa.Engine,
    shared: Shared | None,
    coherence: Coherence,
    registry: Registry,
    clock: Clock,
    hides_rows: Callable[[sa.Table], bool],
) -> Results:
    def secured(name: str) -> bool:
        if settings.cache_scope is not None:
            return False
        return any(hides_rows(m.tables[name]) for m in registry.watched if name in m.tables)

    return Results(
        l1=make_l1(settings, engine, CachePolicy(), clock),
        tags=coherence.tags,
        namer=Namer(table_tag, vague_tag, value_tag),
        shared=shared.results if shared is not None else None,
        horizon=shared.authority.horizon if shared is not None else FOREVER,
        beside=beside(settings, shared),
        entries=EntryCodec(mac_key=settings.l2_mac_key, max_bytes=settings.max_value_bytes),
        codec=codec_named(settings.codec),
        secret=partial(result_secret, settings, engine),
        dialect=engine.dialect,
        known=lambda: registry.watched,
        secured=secured,
        flights=Flights(),
    )

"""Puts the parts of a layer together."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import sqlalchemy as sa

from ..coherence.local import Coherence
from ..coherence.notices import Notices
from ..coherence.strict import Strict
from ..config.settings import Settings
from ..contracts.clock import Clock, SystemClock
from ..contracts.levels import Levels
from ..contracts.tier import SharedTier
from ..models.policy import WriteMode
from ..models.registry import Registry
from ..models.sealed import row_sealing
from ..observe.careful import CarefulRecorder
from ..session.caches import Caches
from ..session.catalog import Catalog
from ..session.images import Imager
from ..session.writes import WriteTracker
from ..tiers.engines import reading_engine, watch_statements
from ..tiers.failures import Failures
from ..tiers.images import images_of
from ..tiers.l3 import row_security
from ..tiers.needs import FOREVER
from ..tiers.null import NullTier
from ..tiers.pool import Janitor
from ..tiers.watchdog import Watchdog
from ..tiers.within import Within
from .behind import lazy_behind
from .engines import open_replica, open_url
from .keys import attach_vault, make_vault, page_secret
from .known import Discovery, key_types, table_names
from .ladders import LadderMaker
from .parts import Parts
from .replicas import Replicas
from .results import make_results
from .shared import open_shared
from .watching import explain_slow, listen_outside, report_to, time_statements


def build(settings: Settings, engine: sa.Engine | None, models: Any) -> Parts:
    """Make the parts of a layer. Connects to nothing: a server that is away now may be there at the first read."""
    clock: Clock = settings.clock or SystemClock()
    vault = make_vault(settings)
    registry = Registry(
        models,
        allow_plaintext=settings.allow_plaintext,
        has_keys=bool(settings.encryption_keys),
        write_mode=settings.write_mode,
        scoped=settings.cache_scope is not None,
    )
    owned, folder = engine is None, None
    if engine is None:
        engine, folder = open_url(settings, settings.url, clock)
    explaining = explain_slow(settings, engine)
    watchdog = Watchdog(settings.statement_timeout * 1.5 if settings.statement_timeout else 0.0, clock)
    failures: Counter[str] = Counter()
    levels = Levels()
    coherence = Coherence(discover=lambda: discover(), tables=lambda: table_names(registry))
    reading = None
    if engine.dialect.name == "postgresql" and engine.dialect.driver == "psycopg":
        reading = reading_engine(engine)
        if owned:
            watch_statements(engine, watchdog)
    shared = open_shared(settings, clock, failures, coherence, engine if reading is not None else None, watchdog)
    l2: SharedTier = shared.tier if shared is not None else NullTier()
    rules = attach_vault(vault, engine, reading)
    notices = Notices(reading, coherence) if reading is not None else None
    recorder = CarefulRecorder(settings.metrics) if settings.metrics is not None and settings.enable_metrics else None
    catalog = Catalog(lambda: registry.watched)
    tracker = WriteTracker(engine, coherence, catalog, key_types(registry), behind=registry.behind_tables)
    maker = LadderMaker(settings, engine, shared, coherence, clock, partial(row_sealing, vault=vault), notices)
    maker.recorder = recorder
    maker.announcements = announcements = listen_outside(settings, shared, coherence, lambda: discover())
    caches = Caches(
        engine,
        tracker=tracker,
        forget=coherence.forget,
        levels=levels,
        make=maker,
        member=registry.__contains__,
        row_security=partial(row_security, reading or engine),
        page_secret=partial(page_secret, settings, engine),
        failures=failures,
        watching=watchdog.watching,
        results=make_results(
            settings, engine, shared, coherence, registry, clock, lambda table: caches.hides_rows(table)
        ),
    )
    discover = Discovery(registry, caches)
    maker.behind = behind = lazy_behind(settings, engine, shared, registry, caches)
    tracker.imager = imager = Imager(
        caches, partial(images_of, engine=engine, reading=reading), WriteMode(settings.write_mode)
    )
    catalog.listeners += (caches.forget_catalog, imager.forget)
    tracker.install()
    janitor = Janitor([e for e in (engine, reading) if owned and e is not None], settings.pool_health_check_period)
    caches.scoped = settings.cache_scope is not None
    if settings.stale_on_error:
        from ..tiers.stale import Stale

        vouched = shared.authority.bus.vouched if shared and isinstance(shared.authority, Strict) else FOREVER
        caches.stale = Stale(settings.stale_on_error, clock.monotonic, vouched)
    translator = Failures(engine)
    translator.install()
    timing = time_statements(settings, engine, reading, recorder)
    heard = len(engine.dispatch.before_cursor_execute)
    if reading is not None:
        make = timing.statement if timing is not None else None
        caches.within = Within(engine, watchdog.watching, own_listeners=heard, make=make)
    return Parts(
        engine,
        reading,
        owned,
        folder,
        registry,
        coherence,
        tracker,
        translator,
        janitor,
        caches,
        l2,
        shared.authority if shared is not None else None,
        watchdog,
        clock,
        failures,
        Replicas(
            partial(open_replica, settings, engine, coherence, vault, timing, recorder, clock), settings.read_replica
        ),
        heard,
        vault,
        rules,
        behind,
        notices,
        recorder,
        report_to(recorder, caches, failures, settings),
        timing,
        explaining,
        announcements,
    )

"""Who looks at a layer's servers, or tells others what was seen; each is there only if the settings ask for it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ..coherence.local import Coherence
from ..config.settings import Settings
from ..contracts.observe import MetricsRecorder
from ..observe.careful import CarefulRecorder
from ..session.caches import Caches
from .shared import Shared

if TYPE_CHECKING:
    from ..tiers.explaining import AutoExplain
    from ..tiers.l2.announced import Announcements
    from ..tiers.report import Report
    from ..tiers.timing import Timing

log = logging.getLogger("datalayer")


def report_to(
    recorder: CarefulRecorder | None, caches: Caches, failures: Counter[str], settings: Settings
) -> Report | None:
    if recorder is None:
        return None
    from ..tiers.report import Report

    return Report(recorder, caches.ladders, failures, settings.metrics_interval)


def listen_outside(
    settings: Settings, shared: Shared | None, coherence: Coherence, discover: Callable[[], object]
) -> Announcements | None:
    """Who listens to outside programs, if the application has said that there are any."""
    if shared is None or not (settings.invalidation_channel or settings.invalidation_patterns):
        return None
    from ..tiers.l2.announced import Announcements

    def models() -> list[Any]:
        discover()
        return coherence.spaces()

    channel, patterns = settings.effective_invalidation_channel(), settings.invalidation_patterns
    return Announcements(shared.wire, channel, patterns, models, coherence.forget)


def explain_slow(settings: Settings, engine: sa.Engine) -> AutoExplain | None:
    if not settings.auto_explain:
        return None
    if engine.dialect.name != "postgresql":
        log.warning("auto_explain is set and does nothing: it is PostgreSQL's, this is %s", engine.dialect.name)
        return None
    from ..tiers.explaining import AutoExplain

    explaining = AutoExplain(
        engine,
        least=settings.auto_explain_min_duration,
        analyze=settings.auto_explain_analyze,
        buffers=settings.auto_explain_buffers,
        timing=settings.auto_explain_timing,
    )
    explaining.install()
    return explaining


def time_statements(
    settings: Settings, engine: sa.Engine, reading: sa.Engine | None, recorder: MetricsRecorder | None
) -> Timing | None:
    """Times statements if anybody wants to know; else there is nothing to pay for."""
    statements = None
    keeps = settings.query_stats or (settings.slow_query and settings.slow_query_log)
    if not keeps and recorder is None:
        return None
    from ..observe.statements import Statements
    from ..tiers.timing import Timing

    if keeps:
        statements = Statements(
            slow=settings.slow_query,
            log_slow=settings.slow_query_log,
            keep=settings.query_stats,
            mysql=engine.dialect.name in ("mysql", "mariadb"),
        )
    timing = Timing(engine, reading, statements, recorder)
    timing.install()
    return timing

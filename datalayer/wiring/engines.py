"""The engines of a layer, opened as its settings say."""

from __future__ import annotations

import logging
import tempfile
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..coherence.local import Coherence
from ..config.settings import Settings
from ..contracts.clock import Clock
from ..contracts.observe import MetricsRecorder
from ..crypto.vault import Vault, attach
from ..tiers.breaker import Breaker
from ..tiers.connecting import Connecting
from ..tiers.engines import open_engine
from ..tiers.failures import Failures
from .replicas import Copy

if TYPE_CHECKING:
    from ..tiers.timing import Timing

log = logging.getLogger("datalayer.l3")


def open_url(
    settings: Settings, url: str | None, clock: Clock
) -> tuple[sa.Engine, tempfile.TemporaryDirectory[str] | None]:
    engine, folder = open_engine(
        url or "",
        pool_size=settings.pool_size,
        pool_timeout=settings.pool_timeout,
        pool_max_lifetime=settings.pool_max_lifetime,
        pool_max_lifetime_jitter=settings.pool_max_lifetime_jitter,
        pool_min=settings.pool_min,
        pool_max_idle=settings.pool_max_idle,
        pool_pre_ping=settings.pool_pre_ping,
        connect_timeout=settings.connect_timeout,
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    )
    if engine.dialect.name != "sqlite":
        breaker = Breaker(
            settings.breaker_failures,
            settings.breaker_reset,
            clock.monotonic,
            log=log,
            opened=f"connections to {engine.url.database!r} are not asked for until it answers",
            closed=f"the server of {engine.url.database!r} answers again",
        )
        Connecting(engine, breaker)
    return engine, folder


def open_replica(
    settings: Settings,
    primary: sa.Engine,
    coherence: Coherence,
    vault: Vault | None,
    timing: Timing | None,
    recorder: MetricsRecorder | None,
    clock: Clock,
    url: str,
) -> Copy:
    """A read-only copy of ``primary``."""
    from ..tiers.replica import Replica
    from ..tiers.timing import Timing

    engine, folder = open_url(settings, url, clock)
    if vault is not None:
        attach(engine.dialect, vault)
        engine.hide_parameters = True
    Failures(engine).install()
    if timing is not None:
        Timing(engine, None, timing.statements, recorder).install()
    return Copy(Replica(engine, primary, lambda: coherence.finished), folder, sealed=vault is not None)

"""The engines of a layer, opened as its settings say."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..coherence.local import Coherence
from ..config.settings import Settings
from ..contracts.observe import MetricsRecorder
from ..crypto.vault import Vault, attach
from ..tiers.engines import open_engine
from ..tiers.failures import Failures
from .parts import ReplicaParts

if TYPE_CHECKING:
    from ..tiers.timing import Timing


def open_url(settings: Settings, url: str | None) -> tuple[sa.Engine, tempfile.TemporaryDirectory[str] | None]:
    return open_engine(
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


def open_replica(
    settings: Settings,
    primary: sa.Engine,
    coherence: Coherence,
    vault: Vault | None,
    timing: Timing | None,
    recorder: MetricsRecorder | None,
) -> ReplicaParts | None:
    if settings.read_replica is None:
        return None
    from ..tiers.replica import Replica
    from ..tiers.timing import Timing

    engine, folder = open_url(settings, settings.read_replica)
    if vault is not None:
        attach(engine.dialect, vault)
        engine.hide_parameters = True
    Failures(engine).install()
    if timing is not None:
        Timing(engine, None, timing.statements, recorder).install()
    return ReplicaParts(Replica(engine, primary, lambda: coherence.finished), folder, sealed=vault is not None)

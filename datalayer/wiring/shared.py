"""What a layer with Redis has besides: the shared tier, and who vouches for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..coherence.ledger import Ledger
from ..coherence.local import Coherence
from ..coherence.loose import Loose
from ..coherence.strict import Strict
from ..coherence.touched import home
from ..config.settings import Settings
from ..contracts.clock import Clock
from ..contracts.results import SharedResults
from ..contracts.tier import SharedTier
from ..tiers.breaker import Breaker
from ..tiers.engines import reading_engine
from ..tiers.watchdog import Watchdog


@dataclass(slots=True)
class Shared:
    """What a layer with Redis has besides."""

    tier: SharedTier
    results: SharedResults
    authority: Strict | Loose
    overlay: Any
    wire: Any


def open_shared(
    settings: Settings,
    clock: Clock,
    failures: Counter[str],
    coherence: Coherence,
    postgres: sa.Engine | None,
    watchdog: Watchdog,
) -> Shared | None:
    """The shared tier and its authority: the whole protocol on PostgreSQL, the loose one on any other database."""
    if not settings.redis:
        return None
    from ..tiers.l2 import (  # redis-py, only where it is used
        RedisBackplane,
        RedisOverlay,
        RedisResults,
        RedisTier,
        Subscriber,
        Wire,
        topology_of,
    )

    wire = Wire(
        topology_of(settings.redis, timeout=settings.redis_timeout, most=settings.redis_pool_size),
        prefix=settings.key_prefix,
        retries=settings.redis_retries,
        breaker=Breaker(settings.breaker_failures, settings.breaker_reset, clock.monotonic),
        on_error=lambda reason: failures.update((reason,)),
    )
    backplane = RedisBackplane(wire, home)
    authority: Strict | Loose
    if postgres is None:
        authority = Loose(backplane, clock.monotonic)
    else:
        authority = Strict(
            Ledger(reading_engine(postgres, size=2), watchdog.watch, watchdog.release),
            backplane,
            Subscriber(wire),
            coherence,
            fence_lease=settings.fence_lease,
            bus_lease=settings.l1_lease,
            policy=settings.mark_policy,
            clock=clock.monotonic,
            settle=coherence.settle,
            label=hashlib.blake2b(settings.key_prefix.encode(), digest_size=2).hexdigest(),
        )
    coherence.remote = authority
    return Shared(RedisTier(wire, authority), RedisResults(wire, authority, home), authority, RedisOverlay(wire), wire)

"""Makes the ladder of each root class from the settings and the class's policy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ..codecs.entry import EntryCodec
from ..codecs.registry import codec_named
from ..coherence.flights import Flights
from ..coherence.guard import Guard
from ..coherence.local import Coherence
from ..coherence.notices import Notices
from ..config.settings import Settings
from ..contracts.cipher import RowSealing
from ..contracts.clock import Clock
from ..contracts.keys import key_text
from ..contracts.observe import MetricsRecorder
from ..contracts.tier import SharedTier
from ..models.behind import write_mode_of
from ..models.policy import CachePolicy, WriteMode
from ..models.schema import Schema
from ..tiers.l1 import L1
from ..tiers.ladder import Ladder
from ..tiers.needs import FOREVER, Lives
from ..tiers.null import NullTier
from .behind import LazyBehind
from .shared import Shared

if TYPE_CHECKING:
    from ..tiers.l2.announced import Announcements


class LadderMaker:
    """Makes the ladder of a root class from the settings and the class's policy, and announces it to coherence."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        shared: Shared | None,
        coherence: Coherence,
        clock: Clock,
        sealing: Callable[[Schema], RowSealing | None],
        notices: Notices | None,
    ) -> None:
        self._settings = settings
        self._l2 = shared.tier if shared is not None else NullTier()
        self._horizon = shared.authority.horizon if shared is not None else FOREVER
        self._beside = beside(settings, shared)
        self._coherence = coherence
        self._sealing = sealing
        self.behind: LazyBehind | None = None
        self.recorder: MetricsRecorder | None = None
        self.announcements: Announcements | None = None
        self._notices = notices
        self._codec = codec_named(settings.codec)
        self._entries = EntryCodec(mac_key=settings.l2_mac_key, max_bytes=settings.max_value_bytes)
        self._l1 = partial(make_l1, settings, engine, clock=clock)

    def __call__(self, schema: Schema) -> Ladder:
        settings, policy = self._settings, schema.policy
        l1 = self._l1(policy=policy)
        ladder = Ladder(
            schema,
            l1=l1,
            lookups=self._l1(policy=policy),
            l2=self._l2_of(schema),
            guard=Guard(l1),
            codec=self._codec,
            entries=self._entries,
            lives=Lives(
                l2=first(policy.l2.ttl, settings.l2_ttl),
                negative=first(policy.negative_ttl, settings.negative_ttl),
                use_l1=policy.l1.enabled,
                use_l2=policy.l2.enabled,
                beside=self._beside,
            ),
            key_text=key_text,
            scope=policy.cache_scope or settings.cache_scope,
            prefix=policy.l2.key_prefix,
            horizon=self._horizon,
            flights=Flights(),
            sealing=self._sealing,
            eager=(policy.write_mode or WriteMode(settings.write_mode)) is WriteMode.THROUGH,
        )
        if self.behind is not None and write_mode_of(schema.mapper, settings.write_mode) is WriteMode.BEHIND:
            from ..writes.backlog import Backlog  # only where something is written behind

            ladder.overlays.backlog = Backlog(self.behind(), ladder.space)
        self._coherence.register(ladder)
        if self.announcements is not None:
            self.announcements.start()
        if policy.external_writes and self._notices is not None:
            self._notices.watch(schema.space, schema.key_types)
        return ladder

    def _l2_of(self, schema: Schema) -> SharedTier:
        if self.recorder is None or not self._l2.enabled:
            return self._l2
        from ..tiers.metered import MeteredTier  # only where somebody measures

        life = first(schema.policy.l2.ttl, self._settings.l2_ttl)
        return MeteredTier(self._l2, self.recorder, schema.root.__name__, life)


def beside(settings: Settings, shared: Shared | None) -> float | None:
    """How long L1 serves what was read without a look at other processes' marks; None where nobody marks."""
    return settings.l1_lease if shared is not None and shared.authority.strict else None


def first(own: Any, default: float) -> float:
    return float(default if own is None else own)


def make_l1(settings: Settings, engine: sa.Engine, policy: CachePolicy, clock: Clock) -> L1:
    eviction = policy.l1.eviction
    ttl = settings.effective_l1_ttl(has_redis=bool(settings.redis), multi_process_db=engine.dialect.name != "sqlite")
    return L1(
        max_entries=policy.l1.max_entries or settings.l1_max_entries,
        max_bytes=policy.l1.max_bytes or settings.l1_max_bytes,
        ttl=first(policy.l1.ttl, ttl),
        eviction=str(getattr(eviction, "value", eviction)) if eviction else settings.l1_eviction,
        jitter=settings.ttl_jitter,
        clock=clock.monotonic,
        linger=settings.stale_on_error or 0.0,
    )

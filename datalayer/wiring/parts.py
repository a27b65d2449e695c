"""What a layer is made of."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..coherence.local import Coherence
from ..coherence.loose import Loose
from ..coherence.notices import Notices
from ..coherence.strict import Strict
from ..contracts.clock import Clock
from ..contracts.tier import SharedTier
from ..crypto.vault import Vault
from ..models.registry import Registry
from ..observe.careful import CarefulRecorder
from ..session.caches import Caches
from ..session.writes import WriteTracker
from ..tiers.failures import Failures
from ..tiers.pool import Janitor
from ..tiers.watchdog import Watchdog
from .behind import LazyBehind
from .replicas import Replicas

if TYPE_CHECKING:
    from ..crypto.statements import StatementRules
    from ..tiers.explaining import AutoExplain
    from ..tiers.l2.announced import Announcements
    from ..tiers.report import Report
    from ..tiers.timing import Timing
    from ..writes.behind import Behind


@dataclass(slots=True)
class Parts:
    """Everything that a layer is made of. ``owned``: the engine is ours to dispose of."""

    engine: sa.Engine
    reading: sa.Engine | None
    owned: bool
    folder: tempfile.TemporaryDirectory[str] | None
    registry: Registry
    coherence: Coherence
    tracker: WriteTracker
    translator: Failures
    janitor: Janitor
    caches: Caches
    l2: SharedTier
    authority: Strict | Loose | None
    watchdog: Watchdog
    clock: Clock
    failures: Counter[str]
    replicas: Replicas
    statement_listeners: int = 0
    vault: Vault | None = None
    rules: StatementRules | None = None
    behind: LazyBehind | None = None
    notices: Notices | None = None
    recorder: CarefulRecorder | None = None
    report: Report | None = None
    timing: Timing | None = None
    explaining: AutoExplain | None = None
    announcements: Announcements | None = None

    @property
    def queue(self) -> Behind | None:
        """The write-behind, if anybody has asked for it."""
        return self.behind.made if self.behind is not None else None

"""How a layer writes behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BehindOptions:
    """``interval`` seconds between flushes, ``threshold`` queued writes that start one early, ``max_retry`` repetitions
    of a refused write, ``backlog`` most queued writes; ``journal``, ``path`` and ``allow_unsafe`` as in Settings."""

    interval: float = 0.5
    threshold: int = 100
    max_retry: int = 5
    backlog: int = 100_000
    journal: str | None = None
    path: Path | None = None
    allow_unsafe: bool = False
    prefix: str = "dl"
    may_revoke: bool = True

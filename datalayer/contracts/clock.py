"""Time as a value that is passed in."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """``monotonic`` decides every deadline; ``now`` (aware, UTC) is only ever stored in rows. Thread-safe."""

    def monotonic(self) -> float: ...

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    # The bound C function itself, so that a hot path may hold it without a Python frame.
    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)

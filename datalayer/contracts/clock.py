"""Time as a value that is passed in."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Protocol


def _boottime() -> Callable[[], float]:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic
    return partial(time.clock_gettime, time.CLOCK_BOOTTIME)


#: Seconds since the machine started, the time it was suspended included: what leases are measured with. Falls back to
#: ``time.monotonic`` where there is no such clock.
boottime: Callable[[], float] = _boottime()


class Clock(Protocol):
    """``monotonic`` decides every deadline; ``now`` (aware, UTC) is only ever stored in rows. Thread-safe."""

    def monotonic(self) -> float: ...

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    # The C function itself, so that a hot path may hold it without a Python frame.
    monotonic = staticmethod(boottime)

    def now(self) -> datetime:
        return datetime.now(UTC)

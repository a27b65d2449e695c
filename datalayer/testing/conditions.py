"""What a proxy does to the bytes at the moment: shared by all its connections, changed by the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Side = Literal["request", "reply"]


class Mode(Enum):
    PASS = "pass"
    HOLD = "hold"
    BLACKHOLE = "blackhole"
    RESET = "reset"


class Verdict(Enum):
    """What shall become of a chunk."""

    PASS = "pass"
    LOSE = "lose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a connection breaks; see ``TcpProxy.cut``."""

    pattern: bytes
    side: Side
    keep_match: bool
    answered: bool

    def end_in(self, past: bytes, data: bytes) -> int | None:
        """How many bytes of ``data`` may still go when the pattern ends in it; None when it does not."""
        overlap = past[max(0, len(past) - len(self.pattern) + 1) :]
        found = (overlap + data).find(self.pattern)
        if found < 0:
            return None
        return max(0, found - len(overlap) + (len(self.pattern) if self.keep_match else 0))


class Conditions:
    """Mode, delay and armed cut, with one condition variable that is notified at every change. Thread-safe."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.mode = Mode.PASS
        self.delay = 0.0
        self.cuts = 0
        self.closed = False
        self._cut: Cut | None = None

    def set(self, mode: Mode, *, delay: float = 0.0) -> None:
        with self.changed:
            self.mode, self.delay = mode, delay
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def arm(self, cut: Cut) -> None:
        with self.changed:
            self._cut = cut

    def struck(self) -> None:
        with self.changed:
            self.cuts += 1
            self.changed.notify_all()

    def admit(self, is_dead: Callable[[], bool]) -> Verdict:
        """Wait as long as the mode and the delay demand, or until the connection is dead; say what comes next."""
        with self.changed:
            self._sleep(self.delay, is_dead)
            self.changed.wait_for(lambda: self.mode is not Mode.HOLD or is_dead() or self.closed)
            return Verdict.LOSE if self.mode is Mode.BLACKHOLE or is_dead() else Verdict.PASS

    def match(self, side: Side, past: bytes, data: bytes) -> tuple[Cut, int] | None:
        """Disarm and return the cut that ``data`` sets off, with how many of its bytes may still go."""
        with self.changed:
            cut = self._cut
            if cut is None or cut.side != side or (end := cut.end_in(past, data)) is None:
                return None
            self._cut = None
            return cut, end

    def _sleep(self, seconds: float, is_dead: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not is_dead() and not self.closed:
            self.changed.wait(left)

"""A circuit breaker: after a few failures in a row a dead server costs nothing until it is time to try again."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

_REDIS = logging.getLogger("datalayer.l2")


class Breaker:
    """Closed (calls pass), open (calls are refused), half open (one call probes). Thread-safe; closed costs no lock.

    ``failures`` in a row open it; ``reset`` seconds later, with jitter, one caller may try. ``opened`` and ``closed``
    are what ``log`` is told then.
    """

    def __init__(
        self,
        failures: int,
        reset: float,
        clock: Callable[[], float],
        *,
        log: logging.Logger = _REDIS,
        opened: str = "the shared cache is passed by until Redis answers",
        closed: str = "Redis answers again; the shared cache is in use",
    ) -> None:
        self._log, self._opened, self._closed = log, opened, closed
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._retry_at: float | None = None

    @property
    def open(self) -> bool:
        return self._retry_at is not None

    @property
    def failed(self) -> int:
        """Failures in a row until now."""
        return self._failed

    def allow(self) -> bool:
        """Whether a call may be made now."""
        if self._retry_at is None:
            return True
        with self._lock:
            if self._retry_at is None:
                return True
            if self._clock() < self._retry_at:
                return False
            self._schedule()  # this caller probes; the others wait for what it finds
            return True

    def success(self) -> None:
        if not self._failed:
            return
        with self._lock:
            was_open, self._retry_at, self._failed = self.open, None, 0
        if was_open:
            self._log.warning(self._closed)

    def failure(self) -> bool:
        """Count a failure; True when it opened the breaker."""
        with self._lock:
            self._failed += 1
            if self._failed < self._limit:
                return False
            opened = not self.open
            self._schedule()
        if opened:
            self._log.warning("%d failures in a row: %s", self._limit, self._opened)
        return opened

    def _schedule(self) -> None:
        self._retry_at = self._clock() + self._reset * (0.75 + 0.5 * random.random())

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._failed, self._retry_at = 0, None

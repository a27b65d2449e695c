"""Single-flight: of the threads of one process that miss the same key, one asks below and the others wait for it.

A follower never takes the leader's row, whose reading may have begun before the follower's did; it looks again in the
tiers, where the leader has just put it. So a flight saves work and weakens nothing. Nobody waits longer than
``patience`` seconds, and a leader that dies of anything releases its followers.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable


class Flights:
    """Who is in the air for which key. Thread-safe."""

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._leaders: dict[Hashable, threading.Event] = {}
        self.followed = 0

    def lead(self, key: Hashable) -> bool:
        """True for the leader, who must call :meth:`land`; a follower gets False when the leader has landed."""
        with self._lock:
            landed = self._leaders.get(key)
            if landed is None:
                self._leaders[key] = threading.Event()
                return True
            self.followed += 1
        landed.wait(self._patience)
        return False

    def land(self, key: Hashable) -> None:
        with self._lock:
            landed = self._leaders.pop(key)
        landed.set()

    def reset_after_fork(self) -> None:
        """The parent's threads are not here to land."""
        self._lock = threading.Lock()
        self._leaders = {}

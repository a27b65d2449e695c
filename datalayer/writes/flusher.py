"""The thread that flushes: it holds its owner weakly, survives every exception, and waits longer after failures."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol

from .failures import pause_after

log = logging.getLogger("datalayer.writes")


class Flushing(Protocol):
    """What the thread needs of its owner."""

    def turn(self) -> int: ...


def start_flusher(owner: Flushing, interval: float, wake: threading.Event, stop: threading.Event) -> threading.Thread:
    """Start it. ``interval`` seconds between turns, unless ``wake`` is set; until ``stop`` is."""
    thread = threading.Thread(
        target=_run, args=(weakref.ref(owner), interval, wake, stop), name="datalayer-flusher", daemon=True
    )
    thread.start()
    return thread


def _run(owner: weakref.ref[Flushing], interval: float, wake: threading.Event, stop: threading.Event) -> None:
    failures = 0
    while not stop.is_set():
        wake.wait(interval if not failures else max(interval, pause_after(failures)))
        wake.clear()
        flushing = owner()
        if flushing is None or stop.is_set():
            return
        try:
            flushing.turn()
            if failures:
                log.info("queued writes reach the database again")
            failures = 0
        except Exception as error:
            failures += 1
            if failures == 1:
                log.warning("queued writes wait: a flush failed (%s)", type(error).__name__)
        del flushing

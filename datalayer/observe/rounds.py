"""A daemon thread that does something every so often, for as long as its owner lives."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

log = logging.getLogger("datalayer")


class Rounds:
    """Calls ``act``, a bound method whose owner it does not keep alive, every ``period`` seconds. Thread-safe.

    The first call comes one period after :meth:`start`. What ``act`` raises is logged once until it works again.
    """

    def __init__(self, name: str, period: float, act: Callable[[], object]) -> None:
        self._name = name
        self._period = period
        self._act = weakref.WeakMethod(act)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; nothing if it has begun or is closed."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                arguments = self._name, self._period, self._act, self._stop
                self._thread = threading.Thread(target=_run, args=arguments, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop, after a call that is under way. Idempotent."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def reset_after_fork(self) -> None:
        """The parent's thread stays the parent's; the child gets one of its own if there was one."""
        started = self._thread is not None and not self._stop.is_set()
        self._lock, self._stop, self._thread = threading.Lock(), threading.Event(), None
        if started:
            self.start()


def _run(name: str, period: float, find: weakref.WeakMethod[Callable[[], object]], stop: threading.Event) -> None:
    failed = False
    while not stop.wait(period):
        act = find()
        if act is None:
            return
        try:
            act()
            failed = False
        except Exception:
            if not failed:
                log.exception("%s failed, and will be tried again every %g s", name, period)
            failed = True
        del act

"""Something that is done every so often, in a thread of its own, for as long as its owner lives."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from .daemon import Daemon

log = logging.getLogger("datalayer")


class Rounds(Daemon):
    """Calls ``act``, a bound method whose owner it does not keep alive, every ``period`` seconds. Thread-safe.

    The first call comes one period after :meth:`start`, or ``at_once``. What ``act`` raises is logged once until it
    works again.
    """

    def __init__(self, name: str, period: float, act: Callable[[], object], *, at_once: bool = False) -> None:
        super().__init__(name, _run, name, period, 0.0 if at_once else period, weakref.WeakMethod(act))


def _run(
    name: str, period: float, pause: float, find: weakref.WeakMethod[Callable[[], object]], stop: threading.Event
) -> None:
    failed = False
    while not stop.wait(pause):
        pause = period
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

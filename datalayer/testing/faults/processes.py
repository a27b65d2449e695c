"""What happens to processes: they stand still for longer than every timeout, or die at a chosen point."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from datalayer.contracts.pauses import pause_at


def freeze(pid: int, seconds: float) -> threading.Timer:
    """SIGSTOP now and SIGCONT after ``seconds``; the timer that will do so may be joined."""
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(seconds, _signal, (pid, signal.SIGCONT))
    timer.daemon = True
    timer.start()
    return timer


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it was killed while it stood still


def kill_at(name: str, now: Callable[[], bool]) -> AbstractContextManager[None]:
    """Whoever passes this point of the protocol while ``now()`` is true kills its own process, as kill -9 does."""

    def pass_or_die() -> None:
        if now():
            os.kill(os.getpid(), signal.SIGKILL)

    return pause_at(name, pass_or_die)


def die_with_parent() -> None:
    """In a child: be killed when the thread that started it ends (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)

"""One thread that works beside the application for as long as its owner wants, or lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Daemon:
    """Runs ``run(*arguments, stop)`` in a daemon thread; ``run`` returns soon after the event ``stop`` is set.

    Thread-safe. The thread keeps the arguments alive: whoever should not be kept is handed over as a weak reference.
    ``started`` may be read without a lock.
    """

    def __init__(self, name: str, run: Callable[..., object], *arguments: Any) -> None:
        self.started = False
        self._name = name
        self._run = run
        self._arguments = arguments
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; nothing if it has begun or is closed."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                arguments = *self._arguments, self._stop
                self._thread = threading.Thread(target=self._run, args=arguments, name=self._name, daemon=True)
                self._thread.start()
                self.started = True

    def close(self) -> None:
        """Stop, after what is under way; waits for five seconds at most. Idempotent."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def reset_after_fork(self) -> bool:
        """In the child: the parent's thread stays the parent's. Says whether there was one."""
        started = self.started and not self._stop.is_set()
        self._lock, self._stop, self._thread, self.started = threading.Lock(), threading.Event(), None, False
        return started

"""What all privately started servers share: a folder, a process, and an end."""

from __future__ import annotations

import atexit
import os
from abc import ABC, abstractmethod

from datalayer.testing.servers.child import Child
from datalayer.testing.servers.folder import PrivateFolder


class Private(ABC):
    """A server that belongs to this process alone, so that a test may kill, pause and restart it. Not thread-safe."""

    def __init__(self, kind: str) -> None:
        self._folder = PrivateFolder(kind)
        self._owner = os.getpid()
        self._child: Child | None = None
        atexit.register(self.stop)

    @abstractmethod
    def _launch(self) -> Child:
        """Start the process on the port and the data that this server has, and wait until it answers."""

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    @property
    def pid(self) -> int:
        return self._running().pid

    def kill(self) -> None:
        """SIGKILL, children included; the data stay, and ``restart()`` brings it back on the same port."""
        self._running().kill()

    def pause(self) -> None:
        """Freeze it: clients stay connected and get no answer."""
        self._running().pause()

    def resume(self) -> None:
        """Undo ``pause()``."""
        self._running().resume()

    def restart(self) -> None:
        """Stop it in an orderly way if it still runs, then start it with the same port and data."""
        if self._child is not None:
            self._child.stop()
        self._child = self._launch()

    def stop(self) -> None:
        """End it and remove its folder. May be called twice; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        if self._child is not None:
            self._child.stop()
        self._folder.remove()

    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{type(self).__name__} was never started")
        return self._child

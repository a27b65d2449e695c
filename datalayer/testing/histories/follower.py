"""Reads the files of a history, while they grow or afterwards, and gives a checker their events in order.

Events are held back for ``grace`` seconds: by then what was written before them is in its file, whatever file it is.
"""

from __future__ import annotations

import heapq
import time
from itertools import count
from math import inf
from pathlib import Path

from datalayer.testing.histories.checker import Checker
from datalayer.testing.histories.events import Event, parse


class Follower:
    """Follows every ``*.log`` of a folder, those that appear later too. Not thread-safe."""

    def __init__(self, folder: Path, checker: Checker, *, grace: float = 1.0) -> None:
        self.folder = folder
        self.checker = checker
        self._grace = grace
        self._offsets: dict[Path, int] = {}
        self._held: list[tuple[float, int, Event]] = []
        self._order = count()

    def follow(self) -> int:
        """Feed what is old enough by now; returns how many events that were."""
        until = time.monotonic() - self._grace  # before the files are read: they hold all that happened until then
        return self._feed(until)

    def drain(self) -> int:
        """Feed everything. Call it when all writers have ended."""
        return self._feed(inf)

    def _feed(self, until: float) -> int:
        for path in sorted(self.folder.glob("*.log")):
            self._take(path)
        fed = 0
        while self._held and self._held[0][0] <= until:
            self.checker.feed(heapq.heappop(self._held)[2])
            fed += 1
        return fed

    def _take(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        for line in whole.splitlines():
            event = parse(line)
            heapq.heappush(self._held, (event.end, next(self._order), event))

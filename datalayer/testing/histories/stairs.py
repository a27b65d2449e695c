"""The largest number that was known at a moment: a staircase in time."""

from __future__ import annotations

from bisect import bisect_left


class Stairs:
    """Only grows: one step per number, so its size is that of the versions, not of the reads. Not thread-safe."""

    __slots__ = ("_heights", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._heights: list[int] = []

    def climb(self, time: float, height: int) -> None:
        """From ``time`` on it is at least ``height``. Late news are sorted in."""
        at = bisect_left(self._times, time)
        if at and self._heights[at - 1] >= height:
            return
        end = at
        while end < len(self._heights) and self._heights[end] <= height:
            end += 1
        self._times[at:end] = [time]
        self._heights[at:end] = [height]

    def before(self, time: float) -> int:
        """The height just before ``time``; -1 before the first step."""
        at = bisect_left(self._times, time)
        return self._heights[at - 1] if at else -1

    @property
    def top(self) -> int:
        return self._heights[-1] if self._heights else -1

"""A progress bar for long work, on a terminal only: what goes into a file or a pipe stays free of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 30
_PAUSE = 0.1


class Bar:
    """Called with the number of rows done, draws itself at most ten times a second; ``close()`` ends its line.

    ``total`` None: nobody knows, so that only number and rate are shown. Not thread-safe.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._clock = clock
        self._shown = self._stream.isatty()
        self._began = clock()
        self._drawn = -_PAUSE
        self._done = 0

    def __call__(self, done: int) -> None:
        self._done = done
        if self._shown and self._clock() - self._began - self._drawn >= _PAUSE:
            self._draw()

    def _draw(self) -> None:
        took = self._drawn = self._clock() - self._began
        rate = f"{self._done / took:,.0f}/s" if took > 0 else ""
        if self._total:
            filled = "#" * min(_WIDTH, _WIDTH * self._done // self._total)
            text = f"[{filled:<{_WIDTH}}] {self._done:,}/{self._total:,}"
        else:
            text = f"{self._done:,}"
        self._stream.write(f"\r{self._what} {text} {rate}\033[K")
        self._stream.flush()

    def close(self) -> None:
        """Draw the end and go to the next line."""
        if self._shown:
            self._draw()
            self._stream.write("\n")
            self._stream.flush()

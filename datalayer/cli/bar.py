"""A progress bar for commands that take their time: a line that is drawn over itself, on a terminal only."""

from __future__ import annotations

from typing import Self, TextIO

_WIDTH = 30


class Bar:
    """Call it with what is being done, how much is done and how much there is. Silent unless ``stream`` is a terminal
    and ``shown``; ends its line at the end of the block. ``of`` may be ``"of about"``, where the end is an estimate."""

    def __init__(self, stream: TextIO, *, unit: str, of: str = "of", shown: bool = True) -> None:
        self._stream = stream
        self._unit = unit
        self._of = of
        self._shown = shown and stream.isatty()
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._stream.write("\n")

    def __call__(self, text: str, done: int, total: int) -> None:
        if not self._shown:
            return
        filled = _WIDTH * min(done, total) // max(total, 1)
        self._stream.write(f"\r{text} [{'#' * filled:{_WIDTH}}] {done:,} {self._of} {total:,} {self._unit}")
        self._stream.flush()
        self._drawn = True

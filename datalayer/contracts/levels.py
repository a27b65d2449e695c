"""How fresh a read must be, and how long that demand holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

from ..errors import ConfigError

Consistency = Literal["cached", "shared", "database"]

_NAMES: tuple[str, ...] = get_args(Consistency)


def check_level(level: str) -> Consistency:
    """The level itself; ConfigError for anything that is not one."""
    if level not in _NAMES:
        raise ConfigError(f"consistency is {level!r}; expected one of {', '.join(map(repr, _NAMES))}")
    return level  # type: ignore[return-value]


class Levels:
    """The level that holds here and now for one layer: blocks belong to a context, the kill switch to everybody.

    ``blocks`` is empty while nothing is switched, so that a hot path may test its truth and nothing else.
    """

    def __init__(self) -> None:
        self.blocks: list[object] = []
        self._off = 0
        self._level: ContextVar[Consistency] = ContextVar("datalayer_consistency", default="cached")

    def current(self) -> Consistency:
        return "database" if self._off else self._level.get()

    @property
    def off(self) -> bool:
        """Whether the kill switch is thrown."""
        return self._off > 0

    @contextmanager
    def at(self, level: str) -> Iterator[None]:
        """Reads of this context are at least ``level`` inside the block."""
        token = self._level.set(check_level(level))
        mark = object()
        self.blocks.append(mark)
        try:
            yield
        finally:
            self.blocks.remove(mark)
            self._level.reset(token)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Every read of every thread goes to the database inside the block; writes still invalidate."""
        mark = object()
        self.blocks.append(mark)
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1
            self.blocks.remove(mark)

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


def stronger(one: Consistency, other: Consistency) -> Consistency:
    """The level of the two that promises more."""
    return one if _NAMES.index(one) >= _NAMES.index(other) else other


class Levels:
    """The level that holds here and now for one layer: blocks belong to a context, the kill switch to everybody.

    ``blocks`` is empty while nothing is switched, so that a hot path may test its truth and nothing else.
    """

    def __init__(self) -> None:
        self.blocks: list[object] = []
        self._off = 0
        self._level: ContextVar[Consistency] = ContextVar("datalayer_consistency", default="cached")
        self._floor: ContextVar[Consistency] = ContextVar("datalayer_floor", default="cached")

    def resolve(self, asked: Consistency | None = None) -> Consistency:
        """The level of a read that asks for one, or for none: the block's, never below the floor."""
        if self._off:
            return "database"
        level = self._level.get() if asked is None else check_level(asked)
        return stronger(level, self._floor.get())

    @contextmanager
    def at(self, level: str) -> Iterator[None]:
        """Reads of this context that ask for no other level have this one inside the block."""
        with self._set(self._level, check_level(level)):
            yield

    @contextmanager
    def at_least(self, level: str) -> Iterator[None]:
        """Reads of this context have at least this level inside the block, whatever they ask for."""
        with self._set(self._floor, stronger(check_level(level), self._floor.get())):
            yield

    @contextmanager
    def _set(self, variable: ContextVar[Consistency], level: Consistency) -> Iterator[None]:
        token = variable.set(level)
        mark = object()
        self.blocks.append(mark)
        try:
            yield
        finally:
            self.blocks.remove(mark)
            variable.reset(token)

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

"""The queued writes of one model, for its readers."""

from __future__ import annotations

from typing import Any

from ..contracts.coherence import Absent
from ..contracts.keys import key_text
from .behind import Behind

Values = tuple[Any, ...]


class Backlog:
    """What the ladder of one model asks: see :class:`datalayer.tiers.needs.Backlog`."""

    def __init__(self, behind: Behind, space: str) -> None:
        self._behind = behind
        self._space = space

    def newest(self, key: Values, *, vouched: bool) -> Values | Absent | None:
        return self._behind.newest(f"{self._space}:{key_text(key)}", vouched=vouched)

    def settle(self, key: Values) -> None:
        self._behind.settle(f"{self._space}:{key_text(key)}")

"""Counts the SQL statements that an engine runs, for tests that assert cost."""

from __future__ import annotations

from typing import Any, Self

import sqlalchemy as sa


class Statements:
    """The texts of the statements of one engine while the block is open. Thread-safe to read.

    While somebody listens, the layer's reads by key take the Core path, so that they are seen too.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.texts: list[str] = []

    def __enter__(self) -> Self:
        sa.event.listen(self._engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(self._engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, text: str, *_: Any) -> None:
        self.texts.append(text)

    def __len__(self) -> int:
        return len(self.texts)

    def taken(self) -> int:
        """How many there were since the last call."""
        count = len(self.texts)
        self.texts.clear()
        return count

"""Times the statements of a layer: those of its engine by SQLAlchemy's events, the driver's own reads by themselves.

Only installed where somebody wants to know. A pair of looks at the clock around each statement is all that is measured
with; waiting for a connection of the pool is not part of a statement's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from ..contracts.observe import MetricsRecorder
from ..observe.statements import Statements
from .failures import driver_kind, error_kind
from .l3 import Statement

_BEGAN = "_datalayer_began"


class Timing:
    """Tells ``statements`` and, if there is one, ``recorder`` how long each statement took. Thread-safe.

    For the recorder the operation is ``"get"`` (the driver's reads by key) or the first word of the statement, such as
    ``"select"``.
    """

    def __init__(
        self,
        engine: sa.Engine,
        reading: sa.Engine | None,
        statements: Statements | None,
        recorder: MetricsRecorder | None,
    ) -> None:
        self.statements = statements
        self._recorder = recorder
        self._listeners: list[tuple[sa.Engine, str, Callable[..., Any]]] = [
            (engine, "before_cursor_execute", self._before),
            (engine, "after_cursor_execute", self._after),
            (engine, "handle_error", self._failed),
        ]
        if reading is not None and recorder is not None:  # whose connections fail without a statement
            self._listeners.append((reading, "handle_error", self._failed))

    def install(self) -> None:
        for engine, name, listener in self._listeners:
            event.listen(engine, name, listener)

    def remove(self) -> None:
        for engine, name, listener in self._listeners:
            event.remove(engine, name, listener)

    def statement(self, *arguments: Any, **options: Any) -> Statement:
        """A statement of the driver's that is timed."""
        return TimedStatement(self, *arguments, **options)

    def teller(self, operation: str) -> Callable[..., None]:
        """:meth:`took` for one operation, by the shortest way."""
        if self.statements is not None and self._recorder is None:
            return self.statements.took
        return partial(self.took, operation)

    def took(self, operation: str, text: str, seconds: float, cursor: Any = None, *, failed: bool = False) -> None:
        if self.statements is not None:
            self.statements.took(text, seconds, cursor, failed=failed)
        if self._recorder is not None:
            self._recorder.latency("l3", operation, seconds)

    def error(self, kind: str) -> None:
        if self._recorder is not None:
            self._recorder.error("l3", kind)

    def _before(self, _connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:
        if context is not None:
            setattr(context, _BEGAN, perf_counter())

    def _after(self, _connection: Any, cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        began = getattr(context, _BEGAN, None)
        if began is None:
            return
        seconds = perf_counter() - began
        if self._recorder is None and self.statements is not None:
            self.statements.took(statement, seconds, cursor)
        else:
            self.took(_verb(statement), statement, seconds, cursor)

    def _failed(self, context: Any) -> None:
        began = getattr(context.execution_context, _BEGAN, None)
        if began is not None and context.statement is not None:
            self.took(_verb(context.statement), context.statement, perf_counter() - began, failed=True)
        if not context.is_pre_ping:
            self.error(error_kind(context))


class TimedStatement(Statement):
    """A statement of the driver's that says how long it took."""

    def __init__(self, timing: Timing, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timing = timing
        self._run = super().run
        self._took = timing.teller("get")

    def run(self, connection: Any, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        began = perf_counter()
        try:
            rows = self._run(connection, values)
        except Exception as error:
            self._took(self.text, perf_counter() - began, failed=True)
            self._timing.error(driver_kind(error))
            raise
        self._took(self.text, perf_counter() - began)
        return rows


def _verb(statement: str) -> str:
    word = statement.lstrip(" \n\t(").partition(" ")[0].lower()
    return word if word in _VERBS else "other"


_VERBS = frozenset(("select", "insert", "update", "delete", "with", "copy", "merge", "savepoint", "release"))

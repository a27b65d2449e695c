"""Connections are not asked for in vain: a server that does not answer would cost every caller the connect timeout.

An attempt that fails at once, because nobody listens or the password is wrong, costs nothing and is not counted: a
database that comes back is used by the next caller.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from .breaker import Breaker

#: Seconds; an attempt that failed sooner is not held against the server.
_SLOW = 0.25


class Connecting:
    """Makes the connections of one engine. Thread-safe.

    While the breaker is open, callers get the driver's last error again, without waiting: one of them in each
    ``breaker_reset`` tries.
    """

    def __init__(self, engine: sa.Engine, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failure: tuple[type[Exception], str] | None = None
        sa.event.listen(engine, "do_connect", self._connect)

    def _connect(self, dialect: sa.Dialect, _record: Any, arguments: Any, options: Any) -> Any:
        failure = self._failure
        if not self._breaker.allow() and failure is not None:
            kind, text = failure
            raise kind(f"{text} (not tried again just now: the last attempts took too long)")
        began = time.monotonic()
        try:
            connection = dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError as error:
            if time.monotonic() - began >= _SLOW:
                self._failure = type(error), str(error)
                self._breaker.failure()
            else:
                self._breaker.success()
            raise
        self._breaker.success()
        return connection

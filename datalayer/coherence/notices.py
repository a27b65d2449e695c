"""Hears of writes that did not come through any layer: what the triggers of ``external_writes`` models notify.

One thread of a process listens on its own connection. While it does not hear (before the first LISTEN, and whenever the
connection is lost) the models concerned bypass the caches of this process; once it hears again, what was cached is
forgotten first. So an outside commit is served stale for as long as PostgreSQL takes to deliver a notification.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import sqlalchemy as sa

from ..contracts.coherence import WriteSet
from ..observe.daemon import Daemon

log = logging.getLogger("datalayer.coherence")

CHANNEL = "datalayer_writes"

_TURN = 0.25
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)

_PARSE: Mapping[type, Callable[[Any], Any]] = {
    int: lambda value: value if type(value) is int else None,
    str: lambda value: value if type(value) is str else None,
    uuid.UUID: lambda value: uuid.UUID(value),
    dt.date: lambda value: dt.date.fromisoformat(value),
}


class Silencer(Protocol):
    """What the listener needs of :class:`~datalayer.coherence.local.Coherence`."""

    def suspend(self, write_set: WriteSet) -> Any: ...

    def resume(self, suspended: Any) -> None: ...

    def forget(self, write_set: WriteSet) -> None: ...


class Notices:
    """The listener of one layer. Thread-safe. It starts with the first table that is to be watched."""

    def __init__(self, engine: sa.Engine, silencer: Silencer) -> None:
        self._engine = engine
        self._silencer = silencer
        self._lock = threading.Lock()
        self._tables: dict[str, tuple[type, ...]] = {}
        self._suspended: dict[str, Any] = {}
        self._hears = False
        self._daemon = Daemon("datalayer-notices", _run, weakref.ref(self))

    def watch(self, table: str, key_types: tuple[type, ...]) -> None:
        """From now on rows of this table (its full name) are cached only while outside writes are heard."""
        with self._lock:
            if table in self._tables:
                return
            self._tables[table] = key_types
            self._suspended[table] = self._silencer.suspend(WriteSet(tables={table}))
            self._daemon.start()
            hears = self._hears
        if hears:
            self._resume()

    def connect(self) -> Any:
        """A connection that listens; afterwards the watched tables are cached again."""
        pooled = self._engine.raw_connection()
        connection: Any = pooled.dbapi_connection
        pooled.detach()
        try:
            connection.execute(f"LISTEN {CHANNEL}")
            with self._lock:
                self._hears = True
            self._resume()
        except BaseException:
            connection.close()
            raise
        return connection

    def _resume(self) -> None:
        with self._lock:
            suspended, self._suspended = self._suspended, {}
        for table, marks in suspended.items():
            self._silencer.forget(WriteSet(tables={table}))
            self._silencer.resume(marks)

    def deaf(self) -> None:
        """The connection is gone: whatever is written now is not heard."""
        with self._lock:
            self._hears = False
            for table in self._tables.keys() - self._suspended.keys():
                self._suspended[table] = self._silencer.suspend(WriteSet(tables={table}))

    def hear(self, payload: str) -> None:
        """Forget what a notification names."""
        table, keys = self._read(payload)
        if table is None:
            return
        written = WriteSet()
        if keys is None:
            written.tables.add(table)
        for key in keys or ():
            written.touch(table, key, (table,))
        self._silencer.forget(written)

    def _read(self, payload: str) -> tuple[str | None, list[tuple[Any, ...]] | None]:
        try:
            message = json.loads(payload)
            names = f"{message['schema']}.{message['table']}", message["table"]
            table = next((name for name in names if name in self._tables), None)
        except (ValueError, KeyError, TypeError):
            log.warning("a notification on %s cannot be read", CHANNEL)
            return None, None
        return table, _keys(message.get("keys"), self._tables[table]) if table is not None else None

    def close(self) -> None:
        self._daemon.close()

    def reset_after_fork(self) -> None:
        """The parent's thread and connection stay the parent's."""
        tables, self._tables = self._tables, {}
        self._daemon.reset_after_fork()
        self._lock, self._suspended, self._hears = threading.Lock(), {}, False
        for table, key_types in tables.items():
            self.watch(table, key_types)


def _keys(found: Any, key_types: tuple[type, ...]) -> list[tuple[Any, ...]] | None:
    """The keys of a notification as they are mapped; None when they do not tell, and any row may have changed."""
    if not isinstance(found, list):
        return None
    try:
        keys = [tuple(_PARSE[kind](value) for kind, value in zip(key_types, key, strict=True)) for key in found]
    except (KeyError, TypeError, ValueError):
        return None
    return None if any(None in key for key in keys) else keys


def _run(owner: weakref.ref[Notices], stop: threading.Event) -> None:
    failures = 0
    while not stop.is_set() and (notices := owner()) is not None:
        connection = None
        try:
            connection = notices.connect()
            del notices
            failures = 0
            _listen(owner, connection, stop)
        except Exception as error:
            if not failures:
                log.warning("outside writes are not heard (%s); their models bypass the caches", type(error).__name__)
            failures += 1
        finally:
            if (notices := owner()) is not None and not stop.is_set():
                notices.deaf()
            del notices
            if connection is not None:
                connection.close()
        stop.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])


def _listen(owner: weakref.ref[Notices], connection: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        for notification in connection.notifies(timeout=_TURN):
            notices = owner()
            if notices is None or stop.is_set():
                return
            notices.hear(notification.payload)
            del notices
        if owner() is None:
            return

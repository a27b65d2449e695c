"""Who wants to know what happens in a store.

Listeners run in the thread of the writer, after the fact and outside the store's locks, so that a listener may use the
store. Without listeners an event costs one look at an empty tuple.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from ..contracts.store import StoreEvent

Listener = Callable[[StoreEvent], None]

_log = logging.getLogger("datalayer.kv")


class Events:
    """The listeners of one store. Thread-safe."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener after each event, until the returned function is called."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return unsubscribe

    def tell(self, kind: str, keys: Iterable[bytes] = ()) -> None:
        """Report an event to everybody; a listener that raises is logged and the others are still called."""
        if not self._listeners:
            return
        event = StoreEvent(kind, self._store, tuple(keys))
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                _log.exception("a listener of store %r raised on %r", self._store, kind)
